"""The day on a GPU: jobs that survive each other; what is watched, traced and summed up."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_day, watch
from bench.contact import in_a_process
from bench.gpu_day import FULL, JOBS, REHEARSAL, SLICE_MINUTES, Day, Job
from bench.targets import TARGETS, judge, markdown, merged
from bench.timm_script import training_rate
from bench.trace import Event, idle
from tests.front_door import call, refused
from train.reporting.display import Display

CPU = torch.device("cpu")


@pytest.fixture
def day(tmp_path) -> Day:
    return Day(tmp_path / "out", tmp_path / "work", CPU, None)


def test_a_slice_s_jobs_fit_into_it():
    slices = {job.slice for job in JOBS.values()} - {None}
    assert slices == {1, 2, 3, 4, 5}
    for number in slices:
        jobs = [job for job in JOBS.values() if job.slice == number]
        makes_data = any("{data}" in job.command for job in jobs)
        minutes = sum(job.minutes for job in jobs) + makes_data * JOBS["data"].minutes
        assert minutes <= SLICE_MINUTES, number


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_job_is_a_command_without_words_left_to_fill_in(device):
    assert set(FULL) == set(REHEARSAL)
    day = Day(Path("out"), Path("work"), torch.device(device), Path("benchmark.py"))
    for name, job in JOBS.items():
        command = day.command(job, name)
        assert command[:2] == [sys.executable, "-m"]
        assert not any("{" in word for word in command), command


def test_a_job_that_fails_hangs_or_is_killed_does_not_keep_the_others_from_running(
    day, monkeypatch, capsys
):
    write = "timeit -n 1 -r 1 open('{work}/made','w').write('x')"
    jobs = {
        "hangs": Job(1, 0.02, "timeit -n 1 -r 1 __import__('time').sleep(60)"),
        "fails": Job(1, 1, "timeit -n 1 -r 1 raise(ValueError('the_reason'))"),
        "killed": Job(1, 1, "timeit -n 1 -r 1 __import__('os').kill(__import__('os').getpid(),9)"),
        "works": Job(1, 1, write, keep=("made",)),
        "later": Job(2, 1, write),
        "script": Job(1, 1, "timeit {timm}"),
    }
    monkeypatch.setattr(gpu_day, "JOBS", jobs)
    monkeypatch.setattr(gpu_day, "SLICE_MINUTES", 4.02)
    monkeypatch.setattr(gpu_day, "SHORTEST", 1)
    start = time.perf_counter()
    assert not gpu_day.gpu_day(day, [1], again=False, display=Display())
    assert time.perf_counter() - start < 30

    record = json.loads((day.out / "day.json").read_text())
    states = {name: job["state"] for name, job in record["jobs"].items()}
    assert states == {
        "fails": "failed",
        "hangs": "stopped",
        "killed": "failed",
        "works": "done",
        "script": "left out",
    }
    assert any("the_reason" in line for line in record["jobs"]["fails"]["last_words"])
    assert record["jobs"]["killed"]["why"] == "status -9"
    assert (day.out / "made").read_text() == "x"
    summary = (day.out / "summary.md").read_text()
    assert "| hangs | stopped |" in summary
    assert "the_reason" in capsys.readouterr().out

    (day.work / "made").unlink()
    jobs["fails"] = Job(1, 1, "timeit -n 1 -r 1 pass")
    jobs["hangs"], jobs["killed"] = jobs["fails"], jobs["fails"]
    jobs["script"] = jobs["fails"]
    assert gpu_day.gpu_day(day, [1], again=False, display=Display())
    assert not (day.work / "made").exists()  # what had ended well was not run again
    assert gpu_day.gpu_day(day, [1, 2], again=True, display=Display())
    assert (day.work / "made").exists()


def test_a_day_that_is_ended_takes_its_job_with_it(day, monkeypatch):
    write = "open('{work}/pid','w').write(str(__import__('os').getpid()))"
    sleep = "__import__('time').sleep(60)"
    monkeypatch.setattr(gpu_day, "JOBS", {"job": Job(1, 1, f"timeit -n 1 -r 1 {write} {sleep}")})
    pid = day.work / "pid"

    def end() -> None:
        while not pid.is_file() or not pid.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    before = signal.getsignal(signal.SIGTERM)
    args = ("--out", day.out, "--work", day.work, "--slice", "1", "--device", "cpu")
    assert call("bench", "gpu-day", *args) == 143
    assert not Path(f"/proc/{pid.read_text()}").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_results_of_a_gpu_are_not_mixed_with_a_rehearsal_s(day, capsys, monkeypatch):
    monkeypatch.setattr(gpu_day, "JOBS", {})
    gpu_day.gpu_day(day, [1], again=False, display=Display())
    file = day.out / "day.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": "cuda"}))
    line = refused(capsys, "bench", "gpu-day", "--out", day.out, "--device", "cpu")
    assert "holds results of a day on cuda" in line
    assert "name another folder" in line


@pytest.mark.slow
def test_a_check_that_ends_its_process_is_named(tmp_path):
    (outcome,) = in_a_process("cpu", tmp_path / "nothing here", ["torch", "decoders"])
    assert outcome["check"] == "torch"
    assert outcome["state"] == "crashed"
    assert "ended with" in outcome["said"]


def test_memory_is_watched_without_a_gpu(monkeypatch):
    monkeypatch.setattr(watch, "PERIOD", 0.05)
    with watch.watching(1) as samples:
        time.sleep(0.3)
    assert len(samples) >= 2
    assert set(samples[0]) == {"seconds", *watch.HOST}


def test_a_driver_s_tool_that_hangs_holds_nobody_up(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\ntrap '' TERM\n"
        'case "$*" in *-lms*) while :; do sleep 1; done;; esac\necho "42, 1, 2, 3, 4"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(watch, "PERIOD", 0.05)
    start = time.perf_counter()
    with watch.watching(1):
        pass
    assert time.perf_counter() - start < 5


def test_the_driver_s_tool_is_read_as_it_speaks(tmp_path, monkeypatch):
    """A tool that knows no JPEG engine, as older ones, and cannot tell the power."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1" in *jpeg*) echo "Field is not a valid field"; exit 2;; esac\n'
        'echo "42, 1024, [N/A], 1980"\n'
        'case "$*" in *-lms*) while sleep 0.1; do echo "44, 2048, [N/A], 1980"; done;; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert "jpeg_percent" not in watch.known_fields()
    with watch.watching(1) as samples:
        time.sleep(0.5)
    assert samples[0]["gpu_percent"] == 42
    assert samples[-1]["gpu_memory_mib"] == 2048
    assert "power_w" not in samples[0]
    seen = watch.summary(samples)
    assert seen["sm_mhz"] == {"mean": 1980, "max": 1980}
    assert 42 <= seen["gpu_percent"]["mean"] <= seen["gpu_percent"]["max"] == 44


