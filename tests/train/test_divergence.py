"""Collapsed features: detected in hand-made figures, and in runs made to collapse."""

import json
import math

import pytest
import torch

from tests.front_door import SMALL, call
from train import checkpoint, divergence, run_folder
from train.checkpoint import Progress
from train.divergence import collapsed, spread, watch

NAMES = ("loss", "loss_cls", "loss_tri", "spread")
ONE_POINT = {"cls": math.log(600), "tri": 0.3}
HEALTHY = [2.2, 2.0, 0.2, 20.0]
GONE = [math.log(600) + 0.3, math.log(600), 0.3, 0.01]


def test_the_spread_is_the_root_mean_square_distance_from_the_mean():
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    assert spread(features).item() == pytest.approx(math.sqrt((1 + 1 + 9 + 9) / 4))
    assert spread(features[:1].expand(4, 2)).item() == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, True),
        ({3: 20.0 * divergence.SMALL * 1.01}, False),  # features still differ
        ({2: 0.35}, True),  # collapsed features fluctuate
        ({2: 0.2}, False),  # the triplet loss still tells them apart
        ({1: 3.0}, False),  # so does the classifier
        ({1: 3.0, 2: 0.2}, False),
    ],
)
def test_a_collapse_needs_every_sign(changed, says):
    row = [changed.get(i, value) for i, value in enumerate(GONE)]
    assert collapsed(torch.tensor([row]), NAMES, 20.0, ONE_POINT).tolist() == [says]


def test_unknown_losses_are_judged_by_the_spread_alone():
    seen = torch.tensor([[1.0, 1.0, 20.0], [1.0, 1.0, 0.1]])
    found = collapsed(seen, ("loss", "loss_own", "spread"), 20.0, {})
    assert found.tolist() == [False, True]


def test_a_collapse_is_reported_once_with_its_step_and_forgotten_after_recovery(monkeypatch):
    monkeypatch.setattr(divergence, "WINDOW", 5)
    at = Progress(epoch=1, step=0)

    def look(*rows: list[float]) -> str:
        return watch(at, torch.tensor(rows).reshape(-1, 4), NAMES, ONE_POINT, steps=8)

    flicker = [5.4, 5.0, 0.45, 0.5]
    assert look() == ""
    assert look(HEALTHY, GONE) == ""  # too few to tell
    assert at.first_spread == 20.0
    assert look(HEALTHY, HEALTHY, GONE, GONE, GONE) == ""  # three of five
    told = look(HEALTHY, HEALTHY, GONE, GONE, flicker, GONE, GONE)
    assert "since step 3 (their spread is 0.05 % of the first step's" in told
    assert "loss_tri is 0.300, of one point 0.300" in told
    assert look(HEALTHY, HEALTHY, GONE, flicker, GONE, GONE, GONE, GONE) == ""
    at = at.next_epoch(0)
    assert look(GONE) == ""
    assert look(GONE, flicker, GONE, GONE, GONE) == ""
    assert at.collapsed_since == 3
    assert look(GONE, GONE, HEALTHY, HEALTHY, HEALTHY, HEALTHY) == ""
    assert at.collapsed_since == 0
    assert "since step 11" in look(HEALTHY, HEALTHY, GONE, GONE, GONE, GONE, GONE)


# Weight decay of 100 at a learning rate of 0.01 sets all weights to zero in the first step.
TO_ZERO = (
    *("--optimizer.name", "sgd", "--optimizer.lr", "0.01", "--optimizer.weight-decay", "100"),
    *("--optimizer.momentum", "0", "--model.no-bnneck", "--epochs", "3"),
)


def test_a_collapsed_run_stops_after_a_whole_epoch_of_it(people, tmp_path, capsys):
    run = tmp_path / "r"
    args = ("train", "demo", "--data.root", people, *SMALL, *TO_ZERO, "--checkpoint-every", "0")
    assert call(*args, "--eval-every", "0", "--run-dir", run) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "all features have collapsed into one point since step 2" in printed.err
    assert "training stopped after a whole epoch of it" in printed.err
    assert "--loss.triplet-weight" in printed.err
    assert "collapsed into one point since step 2" in " ".join(printed.out.split())
    assert [record["epoch"] for record in run_folder.read_metrics(run)] == [1, 2]
    assert json.loads((run / "collapsed.json").read_text())["since_step"] == 2
    assert checkpoint.progress_of(checkpoint.latest(run)).collapsed_since == 2
    assert not (run / "result.json").exists()

    # Resuming from that checkpoint detects it again.
    assert call("train", "--resume", run) == 1
    assert "since step 2" in capsys.readouterr().err


def test_a_collapsed_run_may_continue_and_its_result_says_so(people, tmp_path, capsys):
    run = tmp_path / "r"
    args = ("train", "demo", "--data.root", people, *SMALL, *TO_ZERO)
    assert call(*args, "--on-collapse", "warn", "--run-dir", run) == 0
    said = "all features have been one point since step 2; figures are chance"
    assert said in " ".join(capsys.readouterr().out.split())
    assert run_folder.read_result(run)["collapse"] == said
    (run / "result.json").unlink()
    assert call("eval", run) == 0
    assert run_folder.read_result(run)["collapse"] == said
