"""The GPU day: a script with independent jobs, first contact, and the summary."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import get_args

import pytest

from bench import contact
from bench.summary import summarize
from bench.targets import TARGETS, judge
from pipeline.graph import Stage

REPO = Path(__file__).parents[2]
DAY = REPO / "bench" / "gpu_day.sh"
# Replaces PYTHON: runs the real summary; every other job does what the test says.
INTERPRETER = """\
#!{python}
import os, sys, time
module, *words = sys.argv[2:]
if module == "bench.summary":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
print("ran", module, *words, flush=True)
{jobs}
"""


def start(out: Path, minutes: int, jobs: str, **environ: str) -> subprocess.Popen[str]:
    """Starts the script with an interpreter that does what `jobs` says."""
    python = out.parent / "python"
    out.parent.mkdir(exist_ok=True)
    python.write_text(INTERPRETER.format(python=sys.executable, jobs=jobs))
    python.chmod(0o755)
    return subprocess.Popen(
        ["bash", str(DAY), str(out), str(minutes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHON": str(python), **environ},
    )


def states(out: Path) -> dict[str, str]:
    lines = (out / "jobs.tsv").read_text().splitlines()
    return {line.split("\t")[0]: line.split("\t")[1] for line in lines}


def packed(out: Path) -> list[str]:
    with tarfile.open(f"{out}.tgz") as tar:
        return tar.getnames()


def test_a_failing_job_does_not_stop_the_others(tmp_path):
    out = tmp_path / "new" / "day"
    script = tmp_path / "benchmark.py"
    script.touch()
    jobs = (
        "if 'step' in words: sys.exit('the reason')\nif 'train' in words: os.kill(os.getpid(), 9)"
    )
    day = start(out, 5, jobs, TIMM_SCRIPT=str(script))
    said, _ = day.communicate(timeout=60)
    assert day.returncode == 0
    assert states(out) == {
        "contact": "done",
        "data": "done",
        "end-to-end": "done",
        "train": "failed with 137",
        "step": "failed with 1",
        "timm": "done",
        "peers": "done",
        "augmented": "done",
        "clock": "done",
        "runs": "done",
        "tests": "done",
    }
    assert "rehearsal" in said
    assert "    the reason" in (out / "summary.md").read_text()
    assert said.endswith((out / "summary.md").read_text())
    assert {"day/summary.md", "day/step.log", "day/jobs.tsv"} <= set(packed(out))
    assert f"--timm-script {script}" in (out / "timm.log").read_text()
    assert "test_cache.py" in (out / "tests.log").read_text()
    assert "test_gpu.py" in (out / "runs.log").read_text()


def test_a_day_can_run_some_jobs_only(tmp_path):
    out = tmp_path / "day"
    day = start(out, 5, "", JOBS="timm peers", TIMM_SCRIPT=__file__)
    day.communicate(timeout=60)
    assert day.returncode == 0
    assert states(out) == {"data": "done", "timm": "done", "peers": "done"}


def test_a_failure_is_shown_even_if_the_tests_are_cut_short(tmp_path):
    file = tmp_path / "test_two.py"
    file.write_text(
        "import os\ndef test_fails():\n    assert 6 * 7 == 43\ndef test_dies():\n    os._exit(9)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.at_once", "-n", "0", "-c", os.devnull]
    done = subprocess.run([*command, str(file)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 9
    assert "call of " in done.stdout
    assert "E       assert (6 * 7) == 43" in done.stdout.splitlines()


def test_without_batches_only_jobs_that_do_not_need_them_run(tmp_path):
    out = tmp_path / "day"
    contact = "print('failed    graph … read: ImportError: libdali.so')\n    sys.exit(3)"
    day = start(out, 5, f"if module == 'bench.contact':\n    {contact}")
    day.communicate(timeout=60)
    assert day.returncode == 0
    found = states(out)
    for name in ("end-to-end", "train", "peers", "augmented"):
        assert found[name].startswith("left out: no batches without DALI: failed ")
        assert found[name].endswith("graph … read: ImportError: libdali.so")
    assert found["timm"] == "left out: TIMM_SCRIPT names no benchmark.py"
    assert (found["step"], found["tests"]) == ("done", "done")
    assert "test_cache.py" not in (out / "tests.log").read_text()
    assert not (out / "runs.log").exists()


def test_without_a_step_the_day_stops_to_leave_time_for_a_fix(tmp_path):
    out = tmp_path / "day"
    day = start(out, 5, "if module == 'bench.contact': sys.exit(4)")
    said, _ = day.communicate(timeout=60)
    assert day.returncode == 1
    assert "stopped here" in said
    assert set(states(out)) == {"contact", "data"}
    assert "day/summary.md" in packed(out)


def test_a_killed_day_keeps_its_results_and_leaves_no_process(tmp_path):
    out = tmp_path / "day"
    jobs = "if 'train' in words:\n    print('pid', os.getpid(), flush=True)\n    time.sleep(300)"
    day = start(out, 5, jobs)
    log, deadline = out / "train.log", time.monotonic() + 60
    while not (log.is_file() and "pid" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    day.send_signal(signal.SIGTERM)
    said, _ = day.communicate(timeout=30)
    assert day.returncode == 143
    found = states(out)
    assert (found["contact"], found["train"]) == ("done", "ended with the day")
    assert "| train | ended with the day |" in said
    assert {"day/summary.md", "day/train.log", "day/contact.log"} <= set(packed(out))
    pid = log.read_text().split()[-1]
    status = Path(f"/proc/{pid}/status")
    assert not status.exists() or "zombie" in status.read_text()


@pytest.mark.long
def test_a_job_that_hangs_is_stopped_and_leaves_its_stack(tmp_path):
    """The job ignores SIGTERM; the script's shortest day is a minute."""
    out = tmp_path / "day"
    jobs = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if module == 'bench.contact': time.sleep(300)"
    )
    day = start(out, 1, jobs)
    day.communicate(timeout=80)
    assert day.returncode == 1
    assert states(out)["contact"] == "stopped, not done in time"
    assert "most recent call first" in (out / "summary.md").read_text()


