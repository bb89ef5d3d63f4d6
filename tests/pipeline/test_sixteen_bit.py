"""16-bit images are refused, or scaled by a stated range, the same on every path."""

import dataclasses
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import spectrum
from pipeline.check import check
from pipeline.datasets import table
from pipeline.datasets.kinds import read_training
from pipeline.datasets.records import Index
from pipeline.errors import BadImageError, InputError
from pipeline.guard import decode
from pipeline.loader import EvaluationLoader, TrainingLoader
from pipeline.options import DataOptions
from pipeline.reader import Reader
from pipeline.sixteen_bit import MAX_COUNT, read_counts, suggested_range, to_8_bit
from tests import trees
from tests.front_door import call, refused
from tests.untrained import make_run

CPU = torch.device("cpu")
LOW, HIGH = 20000, 23000
OPTIONS = DataOptions(
    height_px=32, width_px=16, p=4, k=4, threads=2, eval_batch=7, cache="none", max_bad=1.0
)
TRAIN = DataOptions(split="train")
WITH_RANGE = dataclasses.replace(OPTIONS, range_16bit=(LOW, HIGH))


def png(counts: np.ndarray, colour_type: int) -> np.ndarray:
    """A PNG file with 16 bits per channel; PIL writes only gray ones."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = counts.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in counts)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return np.frombuffer(b"\x89PNG\r\n\x1a\n" + parts, np.uint8)


@pytest.fixture(scope="module")
def thermal(tmp_path_factory) -> Path:
    """A CSV of 8-bit RGB images in three formats and 16-bit infrared ones."""
    file = trees.table(tmp_path_factory.mktemp("thermal"))
    lines = file.read_text().splitlines()
    for n, line in enumerate(lines):
        path, *rest = line.split(",")
        if "ir" not in rest:
            continue
        gray = np.asarray(Image.open(file.parent / path).convert("L")).astype(np.uint16)
        name = path.replace(".", "-") + ".png"
        Image.fromarray(LOW - 500 + 15 * gray).save(file.parent / name)
        lines[n] = ",".join((name, *rest))
    file.write_text("\n".join(lines) + "\n")
    return file


def expected(index: Index, row: int) -> np.ndarray:
    with Image.open(index.path(row)) as opened:
        if not opened.mode.startswith("I"):
            return np.asarray(opened.convert("RGB"))
        counts = np.asarray(opened).astype(int)
    gray = np.rint(np.clip((counts - LOW) * 255 / (HIGH - LOW), 0, 255)).astype(np.uint8)
    return np.stack([gray] * 3, axis=-1)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, ()), (2, (3,)), (4, (2,)), (6, (4,))])
def test_counts_of_every_kind_of_png(colour_type, channels):
    counts = np.random.default_rng(0).integers(0, MAX_COUNT + 1, (9, 7, *channels))
    found = read_counts(png(counts, colour_type))
    has_colours = channels in ((3,), (4,))
    colours = counts[..., :3] if has_colours else counts.reshape(9, 7, -1)[..., :1]
    np.testing.assert_array_equal(found, np.broadcast_to(colours, (9, 7, 3)))


def test_scaling_is_linear_clipped_and_the_same_for_every_image():
    counts = np.array([[0, 99, 100, 101, 355, 400, 610, 611, MAX_COUNT]])
    bmp = to_8_bit(png(counts, 0), 100, 610)
    pixels = np.asarray(Image.open(io.BytesIO(bytes(bmp))))
    np.testing.assert_array_equal(pixels[..., 0], [[0, 0, 0, 0, 128, 150, 255, 255, 255]])
    full = np.arange(MAX_COUNT + 1).reshape(256, 256)
    pixels = np.asarray(Image.open(io.BytesIO(bytes(to_8_bit(png(full, 0), 0, MAX_COUNT)))))
    np.testing.assert_array_equal(pixels[..., 2], np.rint(full / 257))  # as decoders do


def test_evaluation_training_and_cache_see_the_same_pixels(thermal):
    index = read_training(TRAIN, thermal)
    evaluated = torch.cat(list(EvaluationLoader(index, WITH_RANGE, CPU)))
    contents = Reader(index, (LOW, HIGH)).contents(np.arange(len(index)))  # as a report draws them
    for row, (pixels, content) in enumerate(zip(evaluated, contents, strict=True)):
        np.testing.assert_array_equal(decode(content).convert("RGB"), expected(index, row))
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected(index, row))
    for cache in ("none", "host"):
        options = dataclasses.replace(WITH_RANGE, cache=cache, flip=0.0)
        for batch in TrainingLoader(index, options, CPU, 0).epoch(1, spectrum.uniform()):
            originals = batch.images[:, 0].permute(0, 3, 1, 2)
            assert torch.equal(originals, evaluated[batch.rows])


def test_without_16_bit_images_a_range_changes_nothing(tmp_path):
    index = read_training(TRAIN, trees.table(tmp_path))
    without, with_it = (
        torch.cat(list(EvaluationLoader(index, options, CPU))) for options in (OPTIONS, WITH_RANGE)
    )
    assert torch.equal(without, with_it)


def test_without_a_range_16_bit_images_are_refused_by_name_and_skippable(thermal):
    index = read_training(TRAIN, thermal)
    message = r"\.png: has 16 bits per channel; train with --data.range-16bit LOW HIGH, the values"
    for cache in ("none", "host"):
        options = dataclasses.replace(OPTIONS, cache=cache)
        with pytest.raises(BadImageError, match=message):
            list(TrainingLoader(index, options, CPU, 0).epoch(1, spectrum.uniform()))
    with pytest.raises(BadImageError, match=message):
        list(EvaluationLoader(index, OPTIONS, CPU))
    skip = dataclasses.replace(OPTIONS, on_bad_image="skip")
    with pytest.raises(InputError, match="has 16 bits per channel; no readable IR image"):
        list(TrainingLoader(index, skip, CPU, 0).epoch(1, spectrum.uniform()))


def test_a_damaged_16_bit_image_is_replaced(thermal):
    index = read_training(TRAIN, thermal)
    options = dataclasses.replace(WITH_RANGE, on_bad_image="skip")
    first = next(iter(TrainingLoader(index, options, CPU, 0).epoch(1, spectrum.uniform())))
    victim = int(first.rows[first.modality.numpy() == 1][0])
    whole = index.path(victim).read_bytes()
    index.path(victim).write_bytes(whole[:200] + b"\0" * 60 + whole[260:])
    try:
        loader = TrainingLoader(index, options, CPU, 0)
        batches = list(loader.epoch(1, spectrum.uniform()))
    finally:
        index.path(victim).write_bytes(whole)
    assert list(loader.plan.bad) == [victim]
    assert "cannot be decoded" in loader.plan.bad[victim]
    assert victim not in np.concatenate([batch.rows for batch in batches])


def test_check_prints_the_range_to_pass(thermal):
    _, found = check(thermal)
    assert found.faults == []
    (note,) = (warning.text for warning in found.warnings)
    index = table.read_table(thermal).index
    infrared = [np.asarray(Image.open(index.path(r))) for r in np.flatnonzero(index.modality == 1)]
    low, high = min(i.min() for i in infrared), max(i.max() for i in infrared)
    inner = note.split("--data.range-16bit ")[1].split(", which")[0]
    used = f"values from {low} to {high}, "
    assert f"{len(infrared)} images have 16 bits per channel and {used}" in note
    inside = [int(word) for word in inner.split()]
    counts = np.concatenate([i.ravel() for i in infrared])
    assert 0.998 <= ((counts >= inside[0]) & (counts <= inside[1])).mean() <= 1


def test_the_suggested_range_excludes_dead_pixels_and_is_valid():
    histogram = np.zeros(MAX_COUNT + 1, np.int64)
    histogram[20000:23000] = 1000
    histogram[[0, MAX_COUNT]] = 100
    low, high = suggested_range(histogram)
    assert 20000 <= low < 20010
    assert 22990 < high <= 23000
    for count in (0, MAX_COUNT):
        alone = np.bincount([count], minlength=MAX_COUNT + 1)
        low, high = suggested_range(alone)
        DataOptions(range_16bit=(low, high))


def test_a_runs_range_applies_to_eval_embed_and_packs(thermal, tmp_path, capsys):
    run = tmp_path / "run"
    size = {"height_px": 32, "width_px": 16, "eval_batch": 32}
    make_run(
        run, thermal, "people", data=DataOptions(root=thermal, range_16bit=(LOW, HIGH), **size)
    )
    assert call("eval", run, "--device", "cpu") == 0
    packed = tmp_path / "packed"
    assert call("data", "pack", thermal, "--out", packed) == 0
    embedded = []
    for name, options in (("loose", ()), ("packed", ("--data-root", packed))):
        folder = tmp_path / f"{name}-features"
        assert call("embed", run, "--out", folder, "--device", "cpu", *options) == 0
        embedded.append(np.load(next(folder.rglob("query.npz")))["features"])
    np.testing.assert_array_equal(*embedded)
    without = tmp_path / "without"
    make_run(without, thermal, "people", data=DataOptions(root=thermal, **size))
    assert "has 16 bits per channel" in refused(capsys, "eval", without, "--device", "cpu")


@pytest.mark.parametrize("wrong", [(5, 5), (9, 3), (-1, 8), (0, MAX_COUNT + 1)])
def test_an_invalid_range_is_refused(wrong):
    with pytest.raises(InputError, match=r"--data.range-16bit .*: must be two numbers in 0…65535"):
        DataOptions(range_16bit=wrong)
