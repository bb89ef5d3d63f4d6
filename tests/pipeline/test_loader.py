"""The epoch boundary, batches in flight, and unreadable files."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader, TrainingLoader
from pipeline.options import DataOptions
from tests import trees

CPU = torch.device("cpu")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Three identities, eight tiny images each, half of them infrared; made anew per test."""
    names = []
    for i in range(24):
        names.append(f"{i:02d}.jpg")
        Image.fromarray(np.full((40, 20, 3), 10 * i, np.uint8)).save(tmp_path / names[-1])
    pids = np.repeat(np.arange(3), 8)
    modality = np.tile([0, 1], 12).astype(np.uint8)
    return Index(tmp_path, np.array(names, np.bytes_), pids, pids, modality)


def loader(index: Index, prefetch: int = 2) -> TrainingLoader:
    options = DataOptions(p=2, k=2, height_px=32, width_px=16, prefetch=prefetch, threads=2)
    return TrainingLoader(index, options, CPU, seed=1)


def spectra(batches) -> list[set[int]]:
    return [set(b.spectrum[b.modality == 0].tolist()) for b in batches]


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_the_first_batch_after_an_update_follows_the_new_probabilities(index, prefetch):
    training = loader(index, prefetch)
    for epoch, code in enumerate([2, 0, 3, 1]):
        batches = list(training.epoch(epoch, np.eye(4)[code]))
        assert len(batches) == len(training) == 6
        assert all((batch.probability == np.eye(4)[code]).all() for batch in batches)
        assert spectra(batches) == [{code}] * 6


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_batches_do_not_depend_on_the_prefetch_depth_or_on_earlier_epochs(index, prefetch):
    training = loader(index, prefetch)
    list(training.epoch(5, spectrum.uniform()))
    got = list(training.epoch(7, spectrum.uniform()))
    expected = list(loader(index, 3).epoch(7, spectrum.uniform()))
    for a, b in zip(got, expected, strict=True):
        assert (a.rows == b.rows).all()
        assert (a.images == b.images).all()
        assert (a.spectrum == b.spectrum).all()


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_an_epoch_abandoned_half_way_leaves_nothing_behind(index, prefetch):
    training = loader(index, prefetch)
    for batch in training.epoch(1, np.eye(4)[0]):
        assert set(batch.spectrum.tolist()) == {0, -1}
        break
    batches = list(training.epoch(2, np.eye(4)[3]))
    assert len(batches) == 6
    assert spectra(batches) == [{3}] * 6


def corrupt(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_bytes(b"this is no picture, whatever its name says" * 10)
    elif damage == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_a_file_that_cannot_be_read_is_named(index, damage, kind):
    bad = index.path(13)
    if kind == "training":
        run = loader(index).epoch(1, spectrum.uniform())
    else:
        options = DataOptions(height_px=32, width_px=16, eval_batch=4, threads=2)
        run = iter(EvaluationLoader(index, options, CPU))
    corrupt(bad, damage)
    with pytest.raises(InputError, match=str(bad)):
        list(run)


@pytest.mark.parametrize("prefetch", [1, 2, 4])
@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_after_a_bad_file_the_loader_still_works(index, damage, prefetch):
    training = loader(index, prefetch)
    bad = index.path(13)
    kept = bad.with_suffix(".kept")
    shutil.copy(bad, kept)
    corrupt(bad, damage)
    with pytest.raises(InputError):
        list(training.epoch(1, spectrum.uniform()))
    os.replace(kept, bad)
    batches = list(training.epoch(2, np.eye(4)[3]))
    assert len(batches) == 6
    assert spectra(batches) == [{3}] * 6


def test_paths_need_not_be_ascii(tmp_path, index):
    odd = tmp_path / "Überwachung 駅"
    odd.mkdir()
    for row in range(len(index)):
        shutil.copy(index.path(row), odd)
    moved = Index(odd, index.paths, index.pids, index.camids, index.modality)
    assert len(list(loader(moved).epoch(1, spectrum.uniform()))) == 6


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("k", 3, r"--data.k 3: must be even"),
        ("p", 1, r"--data.p 1: must be at least 2"),
        ("prefetch", 0, r"--data.prefetch 0: must be at least 1"),
        ("jitter", 1.5, r"--data.jitter 1.5: must be in 0…1"),
        ("height_px", 8, r"--data.height-px 8: must be at least 16"),
    ],
)
def test_options_that_cannot_work_are_refused(field, value, message):
    with pytest.raises(InputError, match=message):
        DataOptions(**{field: value})


def test_every_format_of_a_table_is_decoded_as_pil_decodes_it(tmp_path):
    # RegDB's images are BMP files; a table may hold JPEG, PNG and BMP.
    index = read_training(DataOptions(split="train"), trees.table(tmp_path))
    options = DataOptions(height_px=32, width_px=16, eval_batch=7)
    found = torch.cat(list(EvaluationLoader(index, options, CPU)))
    assert {index.path(row).suffix for row in range(len(index))} == {".jpg", ".png", ".bmp"}
    for row, pixels in enumerate(found):
        expected = np.asarray(Image.open(index.path(row)).convert("RGB"))
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
