"""Faults that no handler can catch: kill -9 at random moments; files that would run code."""

import json
import multiprocessing
import pickle
import random
import shutil
import time
from pathlib import Path

import pytest
import torch

from tests.front_door import SMALL, call, refused
from tests.train.test_resume import assert_same_run
from train import checkpoint, run_folder

KILLS = 50
ARGS = [*SMALL, "--epochs", "8", "--checkpoint-every", "2", "--eval-every", "3"]


class Bomb:
    """Leaves a mark when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_weights_that_would_run_code_are_rejected(people, tmp_path, capsys, how):
    mark, bomb = tmp_path / "mark", tmp_path / "bomb.pth"
    if how == "pickle":
        bomb.write_bytes(pickle.dumps({"conv1.weight": Bomb(mark)}))
    else:
        torch.save({"conv1.weight": Bomb(mark)}, bomb)
    args = ("--data.root", people, "--run-dir", tmp_path / "run", *SMALL)
    line = refused(capsys, "train", "demo", *args, "--model.weights", bomb)
    assert f"--model.weights {bomb}: could not load weights" in line
    run = tmp_path / "eval"
    assert call("train", "demo", "--data.root", people, "--run-dir", run, *SMALL) == 0
    shutil.copy(bomb, checkpoint.latest(run))
    assert "cannot be loaded" in refused(capsys, "eval", run)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))  # it does work when unpickled
    assert mark.exists()


def run_command(*args: str) -> None:
    """The work of a child process."""
    raise SystemExit(call(*args))


@pytest.mark.long
def test_runs_killed_at_random_moments_resume_to_identical_results(people, tmp_path, capsys):
    """50 runs, each killed at a random moment and resumed; every other one is killed twice."""
    # Children are forked with everything imported, from a process that never ran a pipeline.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.train.test_faults", "train.loop", "train.trials"])

    def child(*args: str | Path) -> multiprocessing.Process:
        process = processes.Process(target=run_command, args=tuple(map(str, args)))
        process.start()
        return process

    whole = tmp_path / "whole"
    begin = time.perf_counter()
    fresh = ("train", "demo", "--data.root", people, *ARGS, "--run-dir")
    child(*fresh, whole).join()
    duration = time.perf_counter() - begin

    moments = random.Random(0)
    outcomes = {"before anything was written": 0, "without a checkpoint": 0, "with one": 0}
    for n in range(KILLS):
        run = tmp_path / f"run-{n}"
        process = child(*fresh, run)
        time.sleep(moments.uniform(0, duration))
        process.kill()
        process.join()
        if not (run / run_folder.CONFIG).is_file():
            outcomes["before anything was written"] += 1
            process = child(*fresh, run, "--overwrite")
        else:
            saved = any((run / run_folder.CHECKPOINTS).glob("step-*"))
            outcomes["with one" if saved else "without a checkpoint"] += 1
            process = child("train", "--resume", run)
        if n % 2:  # killed twice
            time.sleep(moments.uniform(0, duration / 2))
            process.kill()
            process.join()
            begun = (run / run_folder.CONFIG).is_file()
            process = child("train", "--resume", run) if begun else child(*fresh, run)
        process.join()
        assert process.exitcode == 0, n
        assert_same_run(run, whole)
        assert list(run.rglob(".*")) == []  # half-written files are gone
        shutil.rmtree(run)
    with capsys.disabled():
        print(f"\nkill -9: {KILLS} of {KILLS} resumed and identical; killed {json.dumps(outcomes)}")