def test_the_day_runs_every_file_that_has_tests_for_a_gpu():
    marker = "pytest." + "mark.gpu"
    marked = (
        str(file.relative_to(REPO))
        for file in REPO.glob("tests/**/test_*.py")
        if marker in file.read_text()
    )
    missing = [file for file in marked if file not in DAY.read_text()]
    assert not missing, f"add to {DAY.name}: {missing}"


def test_wrong_use_is_rejected_before_anything_runs(tmp_path):
    def refused(*args: str, **environ: str) -> str:
        done = subprocess.run(
            ["bash", str(DAY), *args], capture_output=True, text=True, env={**os.environ, **environ}
        )
        assert done.returncode == 2
        return done.stderr

    out = str(tmp_path / "day")
    assert "usage: bash bench/gpu_day.sh OUT MINUTES" in refused(out)
    assert "usage" in refused(out, "soon")
    assert "no job noon; there are contact train " in refused(out, "5", JOBS="train noon")
    assert "gone.py: no such file" in refused(out, "5", TIMM_SCRIPT=str(tmp_path / "gone.py"))
    (tmp_path / "kernels.txz").write_text("no archive")
    assert "tar: " in refused(out, "5", COMPILED=str(tmp_path / "kernels.txz"))
    assert not [*tmp_path.glob("day*")]
    assert "holds an earlier day" in refused(str(tmp_path), "5")


CHECK_NAMES = list(contact.CHECKS)


def test_contact_checks_every_stage_of_the_graph():
    assert get_args(Stage) == contact.STAGES
    assert len(contact.CHECKS) == len(CHECK_NAMES)
    for name, check in contact.CHECKS.items():
        assert check.after is None or CHECK_NAMES.index(check.after) < CHECK_NAMES.index(name)


@pytest.mark.parametrize(
    ("script", "state", "said"),
    [("exit 5", "crashed", "the process ended with 5"), ("exec sleep 60", "hung", "never ended")],
)
def test_a_check_that_crashes_or_hangs_is_named(tmp_path, monkeypatch, script, state, said):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    torch = contact.CHECKS["torch"]._replace(seconds=0.2)
    monkeypatch.setitem(contact.CHECKS, "torch", torch)
    time_out = time.monotonic() + 20
    (outcome,) = contact.in_a_process("cpu", tmp_path, ["torch", "training step"], {})
    assert time.monotonic() < time_out
    assert (outcome["check"], outcome["state"], outcome["said"]) == ("torch", state, said)


def test_checks_that_depend_on_a_failed_one_are_skipped(tmp_path):
    first, second = contact.CUTS[:2]
    found = {first: {"state": "failed"}}
    left_out, video = contact.in_a_process("cpu", tmp_path, [second, "video library"], found)
    assert (left_out["state"], left_out["said"]) == ("left out", f"needs {first}")
    assert video["state"] == "works"


REFUSES_DALI = """\
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("nvidia.dali"):
            raise ImportError("libdali.so: no such thing")
sys.meta_path.insert(0, Refuse())
"""


