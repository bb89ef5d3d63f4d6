"""Collapsed features: detected in hand-made figures, and in runs made to collapse."""

import json
import math
import os
import signal

import pytest
import torch

from tests.front_door import SMALL, call
from train import checkpoint, divergence, run_folder
from train.checkpoint import Progress
from train.divergence import collapsed, spread, watch
from train.step import TrainingStep

NAMES = ("loss", "loss_cls", "loss_tri", "spread")
ONE_POINT = {"cls": math.log(600), "tri": 0.3}
HEALTHY = [2.2, 2.0, 0.2, 20.0]
GONE = [math.log(600) + 0.3, math.log(600), 0.3, 0.01]


def test_the_spread_is_the_root_mean_square_distance_from_the_mean():
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    assert spread(features, lambda of_rank: of_rank).item() == pytest.approx(
        math.sqrt((1 + 1 + 9 + 9) / 4)
    )
    assert spread(features[:1].expand(4, 2), lambda of_rank: of_rank).item() == 0


@pytest.mark.parametrize(("scale", "rel"), [(1.0, 1e-5), (1e-4, 0.02)])
def test_the_spread_over_ranks_is_that_of_all_their_features(scale, rel):
    """Also where the features are almost one point, far from 0."""
    torch.manual_seed(0)
    features = 100 + scale * torch.randn(12, 5)
    sent: list[torch.Tensor] = []
    for share in features.split(4):
        spread(share, lambda row: sent.append(row) or row)
    assert [tuple(row.shape) for row in sent] == [(1, 6)] * 3  # not all features
    distance = features.double() - features.double().mean(dim=0)
    expected = distance.square().sum(dim=1).mean().sqrt().item()
    for share in features.split(4):
        found = spread(share, lambda row: torch.cat(sent))
        assert found.item() == pytest.approx(expected, rel=rel)


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
    assert "loss_tri is 0.300, at one point 0.300" in told
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


@pytest.mark.usefixtures("no_charts")
def test_a_collapsed_run_stops_after_a_whole_epoch_of_it(more_people, tmp_path, capsys):
    run = tmp_path / "r"
    args = ("train", "demo", "--data.root", more_people, *SMALL, *TO_ZERO)
    assert call(*args, "--checkpoint-every", "0", "--run-dir", run) == 1
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

    assert call("report", run, "--device", "cpu") == 0
    page = (run / "report" / "index.html").read_text()
    assert "State: collapsed; all features became one point, so figures are chance" in page
    assert "resume with" not in page


@pytest.mark.slow
@pytest.mark.usefixtures("no_charts")
def test_a_collapsed_run_may_continue_and_its_result_says_so(more_people, tmp_path, capsys):
    run = tmp_path / "r"
    args = ("train", "demo", "--data.root", more_people, *SMALL, *TO_ZERO)
    assert call(*args, "--on-collapse", "warn", "--run-dir", run) == 0
    said = "all features have been one point since step 2; figures are chance"
    assert said in " ".join(capsys.readouterr().out.split())
    assert run_folder.read_result(run)["collapse"] == said
    (run / "result.json").unlink()
    assert call("eval", run, "--flip-test") == 0
    assert call("report", run, "--device", "cpu") == 0  # which finds no result.json
    assert (run / "report" / "index.html").read_text().count(said) == 1
    assert call("eval", run) == 0
    assert run_folder.read_result(run)["collapse"] == said
    assert call("report", run, "--device", "cpu") == 0
    assert (run / "report" / "index.html").read_text().count(said) == 2


@pytest.mark.slow
def test_a_signal_does_not_change_what_the_watch_sees(more_people, tmp_path, monkeypatch):
    """It comes between two looks; where it came, nobody else would have looked."""
    monkeypatch.setattr(divergence, "WINDOW", 4)
    args = ("train", "demo", "--data.root", more_people, *SMALL, *TO_ZERO, "--log-every", "4")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert call(*args, "--run-dir", whole) == 1

    calls = []
    step = TrainingStep.__call__

    def and_signal(self, batch):
        calls.append(batch)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(TrainingStep, "__call__", and_signal)
    assert call(*args, "--run-dir", run) == 3
    assert checkpoint.progress_of(checkpoint.latest(run)).step == 6
    assert call("train", "--resume", run) == 1
    assert (run / "collapsed.json").read_bytes() == (whole / "collapsed.json").read_bytes()


OWN_LOSS = """
from train.methods.base import Method
class Mine(Method):
    @property
    def loss_weights(self):
        return {"mine": 1.0}
    def losses(self, out, batch, gather):
        return {"mine": out.logits.float().logsumexp(dim=1).mean()}
METHOD = Mine()
"""


def test_a_method_may_replace_the_losses_that_reveal_a_collapse(more_people, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN_LOSS)
    args = ("--data.root", more_people, *SMALL, "--model.weights", "none", "--epochs", "1")
    assert call("train", file, *args, "--run-dir", tmp_path / "run") == 0
