"""Interrupted runs resume as if never interrupted: signals, kills, locks, extensions."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import InputError
from tests.front_door import SMALL, call, refused
from train import checkpoint, interruption, run_folder, runs, runtime, schedule
from train.commands.ending import run_to_end
from train.config import Stretch
from train.divergence import NotFiniteError
from train.live.display import Display

EPOCHS = 3
ARGS = [*SMALL, "--epochs", str(EPOCHS), "--log-every", "1", "--eval-every", "2"]
TIMES = {"images_per_second", "data_wait", "cores_taken", "seconds", "finish_seconds"}


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory) -> Path:
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert call("train", "demo", "--data.root", people, "--run-dir", folder, *ARGS) == 0
    return folder


def lines(run: Path) -> list[dict]:
    """Returns metrics.jsonl without timings."""
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
    """Sends this process a signal once, after a step, or where losses arrive late, soon after."""
    show = Display.step

    def and_signal(self, e: int, losses: torch.Tensor, *args) -> None:
        show(self, e, losses, *args)
        if (e, len(losses)) >= (epoch, step):  # a GPU's may arrive several at a time
            monkeypatch.undo()
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Display, "step", and_signal)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize(
    ("epoch", "step", "number"),
    [
        (1, 1, signal.SIGTERM),
        pytest.param(2, 2, signal.SIGINT, marks=pytest.mark.slow),
        (2, -1, signal.SIGUSR1),  # the last step of an epoch, before its evaluation
        pytest.param(3, 1, signal.SIGTERM, marks=pytest.mark.slow),  # just after an evaluation
        (3, -1, signal.SIGHUP),
    ],
)
def test_an_interrupted_run_resumes_as_if_never_interrupted(
    whole, people, tmp_path, monkeypatch, capsys, epoch, step, number
):
    run = tmp_path / "run"
    before = signal.getsignal(number)  # a shell's background jobs ignore SIGINT
    signal_at(monkeypatch, epoch, step % (steps_of(whole) + 1), number)
    assert call("train", "demo", "--data.root", people, "--run-dir", run, *ARGS) == 3
    line = capsys.readouterr().err.strip()
    assert line == f"cdp: {number.name}: saved; resume with `cdp train --resume {run}`"
    assert signal.getsignal(number) == before
    assert call("train", "--resume", run) == 0
    assert f"after step {step % (steps_of(whole) + 1)} of" in capsys.readouterr().out
    assert_same_run(run, whole)


def test_a_killed_run_resumes_from_its_last_checkpoint(whole, tmp_path):
    """Truncated metrics, no result, a checkpoint inside an epoch: what kill -9 leaves."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    checkpoint.latest(run).unlink()
    (run / "result.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


def test_a_damaged_checkpoint_costs_only_one_epoch(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    newest = checkpoint.latest(run)
    newest.write_bytes(newest.read_bytes()[:-5])
    assert call("train", "--resume", run) == 0
    assert "using the checkpoint before it" in capsys.readouterr().out.replace("\n", " ")
    assert_same_run(run, whole)


def test_a_run_without_a_checkpoint_starts_again(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    assert "is finished, but its checkpoints are gone" in refused(capsys, "train", "--resume", run)
    assert (run / "metrics.jsonl").read_bytes() == before
    (run / "result.json").unlink()
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


def test_a_run_is_not_resumed_with_other_training_images(whole, more_people, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["data"]["root"] = str(more_people)
    (run / "config.json").write_text(json.dumps(config))
    line = refused(capsys, "train", "--resume", run, "--epochs", EPOCHS + 1)
    assert "of 12 identities, but the data set's are now" in line
    assert f"--model.weights {run}" in line
    assert json.loads((run / "config.json").read_text()) == config
    assert lines(run) == lines(whole)


def test_a_run_from_other_hardware_resumes_if_a_device_is_given(whole, tmp_path, capsys):
    """The run's configuration is from a machine with a GPU; it resumes on this machine's CPU."""
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


def test_resuming_a_finished_run_changes_nothing(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


def test_a_folder_in_use_is_rejected(whole, people, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with run_folder.lock(run):
        assert "another process trains in this" in refused(capsys, "train", "--resume", run)
        args = ("--data.root", people, "--run-dir", run, *ARGS, "--overwrite")
        assert "another process trains in this" in refused(capsys, "train", "demo", *args)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with run_folder.lock(run):
        pass


def test_a_checkpoint_of_another_version_is_rejected(whole, tmp_path, monkeypatch):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    monkeypatch.setattr(checkpoint, "FORMAT", "cdp-reid checkpoint 99")
    with pytest.raises(InputError, match="is cdp-reid checkpoint 5, not 'cdp-reid checkpoint 99'"):
        checkpoint.load(checkpoint.latest(run), run_folder.read_config(run).method, (32, 16))


@pytest.fixture(scope="module")
def longer(whole, tmp_path_factory) -> Path:
    """The uninterrupted run, finished and then extended by an epoch."""
    run = Path(shutil.copytree(whole, tmp_path_factory.mktemp("runs") / "longer"))
    assert call("train", "--resume", run, "--epochs", str(EPOCHS + 1)) == 0
    return run


def test_a_finished_run_is_extended_and_says_so(whole, longer, tmp_path, capsys):
    before, after = lines(whole), lines(longer)
    assert after[: len(before)] == before  # keeps the old lines, including the final one
    assert [(e["event"], e["epoch"]) for e in after[len(before) :]] == [("epoch", 4), ("eval", 4)]
    cfg = run_folder.read_config(longer)
    assert (cfg.epochs, cfg.history) == (4, (Stretch(3, 3),))
    assert [e["lr"] for e in after if e["event"] == "epoch"] == [1e-3, 1e-3, 1e-4, 1e-4]
    assert schedule.rate(cfg, 4) == 1e-4
    result = run_folder.read_result(longer)
    assert result["training"] == schedule.disclosure(cfg, 4)["training"]
    assert "resumed from 3 to 4 epochs, unlike a single run of 4" in result["training"]
    assert "training" not in run_folder.read_result(whole)

    copy = Path(shutil.copytree(longer, tmp_path / "run"))
    (copy / "result.json").unlink()
    capsys.readouterr()
    assert call("eval", copy, "--device", "cpu") == 0
    assert "resumed from 3 to 4 epochs" in capsys.readouterr().out.replace("\n", " ")
    assert (copy / "result.json").read_bytes() == (longer / "result.json").read_bytes()


def test_a_killed_extended_run_resumes_bit_for_bit(longer, tmp_path):
    run = Path(shutil.copytree(longer, tmp_path / "run"))
    checkpoint.latest(run).unlink()
    (run / "result.json").unlink()
    assert call("train", "--resume", run) == 0
    assert_same_run(run, longer)


def test_an_extended_run_killed_in_its_last_test_is_not_finished(whole, tmp_path, monkeypatch):
    """The result is still that of the shorter run."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert runs.describe(run).state == "finished"
    tests = iter([run_folder.read_result(whole)])  # of the epoch that was the last
    monkeypatch.setattr("train.loop.evaluate", lambda *args: next(tests))
    with pytest.raises(StopIteration):
        call("train", "--resume", run, "--epochs", str(EPOCHS + 1))
    assert runs.describe(run).epochs_done == EPOCHS + 1
    assert runs.describe(run).state == "interrupted"
    result = run_folder.read_result(run)
    assert result.pop("unfinished") == "tested before the training ended, in epoch 3 of 4"
    assert result == run_folder.read_result(whole)


def test_the_learning_rate_of_an_extended_run_is_printed(whole, tmp_path, capsys, monkeypatch):
    """A signal right after the resume: trained epochs and the new total are kept."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    signal_at(monkeypatch, EPOCHS + 1, 1, signal.SIGTERM)
    assert call("train", "--resume", run, "--epochs", "10") == 3
    printed = capsys.readouterr()
    assert "10 in total from now on; milestones move accordingly" in printed.out
    assert "from epoch 4: 0.0001 to 0.001" in printed.out
    assert "from epoch 8: 0.001 to 0.0001" in printed.out
    assert f"`cdp train --resume {run} --epochs 10`" in printed.err
    assert run_folder.read_config(run).epochs == 10
    result = run_folder.read_result(run)  # the old one, until there is a new one
    assert result.pop("unfinished") == "tested before the training ended, in epoch 3 of 10"
    assert result == run_folder.read_result(whole)
    assert run_folder.read_metrics(run)[-1]["epoch"] == EPOCHS
    # Epoch 4 started with the learning rate for ten epochs, so at least 4 epochs are needed.
    for number, status in (("3", 2), ("0", 2)):
        assert call("train", "--resume", run, "--epochs", number) == status
        assert f"--epochs {number}: the run is already at epoch 4" in capsys.readouterr().err


def test_too_few_epochs_touch_nothing(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = refused(capsys, "train", "--resume", run, "--epochs", "2")
    assert "--epochs 2: the run is already at epoch 3; pass 3 or more" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("hangups")
def test_a_signal_before_the_run_starts_does_not_offer_a_resume(
    people, tmp_path, monkeypatch, capsys
):
    resolve = runtime.resolve_device

    def and_signal(*args) -> torch.device:
        os.kill(os.getpid(), number)
        return resolve(*args)

    monkeypatch.setattr(runtime, "resolve_device", and_signal)
    run = tmp_path / "run"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        before = signal.getsignal(number)
        assert call("train", "demo", "--data.root", people, "--run-dir", run, *ARGS) == 1
        line = capsys.readouterr().err.strip()
        assert line == f"cdp: {number.name}: start the run again, nothing was trained yet"
        assert signal.getsignal(number) == before
        assert not run.exists()


def test_a_hang_up_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption.caught() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupted.own is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_reader_has_left_is_saved(whole, tmp_path, monkeypatch, capsys):
    """As in `cdp train … | head`, or after Ctrl-C in `cdp train … 2>&1 | tee log`."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    checkpoint.latest(run).unlink()
    reader, writer = os.pipe()
    show = Display.step

    def and_leave(self, epoch: int, losses: torch.Tensor, *args) -> None:
        show(self, epoch, losses, *args)
        if len(losses) == 1:
            os.close(reader)
            monkeypatch.setattr(Display, "step", show)
            self.say("nobody reads this")

    monkeypatch.setattr(Display, "step", and_leave)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert call("train", "--resume", run, "--epochs", EPOCHS + 1) == 3
    monkeypatch.undo()
    assert "SIGPIPE: saved; resume with `cdp train --resume" in capsys.readouterr().err
    assert checkpoint.progress_of(checkpoint.latest(run)).step == 1


def test_a_folder_that_cannot_be_created_does_not_offer_a_resume(people, tmp_path, capsys):
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    assert call("train", "demo", "--data.root", people, "--run-dir", run, *ARGS) == 1
    line = capsys.readouterr().err.strip()
    assert "once that is fixed, start the run again" in line
    assert "--resume" not in line


@pytest.mark.parametrize("more", ["", " --epochs 9", " --device cpu", " --epochs 9 --device cpu"])
def test_the_replay_of_a_nan_loss_is_offered_without_options(capsys, more):
    def diverge() -> None:
        raise NotFiniteError("loss is nan", 2)

    with pytest.raises(SystemExit):
        run_to_end(f"cdp train --resume runs/x{more}", diverge)
    line = capsys.readouterr().err.strip()
    assert line == "cdp: loss is nan; `cdp train --replay-batch runs/x` shows that batch"