@pytest.mark.long
def test_contact_without_dali_still_runs_a_step(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(REFUSES_DALI)
    command = [sys.executable, "-m", "bench.contact", "--device=cpu", f"--out={tmp_path}/c.json"]
    done = subprocess.run(command, cwd=REPO, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == contact.NO_BATCHES
    checks = {c["check"]: c for c in json.loads((tmp_path / "c.json").read_text())["checks"]}
    assert checks["training step"]["state"] == "works"
    assert "libdali.so: no such thing" in checks["graph … read"]["said"]


@pytest.fixture
def results(tmp_path) -> Path:
    """The files that a day leaves."""
    out = tmp_path / "day"
    (out / "trace").mkdir(parents=True)
    (out / "train").mkdir()
    (out / "device").write_text("cuda\n")
    (out / "jobs.tsv").write_text("contact\tdone\t40\nstep\tfailed with 2\t7\ntests\tdone\t99\n")
    (out / "step.log").write_text("one\ntwo words | and more\n")
    check = {"check": "torch", "state": "works", "said": "torch 2.11 on H200", "seconds": 3.25}
    (out / "contact.json").write_text(json.dumps({"checks": [check]}))
    about = {
        "date": "2026-01-02T03:04:05",
        "cpu": "Xeon",
        "num_cores": 16,
        "python": "3.12.3",
        "packages": {"torch": "2.11.0"},
        "gpu": {"name": "H200", "driver_version": "580.1"},
    }
    ms = {"median": 14.0, "p95": 14.5, "p99": 15.25, "steps_per_round": 63}
    ratios = judge({"data_wait_streaming": [0.02, 0.03, 0.02]}, on_gpu=True)
    end = about | {"step_ms": {"streaming": ms}, "ratios": ratios}
    (out / "end-to-end.json").write_text(json.dumps(end))
    (out / "timm.json").write_text(
        json.dumps(about | {"ratios": judge({"step_over_timm_benchmark": [1.25]}, on_gpu=True)})
    )
    epoch = {"event": "epoch", "epoch": 1, "images_per_second": 9000.4, "data_wait": 0.004}
    (out / "train" / "metrics.jsonl").write_text(json.dumps(epoch | {"loss": 5.5}) + "\n")
    gap = {"us": 30.0, "after": "conv", "before": "copy", "host": {"wait for data": 29.0}}
    idle = {"device": "GPU", "busy": 0.995, "window_ms": 280.0, "steps": 20, "cuda_graph": "on"}
    (out / "trace" / "idle.json").write_text(json.dumps(idle | {"gaps": [gap]}))
    (out / "gpu.csv").write_text("utilization.gpu [%], power.draw [W]\n90, [N/A]\n100, [N/A]\n")
    (out / "tests.log").write_text(
        "[gw0] [ 10%] PASSED tests/a.py::test_x \n[gw1] [ 20%] FAILED tests/a.py::test_y \n"
        "tests/a.py::test_z SKIPPED (why)\nFAILED tests/a.py::test_y - assert 0\n"
    )
    return out


def test_the_summary_reports_all_results(results):
    text = summarize(results)
    for line in (
        "2026-01-02T03:04:05; H200, driver 580.1; 16 cores of Xeon; Python 3.12.3, torch 2.11.0",
        "| step | failed with 2 | 7 |",
        "    two words | and more",
        "| torch | works | 3.2 | torch 2.11 on H200 |",
        "| 1 | 9000 | 0.40 | 5.500 |",
        "| streaming | 14.00 | 14.50 | 15.25 |",
        "GPU: busy 99.50 % of 280.0 ms, 20 steps, CUDA graph on",
        "| 30 | conv | copy | wait for data 29 |",
        "| utilization.gpu [%] | 95 | 100 |",
        "pytest, tests: 1 failed, 1 passed, 1 skipped",
        "- FAILED tests/a.py::test_y - assert 0",
        "| share of time waiting for data, streaming | ≤ 0.01 | **missed: 0.02 (0.02 … 0.03)** | "
        "`cdp bench end-to-end` |",
        "| step / timm's benchmark script, same model, size, batch | ≥ 1 | 1.25 | "
        "`cdp bench timm` |",
    ):
        assert line in text.splitlines(), line
    assert text.count("not measured") == len(TARGETS) - 2
    assert "rehearsal" not in text


def test_the_summary_needs_no_packages_and_works_with_missing_files(results):
    for file in ("contact.json", "timm.json", "gpu.csv"):
        (results / file).unlink()
    (results / "trace" / "idle.json").write_text("{")
    (results / "device").write_text("cpu\n")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "bench.summary", str(results)],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (results / "summary.md").read_text()
    assert "A rehearsal without a GPU" in done.stdout
    assert "gaps: unreadable (JSONDecodeError" in done.stdout
    assert "| streaming | 14.00 |" in done.stdout
