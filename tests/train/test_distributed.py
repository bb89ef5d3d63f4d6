"""One, two and four ranks (gloo, CPU) train the same network; what happens when one dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import cdp
from pipeline.errors import InputError
from pipeline.sampler import Share
from tests.conftest import make_index
from tests.front_door import SMALL, call
from tests.train import ranks
from train import checkpoint, config
from train.config import Config
from train.distributed import World
from train.preparation import check_alike

REPOSITORY = Path(cdp.__file__).parent


def start(people: Path, folder: Path, num_ranks: int) -> None:
    started = subprocess.run(
        [sys.executable, "-m", "tests.train.ranks", *map(str, (people, folder, num_ranks))],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert started.returncode == 0, started.stdout + started.stderr


@pytest.fixture(scope="module")
def people(more_people) -> Path:
    """Several batches an epoch, and galleries that differ from trial to trial."""
    return more_people


@pytest.fixture(scope="module")
def out(people, tmp_path_factory) -> Path:
    """The files of `tests.train.ranks`, one folder per number of ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks.main(people, folder / "1")
    start(people, folder, 2)
    return folder


def assert_steps_equal_those_of_one_process(out: Path, n: int) -> None:
    alone, shared = (torch.load(out / str(i) / "step.pt") for i in (1, n))
    assert set(alone) == set(shared)
    # Same batches, complete on every rank; same losses; same gradients.
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.slow
def test_a_few_steps_equal_those_of_one_process(out):
    assert_steps_equal_those_of_one_process(out, 2)


def assert_run_equals_that_of_one_process(out: Path, n: int) -> None:
    def events(i: int) -> list[dict]:
        lines = (out / str(i) / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    alone, shared = events(1), events(n)
    assert [e["event"] for e in shared] == ["epoch", "epoch", "eval"]
    for a, b in zip(alone, shared, strict=True):
        if a["event"] == "epoch":
            for name in ("loss", "loss_cls", "loss_tri"):
                assert b[name] == pytest.approx(a[name], rel=1e-3)
            for name in ("confidence", "probability"):
                assert b[name] == pytest.approx(a[name], abs=1e-3)
            assert (b["step"], b["lr"]) == (a["step"], a["lr"])
        else:
            assert (b["num_query"], b["num_gallery"]) == (a["num_query"], a["num_gallery"])
            assert b["mAP"] == pytest.approx(a["mAP"], abs=1.5)  # few queries: one swap moves it
    names = [sorted(p.name for p in (out / str(i) / "run").rglob("*")) for i in (1, n)]
    assert names[0] == names[1]


def assert_run_is_extended(out: Path, n: int) -> None:
    before, after = (
        [json.loads(line) for line in (out / str(n) / name / "metrics.jsonl").open()]
        for name in ("run", "longer")
    )
    assert [(e["event"], e["epoch"]) for e in after] == [
        *((e["event"], e["epoch"]) for e in before),
        *(("epoch", 3), ("eval", 3)),
    ]
    rates = [e["lr"] for e in after if e["event"] == "epoch"]
    assert rates == pytest.approx(
        [1e-3, 1e-5, 1e-5]
    )  # milestones of two epochs, then of three for the third
    result = json.loads((out / str(n) / "longer" / "result.json").read_text())
    assert "resumed from 2 to 3 epochs" in result["training"]
    assert json.loads((out / str(n) / "longer" / "config.json").read_text())["history"] == [
        {"until": 2, "epochs": 2}
    ]


@pytest.mark.slow
def test_a_run_on_two_ranks_equals_that_of_one_process(out):
    assert_run_equals_that_of_one_process(out, 2)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2])
def test_a_run_of_several_ranks_is_extended(out, n):
    assert_run_is_extended(out, n)


@pytest.mark.slow
def test_four_ranks_equal_one_process_too(people, out):
    start(people, out, 4)
    assert_steps_equal_those_of_one_process(out, 4)
    assert_run_equals_that_of_one_process(out, 4)
    assert_run_is_extended(out, 4)


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_ranks(out, tmp_path, people):
    """Two epochs on two ranks; the second is removed and repeated on one rank."""
    run = out / "2" / "run"
    before = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "checkpoints").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (copy / name).write_bytes((run / name).read_bytes())
    first = sorted((run / "checkpoints").iterdir())[0]
    (copy / "checkpoints" / first.name).write_bytes(first.read_bytes())
    assert call("train", "--resume", copy) == 0
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert [(e["event"], e["epoch"]) for e in lines][-2:] == [("epoch", 2), ("eval", 2)]
    assert lines[-1]["mAP"] == pytest.approx(before["mAP"], abs=1.5)


@pytest.mark.long
def test_a_dead_rank_ends_the_job_and_one_rank_can_resume_it(people, tmp_path):
    run = tmp_path / "run"
    args = ["--data.root", people, "--run-dir", run, *SMALL, "--epochs", "40"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "cdp", "train", "demo", *map(str, args)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    metrics = run / "metrics.jsonl"
    while not metrics.is_file():
        time.sleep(0.1)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    )
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    died = time.monotonic()
    printed, _ = process.communicate(timeout=60)
    assert time.monotonic() - died < 60
    assert process.returncode != 0
    assert "another rank died" in printed or "Signal 9 (SIGKILL)" in printed
    assert call("train", "--resume", run) == 0
    assert (run / "result.json").is_file()
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [e["epoch"] for e in epochs if e["event"] == "epoch"] == list(range(1, 41))


def test_shares_are_whole_identities_and_cover_the_batch():
    for size in (1, 2, 4, 8):
        columns = [np.arange(32)[Share(rank, size).columns(8, 4)] for rank in range(size)]
        assert np.concatenate(columns).tolist() == list(range(32))
        assert all(len(c) % 4 == 0 for c in columns)
    with pytest.raises(InputError, match=r"--data.p 8: cannot be shared equally by 3 processes"):
        Share(0, 3).columns(8, 4)


def test_rows_are_divided_as_equally_as_can_be():
    for num, size in ((10, 4), (3, 2), (7, 7)):
        parts = [World(rank, size).own_rows(num) for rank in range(size)]
        assert np.concatenate(parts).tolist() == list(range(num))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def beside(other) -> World:
    """Rank 0 of two, of which rank 1 collects `other`."""

    class Two(World):
        def collect(self, value):
            return [value, other]

    return Two()


def test_ranks_with_other_options_or_images_are_refused():
    images, fewer = make_index([(2, 2), (3, 2)]), make_index([(2, 2)])
    options, data = config.to_json(Config()), checkpoint.identify(images)
    with pytest.raises(InputError, match="rank 1 has other options than rank 0"):
        check_alike(beside((config.to_json(Config(seed=7)), data)), Config(), images.origin, data)
    with pytest.raises(InputError, match="rank 1 has other training images than rank 0"):
        check_alike(beside((options, checkpoint.identify(fewer))), Config(), images.origin, data)
    elsewhere = config.with_data(Config(), root=Path("elsewhere"))
    check_alike(beside((options, data)), elsewhere, images.origin, data)