def test_idle_time_is_what_no_kernel_covers():
    """Two streams overlap from 5 to 10; the gap from 12 to 20 lies in a wait for data."""
    events = [
        Event("kernel", "conv", "7", 0, 10),
        Event("user_annotation", "wait for data", "1", 11, 19),
        Event("kernel", "decode", "8", 5, 12),
        Event("gpu_memcpy", "copy", "7", 20, 24),
        Event("kernel", "add", "7", 25, 30),
        Event("cpu_op", "aten::add", "1", 0, 30),
    ]
    found = idle(sorted(events, key=lambda event: event.start))
    assert found["device"] == "GPU"
    assert found["busy"] == pytest.approx(21 / 30)
    assert found["idle_ms"] == pytest.approx(0.009)
    longest = found["gaps"][0]
    assert (longest["us"], longest["after"], longest["before"]) == (8, "decode", "copy")
    assert longest["host"] == {"wait for data": 7}
    assert idle([])["busy"] is None


def test_parts_measured_apart_are_judged_as_one():
    measured = ({"data_wait_cached": [0.02, 0.02]}, {"step_over_eager_nchw": [2]})
    whole = merged(judge(part, on_gpu=True) for part in measured)
    assert set(whole) == set(TARGETS)
    assert (whole["data_wait_cached"]["met"], whole["step_over_eager_nchw"]["met"]) == (False, True)
    assert whole["cached_over_step"]["measured"] is None
    table = markdown(whole)
    assert "**missed: 0.0200 (0.0200 … 0.0200)**" in table
    assert "| not measured |" in table


def test_timm_s_script_is_understood():
    assert training_rate('log\n--result\n{"train_samples_per_sec": 123.5}') == 123.5
    assert training_rate('--result\n{"error": "out of memory"}') is None
    assert training_rate("Traceback") is None


def test_timm_s_script_that_fails_is_quoted(people, tmp_path, capsys):
    script = tmp_path / "benchmark.py"
    script.write_text("raise SystemExit('no such thing')")
    args = ("--preset", "demo", "--data-root", people, "--device", "cpu", "--quick")
    line = refused(capsys, "bench", "timm", *args, "--timm-script", tmp_path / "gone.py")
    assert "no such file; it is benchmark.py of https://" in line
    assert call("bench", "timm", *args) == 0
    assert "left out" in capsys.readouterr().out
