"""A run that was interrupted goes on as if it had not been: signals, cut points, locks."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import InputError
from tests.front_door import SMALL, call, refused
from train import checkpoint, run_folder
from train.reporting.display import Display

EPOCHS = 3
ARGS = [*SMALL, "--epochs", str(EPOCHS), "--log-every", "1", "--eval-every", "2"]
TIMES = {"images_per_second", "data_wait", "seconds"}


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert call("train", "demo", "--data.root", people, "--run-dir", folder, *ARGS) == 0
    return folder


def lines(run: Path) -> list[dict]:
    """metrics.jsonl without what a clock said."""
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in written]


def steps_of(run: Path) -> int:
    return lines(run)[0]["step"]


def assert_same_run(some: Path, other: Path) -> None:
    assert lines(some) == lines(other)
    assert (some / "result.json").read_bytes() == (other / "result.json").read_bytes()
    tensors = [load_file(checkpoint.latest(run)) for run in (some, other)]
    assert set(tensors[0]) == set(tensors[1])
    for name, tensor in tensors[0].items():
        assert torch.equal(tensor, tensors[1][name]), name


def signal_at(monkeypatch, epoch: int, step: int, number: signal.Signals) -> None:
    """Sends this process a signal after a step, once."""
    show = Display.step

    def and_signal(self, e: int, s: int, *args) -> None:
        show(self, e, s, *args)
        if (e, s) == (epoch, step):
            monkeypatch.undo()
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Display, "step", and_signal)


@pytest.mark.parametrize(
    ("epoch", "step", "number"),
    [
        (1, 1, signal.SIGTERM),
        (2, 3, signal.SIGINT),
        (2, -1, signal.SIGUSR1),  # the last step of an epoch, before its evaluation
        (3, 1, signal.SIGTERM),  # just after an evaluation
        (3, -1, signal.SIGTERM),
    ],
)
def test_interrupted_and_resumed_is_as_if_never_interrupted(
    whole, people, tmp_path, monkeypatch, capsys, epoch, step, number
):
    run = tmp_path / "run"
    signal_at(monkeypatch, epoch, step % (steps_of(whole) + 1), number)
    assert call("train", "demo", "--data.root", people, "--run-dir", run, *ARGS) == 3
    line = capsys.readouterr().err.strip()
    assert line == f"cdp: {number.name}: saved; go on with `cdp train --resume {run}`"
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert call("train", "--resume", run) == 0
    assert f"after {step % (steps_of(whole) + 1)} of its" in capsys.readouterr().out
    assert_same_run(run, whole)


def test_a_run_that_died_goes_on_from_its_last_checkpoint(whole, tmp_path):
    """Cut metrics, no result, a checkpoint half-way: what kill -9 leaves."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    checkpoint.latest(run).unlink()
    (run / "result.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    newest = checkpoint.latest(run)
    newest.write_bytes(newest.read_bytes()[:-5])
    assert call("train", "--resume", run) == 0
    assert "using the checkpoint before it" in capsys.readouterr().out.replace("\n", " ")
    assert_same_run(run, whole)


def test_a_run_without_a_checkpoint_starts_again(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in checkpoint.found(run):
        path.unlink()
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


def test_a_run_of_other_hardware_goes_on_when_a_device_is_named(whole, tmp_path, capsys):
    """As of a machine with a GPU; on this one it is trained with what this one has."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    checkpoint.latest(run).unlink()
    config = json.loads((run / "config.json").read_text())
    config["step"] = dict.fromkeys(config["step"], "on")
    config["data"]["cache"] = "gpu"
    for device, what in (
        ("cuda", "--device cuda: torch sees no GPU"),
        ("cpu", "--step.cuda-graph"),
    ):
        (run / "config.json").write_text(json.dumps(config | {"device": device}))
        line = refused(capsys, "train", "--resume", run)
        assert what in line
        assert f"`cdp train --resume {run} --device auto`" in line
    assert call("train", "--resume", run, "--device", "auto") == 0
    assert_same_run(run, whole)


def test_a_finished_run_stays_as_it_is(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


def test_a_folder_in_use_is_refused(whole, people, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with run_folder.lock(run):
        assert "another process trains in this" in refused(capsys, "train", "--resume", run)
        args = ("--data.root", people, "--run-dir", run, *ARGS, "--overwrite")
        assert "another process trains in this" in refused(capsys, "train", "demo", *args)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with run_folder.lock(run):
        pass


def test_a_checkpoint_of_another_version_is_refused(whole, tmp_path, monkeypatch):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    monkeypatch.setattr(checkpoint, "FORMAT", "cdp-reid checkpoint 99")
    with pytest.raises(InputError, match="is cdp-reid checkpoint 3, not 'cdp-reid checkpoint 99'"):
        checkpoint.load(checkpoint.latest(run), run_folder.read_config(run).model, (32, 16))
