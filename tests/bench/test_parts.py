"""The parts of `cdp bench` with their own options."""

import json

import pytest
import torch

from bench import ranking, scale
from pipeline.datasets import synthetic
from tests.front_door import call, refused


def test_every_part_of_a_large_index_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "BATCHES", 5)
    made = tmp_path / "new" / "s.json"
    args = ("--images", "8000", "--identities", "500", "--json", made)
    assert call("bench", "scale", *args) == 0
    rows = json.loads(made.read_text())["parts"]
    assert all(row["seconds"] > 0 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[-1].startswith("DHSM, a step, 500 classes")


def test_ranking_reports_time_and_memory(capsys):
    query, gallery = (ranking._images(n, 4, 2) for n in (20, 50))
    ranking._report("20 x 50", query, gallery, [torch.arange(50)], 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("20 x 50" in line and "GiB" in line for line in lines)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("scale", "--images", "10", "--identities", "5"), "--images 10: must be at least 4 x"),
        (("scale", "--images", "50", "--identities", "5"), "--identities 5: must be at least"),
        (("ranking", "million", "--queries", "0"), "--queries and --numbers must be at least 1"),
        (("step", "speed"), "no part 'speed'; there are stages,"),
        ((), "name a part; there are stages,"),
    ],
)
def test_wrong_use_is_named(capsys, args, message):
    assert message in refused(capsys, "bench", *args)


def test_an_epoch_too_short_for_packed_is_rejected(tmp_path, capsys):
    few = synthetic.SyntheticOptions(num_train=16, num_val=1, num_test=1, images_per_camera=1)
    synthetic.make(tmp_path / "few", few, workers=1)
    line = refused(capsys, "bench", "packed", tmp_path / "few", tmp_path / "few")
    assert "the benchmark needs 11; make a larger set" in line
