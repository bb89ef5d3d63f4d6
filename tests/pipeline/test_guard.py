"""Whatever a file holds, it is usable or has a flaw; checking it never raises."""

import io
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import guard, spectrum
from pipeline.check import check
from pipeline.datasets.kinds import read_training
from pipeline.guard import Flaw, check_header, why_undecodable
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions
from pipeline.picture import Examination
from train.evaluation.known_files import digests_of

CPU = torch.device("cpu")
P_HAT = spectrum.uniform()
FORMATS = ("BMP", "PNG", "JPEG")


def saved(format: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 3), np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def with_bmp_size(width: int, height: int) -> bytes:
    bmp = bytearray(saved("BMP"))
    bmp[18:26] = b"".join(n.to_bytes(4, "little", signed=True) for n in (width, height))
    return bytes(bmp)


ABSURD = {
    "negative width": with_bmp_size(-20, 40),
    "wide": with_bmp_size(2**31 - 1, 40),
    "high": with_bmp_size(20, 2**31 - 1),
    "nothing": with_bmp_size(0, 0),
    "lowest": with_bmp_size(-(2**31), -(2**31)),
}


@pytest.mark.parametrize("content", ABSURD.values(), ids=ABSURD)
def test_absurd_headers_are_flaws_in_check_and_skippable_in_training(
    more_people, tmp_path, content
):
    root = Path(shutil.copytree(more_people, tmp_path / "people"))
    options = DataOptions(
        height_px=32, width_px=16, p=4, k=4, threads=2, on_bad_image="skip", cache="none"
    )
    index = read_training(options, root)
    victim = int(next(iter(TrainingLoader(index, options, CPU, 0).epoch(1, P_HAT))).rows[0])
    index.path(victim).write_bytes(content)
    _, found = check(root)
    assert [fault.where for fault in found.faults] == [str(index.path(victim).relative_to(root))]
    loader = TrainingLoader(index, options, CPU, 0)
    rows = np.concatenate([batch.rows for batch in loader.epoch(1, P_HAT)])
    assert list(loader.plan.bad) == [victim]
    assert victim not in rows


def test_check_warns_of_a_jpeg_that_was_cut_and_closed(more_people, tmp_path):
    root = Path(shutil.copytree(more_people, tmp_path / "people"))
    file = next(root.glob("cam2/*/0001.jpg"))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 3 // 5] + b"\xff\xd9")
    _, found = check(root)
    assert found.faults == []
    ((kind, where, text),) = ((w.kind, w.where, w.text) for w in found.warnings)
    assert (kind, where) == ("cut short", str(file.relative_to(root)))
    assert re.fullmatch(r"is cut short: the lower \d+% of it is flat, filled in by .*", text)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_headers_raise_nothing(format):
    rng = random.Random(0)
    whole = saved(format)
    assert check_header(np.frombuffer(whole, np.uint8)).flaw is None
    num_flaws = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(60)] = rng.randrange(256)
        content = np.frombuffer(bytes(damaged), np.uint8)
        flaw = Examination().flaw_of(content)
        num_flaws += flaw is not None
        assert flaw is None or "\n" not in flaw.text
        assert (why_undecodable(content) is None) or flaw is not None
    assert num_flaws > 20


@pytest.mark.parametrize("error", [ZeroDivisionError("a\nb"), RecursionError(), Exception("x")])
def test_any_exception_of_pil_is_a_flaw_of_the_file(monkeypatch, error):
    monkeypatch.setitem(Image.OPEN, "PNG", (raising(error), Image.OPEN["PNG"][1]))
    flaw = why_undecodable(np.frombuffer(saved("PNG"), np.uint8))
    assert isinstance(flaw, Flaw)
    message = " ".join(str(error).split()) or type(error).__name__
    assert flaw == Flaw("damaged header", f"cannot be decoded ({message})")


def test_out_of_memory_is_not_a_flaw_of_the_file(monkeypatch):
    monkeypatch.setitem(Image.OPEN, "PNG", (raising(MemoryError()), Image.OPEN["PNG"][1]))
    with pytest.raises(MemoryError):
        why_undecodable(np.frombuffer(saved("PNG"), np.uint8))


def raising(error: Exception):
    def open_(*_):
        raise error

    return open_


def test_an_impossible_path_is_unreadable():
    flaw = guard.read(Path("a\0.jpg"))
    assert flaw.kind == "unreadable"
    assert "embedded null" in flaw.text  # Python 3.13 names the function, too


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert why_undecodable(tmp_path / "a.jpg") == Flaw(
        "unreadable", "cannot be read (a pipe or a device)"
    )
    _, bad = digests_of([os.fsencode(tmp_path / "a.jpg")], tmp_path, pytest.fail, lambda *_: None)
    assert bad == {0: "cannot be read (not a file)"}
