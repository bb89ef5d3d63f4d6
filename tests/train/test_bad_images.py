"""Unreadable images: named, or replaced by others of the same person and listed."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.errors import InputError
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions
from pipeline.sampler import plan_epoch
from tests.front_door import SMALL, call, refused
from tests.train.test_resume import assert_same_run, lines
from train import run_folder

CPU = torch.device("cpu")
OPTIONS = DataOptions(
    height_px=32, width_px=16, p=4, k=4, threads=2, on_bad_image="skip", max_bad=0.2
)


@pytest.fixture
def root(more_people, tmp_path) -> Path:
    return Path(shutil.copytree(more_people, tmp_path / "people"))


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    lengths = {"empty": 0, "header": 200, "truncated": len(content) // 2}
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: lengths[how]])


@pytest.mark.parametrize("cache", ["none", "host"])
@pytest.mark.parametrize("how", ["missing", "empty", "header", "truncated"])
def test_a_bad_image_is_replaced_by_one_of_the_same_person_and_modality(root, cache, how):
    options = dataclasses.replace(OPTIONS, cache=cache)
    index = read_training(options, root)
    whole = TrainingLoader(index, options, CPU, 0)
    good = [batch.rows for batch in whole.epoch(1, spectrum.uniform())]
    victims = [int(good[1][0]), int(good[2][5]), int(good[-1][-1])]
    for victim in victims:
        damage(index.path(victim), how)

    loader = TrainingLoader(index, options, CPU, 0)
    for _ in range(2):  # the second epoch knows the bad images
        batches = list(loader.epoch(1, spectrum.uniform()))
        assert sorted(loader.plan.bad) == sorted(set(victims))
        assert len(batches) == len(good)
        for batch, rows in zip(batches, good, strict=True):
            assert not np.isin(batch.rows, victims).any()
            same = ~np.isin(rows, victims)
            assert (batch.rows[same] == rows[same]).all()
            assert (index.pids[batch.rows] == index.pids[rows]).all()
            assert (index.modality[batch.rows] == index.modality[rows]).all()
            assert batch.images.shape == (16, 2, 32, 16, 3)

    # Bit-identical to a loader for the same rows that never meets the bad images.
    kept = TrainingLoader(index, options, CPU, 0)
    kept.plan.bad = dict(loader.plan.bad)
    for batch, again in zip(batches, kept.epoch(1, spectrum.uniform()), strict=True):
        assert (batch.rows == again.rows).all()
        assert torch.equal(batch.images, again.images)


def test_too_many_bad_images_stop_the_run(root):
    options = dataclasses.replace(OPTIONS, max_bad=0.01)
    index = read_training(options, root)
    for row in range(0, len(index), 7):
        damage(index.path(row), "header")
    with pytest.raises(
        InputError, match=r"2 of 126 training images are bad, more than --data.max-bad"
    ):
        list(TrainingLoader(index, options, CPU, 0).epoch(1, spectrum.uniform()))


def test_an_identity_without_a_readable_image_is_named(root):
    index = read_training(OPTIONS, root)
    rows = np.flatnonzero((index.pids == index.pids[0]) & (index.modality == index.modality[0]))
    for row in rows:
        damage(index.path(row), "truncated")
    with pytest.raises(InputError, match="no readable RGB image of its identity is left"):
        list(TrainingLoader(index, OPTIONS, CPU, 0).epoch(1, spectrum.uniform()))


def test_a_name_that_is_not_utf_8_is_listed_unchanged(root, tmp_path):
    odd = os.fsencode(root) + b"/cam1/0001/n\xff.jpg"
    os.rename(next((root / "cam1" / "0001").iterdir()), odd)
    index = read_training(OPTIONS, root)
    row = next(row for row in range(len(index)) if os.fsencode(index.path(row)) == odd)
    damage(index.path(row), "truncated")
    loader = TrainingLoader(index, OPTIONS, CPU, 0)
    for epoch in range(1, 4):
        list(loader.epoch(epoch, spectrum.uniform()))
    assert list(loader.plan.bad) == [row]
    run_folder.write_bad_images(tmp_path, index, loader.plan.bad)
    assert (tmp_path / "bad_images.tsv").read_bytes().startswith(odd + b"\tcannot be decoded")


def test_a_run_lists_skipped_images_and_resumes_to_the_same_result(root, tmp_path, capsys):
    index = read_training(OPTIONS, root)
    cut, broken = map(int, plan_epoch(index, 6, 4, "balanced", 0, 1)[1, [2, 9]])
    damage(index.path(cut), "truncated")
    damage(index.path(broken), "header")
    whole = tmp_path / "whole"
    args = ("train", "demo", "--data.root", root, *SMALL, "--run-dir")
    assert "restore it or take it out of" in refused(capsys, *args, tmp_path / "other")
    skip = ("--data.on-bad-image", "skip", "--data.max-bad", "0.1")
    assert call(*args, whole, *skip) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 bad images were skipped, see" in printed
    listed = dict(line.split("\t") for line in (whole / "bad_images.tsv").read_text().splitlines())
    assert sorted(listed) == sorted([str(index.path(cut)), str(index.path(broken))])
    assert lines(whole)[-2]["num_bad_images"] == 2

    run = Path(shutil.copytree(whole, tmp_path / "run"))
    sorted((run / "checkpoints").iterdir())[-1].unlink()
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)
