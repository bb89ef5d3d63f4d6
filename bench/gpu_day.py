"""`cdp bench gpu-day`: all that is worth running on a GPU, in order of value, into one folder.

GPU machines are often lent for minutes. So the jobs come in slices of under eight minutes, each a
command of its own; a job that fails, hangs or crashes does not keep the others from running; and
what was found is written after each. Without a GPU the same jobs run small, as a rehearsal.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from bench import plot, targets, watch
from bench.end_to_end import QUANTILES
from bench.run import PARTS
from pipeline.datasets import synthetic
from pipeline.errors import InputError
from train import run_folder
from train.environment import environment
from train.reporting.display import Display

SLICE_MINUTES = 8.0
DAY, WATCHED = "day.json", "watch.json"
TEST_COUNTS = ("tests", "failures", "errors", "skipped")
LAST_WORDS = 8  # lines of a failed job's log that are shown
SHORTEST = 30.0  # s, below which no job is begun
GRACE = 10.0  # s between the signal to end and the end

# Sizes of the embedded data set: identities and images of SYSU-MM01 (296 + 99 + 96; some 34,000
# training images), and little enough for two cores without a GPU.
FULL = {
    "people": "--num-train=296 --num-val=99 --num-test=96 --images-per-camera=17",
    "preset": "sysu --model.weights=none",
    "bench_preset": "sysu",
    "epochs": "5",
    "quick": "",
    "steps": "20",
}
REHEARSAL = {
    "people": "--num-train=60 --num-val=2 --num-test=12 --images-per-camera=6",
    "preset": "demo",
    "bench_preset": "demo",
    "epochs": "1",
    "quick": "--quick",
    "steps": "4",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A command, where its words in braces stand for `FULL`, `REHEARSAL` and folders."""

    slice: int | None  # None: when it is needed
    minutes: float  # it may take, or what others leave over; a slice's fit into SLICE_MINUTES
    command: str  # behind python -m
    makes: tuple[str, ...] = ()  # in the results
    keep: tuple[str, ...] = ()  # files of the work folder that are copied to the results
    environ: tuple[tuple[str, str], ...] = ()


TRAIN = "cdp train {preset} --data.root={data} --device={device} --epochs={epochs} --overwrite "
BENCH = (
    "cdp bench {part} --preset={bench_preset} --data-root={data} --device={device} {quick} "
    "--json={out}/{part}.json --plot={out}/{part}.png "
)
TRACE = (
    "bench.trace --preset={bench_preset} --data-root={data} --device={device} --steps={steps} "
    "--out={out}/{part} "
)
RUN_FILES = ("config.json", "metrics.jsonl", "result.json")


def _bench(slice: int, minutes: float, part: str, more: str = "") -> Job:
    return Job(slice, minutes, BENCH + more, (f"{part}.json", f"{part}.png"))


def _run(slice: int, minutes: float, name: str, cache: str) -> Job:
    command = f"{TRAIN}--data.cache={cache} --run-dir={{work}}/{name}"
    return Job(slice, minutes, command, keep=tuple(f"{name}/{file}" for file in RUN_FILES))


JOBS = {
    "data": Job(None, 1.0, "cdp data make {data} {people}"),
    "contact": Job(
        1,
        2.0,
        "bench.contact --device={device} --out={out}/contact.json",
        ("contact.json",),
        # Every kernel at once; and the log tells which decoder took which image.
        environ=(("CUDA_MODULE_LOADING", "EAGER"), ("DALI_NVIMGCODEC_LOG_LEVEL", "3")),
    ),
    # In processes of their own: a test that ends its process does not end the others.
    "tests": Job(
        1,
        6.0,
        "pytest -m gpu -n 4 -v --durations=15 -o faulthandler_timeout=90 "
        "--junitxml={out}/tests.xml",
        ("tests.xml",),
    ),
    "streaming": _run(2, 3.5, "streaming", "none"),
    "cached": _run(2, 2.5, "cached", "auto"),
    "trace": Job(2, 1.0, TRACE, ("trace",)),
    "end-to-end": _bench(3, 3.0, "end-to-end"),
    "step": _bench(3, 4.0, "step"),
    "loader": _bench(4, 2.0, "loader"),
    "stages": _bench(4, 3.0, "stages"),
    "trace-launched": Job(4, 1.5, TRACE + "--cuda-graph=off", ("trace-launched",)),
    "timm": _bench(5, 4.0, "timm", "--timm-script={timm}"),
    "peers": _bench(5, 2.5, "peers"),
}


@dataclass(frozen=True, slots=True)
class Day:
    """Where things are and go."""

    out: Path  # what is kept
    work: Path  # data and runs, which are not
    device: torch.device
    timm: Path | None

    @property
    def sizes(self) -> dict[str, str]:
        """Those of the device."""
        return FULL if self.device.type == "cuda" else REHEARSAL

    @property
    def data(self) -> Path:
        """The data set of that size."""
        return self.work / ("people" if self.device.type == "cuda" else "few-people")

    def command(self, job: Job, name: str) -> list[str]:
        """The job's words."""
        text = job.command
        for size, value in self.sizes.items():
            text = text.replace(f"{{{size}}}", value)
        places = {"out": self.out, "work": self.work, "data": self.data}
        about = {"part": name, "device": self.device.type, "timm": self.timm}
        words = [word.format(**places, **about) for word in text.split()]
        return [sys.executable, "-m", *words]


def gpu_day(day: Day, slices: Sequence[int], again: bool, display: Display) -> bool:
    """Runs the jobs of these slices that have not ended well before; True if all have now.

    `again`: also those that have. Raises `InputError` if the results are of another kind of device.
    """
    record = _open(day)
    for number in slices:
        left = 60 * SLICE_MINUTES
        jobs = {
            name: job
            for name, job in JOBS.items()
            if job.slice == number and (again or not _ended_well(record, name))
        }
        if any("{data}" in job.command for job in jobs.values()) and not synthetic.recipe(day.data):
            left -= _do(day, "data", left, record, display)["seconds"]
        for_others = 60 * sum(job.minutes for job in jobs.values())
        for name, job in jobs.items():
            for_others -= 60 * job.minutes
            limit = max(min(left, 60 * job.minutes), left - for_others)
            left -= _do(day, name, limit, record, display)["seconds"]
    wanted = [name for name, job in JOBS.items() if job.slice in slices]
    summarize(day, record)
    display.say(f"wrote     {day.out}/summary.md")
    return all(_ended_well(record, name) for name in wanted)


def _ended_well(record: dict[str, Any], name: str) -> bool:
    return record["jobs"].get(name, {}).get("state") == "done"


def _open(day: Day) -> dict[str, Any]:
    """What the folder says of the day so far."""
    for folder in (day.out / "logs", day.work):
        folder.mkdir(parents=True, exist_ok=True)
    about = {**environment(), "device": day.device.type, "commit": _commit()}
    file = day.out / DAY
    record = json.loads(file.read_text()) if file.is_file() else {**about, "jobs": {}}
    if record["device"] != about["device"]:
        raise InputError(
            f"--out {day.out}: holds results of a day on {record['device']}, and this is "
            f"{about['device']}; name another folder"
        )
    record |= about
    run_folder.write_result(file, record)
    return record


def _commit() -> str | None:
    """The version of these sources, where git knows it."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


def _do(
    day: Day, name: str, limit: float, record: dict[str, Any], display: Display
) -> dict[str, Any]:
    """Runs one job for at most `limit` seconds; writes and says what came of it."""
    job = JOBS[name]
    done: dict[str, Any] = {"state": "left out", "seconds": 0.0, "command": job.command}
    if "{timm}" in job.command and not day.timm:
        done["why"] = "--timm-script names none"
    elif limit < SHORTEST:
        done["why"] = "no time left in its slice"
    else:
        for file in (*job.makes, *job.keep):  # what an earlier attempt left
            _remove(day.out / file)
        done |= _in_a_process(day, name, job, limit)
        for file in job.keep:
            if (day.work / file).is_file():
                run_folder.make_parent(day.out / file)
                run_folder.write(day.out / file, (day.work / file).read_bytes())
    if done["state"] != "left out" or name not in record["jobs"]:
        record["jobs"][name] = done
    run_folder.write_result(day.out / DAY, record)
    display.say(f"{name:14} {done['state']} {done['seconds']:.0f} s {done.get('why', '')}")
    for line in done.get("last_words", []):
        display.say(f"               {line}")
    return done


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _in_a_process(day: Day, name: str, job: Job, seconds: float) -> dict[str, Any]:
    command, log = day.command(job, name), day.out / "logs" / f"{name}.log"
    compiled = (day.work / "compiled").absolute()  # once for all jobs
    environ = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(compiled),
        "TRITON_CACHE_DIR": str(compiled / "triton"),
        **dict(job.environ),
    }
    start = time.perf_counter()
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        ) as process,
        watch.watching(process.pid) as samples,
    ):
        try:
            status = process.wait(seconds)
            state, why = ("done", "") if status == 0 else ("failed", f"status {status}")
        except subprocess.TimeoutExpired:
            state, why = "stopped", f"not done in {seconds:.0f} s"
            process.send_signal(signal.SIGINT)  # it may write what it has
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:  # whatever it started ends with it
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    kept = day.out / WATCHED
    watched = json.loads(kept.read_text()) if kept.is_file() else {}
    run_folder.write(kept, json.dumps(watched | {name: samples}).encode())
    seconds = time.perf_counter() - start
    done: dict[str, Any] = {"state": state, "seconds": seconds, "command": shlex.join(command[1:])}
    done["commit"] = _commit()
    if state != "done":
        words = log.read_text(errors="replace").strip().splitlines()[-LAST_WORDS:]
        done |= {"why": why, "last_words": words}
    return done | {"watched": watch.summary(samples)}


def summarize(day: Day, record: dict[str, Any]) -> None:
    """Writes summary.md: what ran, what works, how fast it was, the targets; and watch.png."""
    if (day.out / WATCHED).is_file():
        watched = json.loads((day.out / WATCHED).read_text())
        with plot.drawing():
            plot.save(watch.draw(watched, _device(record)), day.out / "watch.png")
    parts = [_head(record), _jobs(record)]
    for make in (_contact, _tests, _training, _steps, _trace, _targets):
        try:
            parts.append(make(day))
        except (OSError, ValueError, KeyError, ElementTree.ParseError):
            continue  # the job has not run, or not to its end
    run_folder.write(day.out / "summary.md", ("\n\n".join(parts) + "\n").encode())


def _device(record: dict[str, Any]) -> str:
    if record["device"] != "cuda":
        return "a rehearsal without a GPU: small and quick, its figures say nothing"
    return f"{record['gpu']['name']}, driver {record['gpu']['driver_version']}"


def _head(record: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    return (
        f"# A GPU day, {record['date'][:10]}\n\n{_device(record)}; {record['num_cores']} cores of "
        f"{record['cpu']}; Python {record['python']}, {packages}; commit {record['commit']}"
    )


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _jobs(record: dict[str, Any]) -> str:
    def seen(job: dict[str, Any], column: str, what: str) -> object:
        return job.get("watched", {}).get(column, {}).get(what, "")

    rows = [
        (
            name,
            job["state"],
            f"{job['seconds']:.0f}",
            seen(job, "gpu_percent", "mean"),
            seen(job, "gpu_memory_mib", "max"),
            seen(job, "host_memory_mib", "max"),
            job.get("why", ""),
        )
        for name, job in record["jobs"].items()
    ]
    return _markdown(("job", "", "s", "GPU, mean %", "GPU, MiB", "host, MiB", ""), rows)


def _contact(day: Day) -> str:
    checks = json.loads((day.out / "contact.json").read_text())["checks"]
    return _markdown(("check", "", ""), ((c["check"], c["state"], c["said"]) for c in checks))


def _tests(day: Day) -> str:
    suites = ElementTree.parse(day.out / "tests.xml").getroot().findall("testsuite")
    counts = {n: sum(int(s.get(n, 0)) for s in suites) for n in TEST_COUNTS}
    return "`pytest -m gpu`: " + ", ".join(f"{count} {name}" for name, count in counts.items())


def _training(day: Day) -> str:
    rows = []
    for run in ("streaming", "cached"):
        file = day.out / run / run_folder.METRICS
        lines = file.read_text().splitlines() if file.is_file() else []
        for epoch in (event for event in map(json.loads, lines) if event["event"] == "epoch"):
            rate, wait = f"{epoch['images_per_second']:.0f}", f"{100 * epoch['data_wait']:.2f}"
            rows.append((run, epoch["epoch"], rate, wait, f"{epoch['loss']:.3f}"))
    return _markdown(("run", "epoch", "images/s", "data wait, %", "loss"), rows)


def _trace(day: Day) -> str:
    return "\n\n".join(
        _idle(json.loads(file.read_text()))
        for name in ("trace", "trace-launched")
        if (file := day.out / name / "idle.json").is_file()
    )


def _idle(found: dict[str, Any]) -> str:
    if found["busy"] is None:
        return "Trace: nothing ran on the device."
    gaps = (
        (
            f"{gap['us']:.0f}",
            gap["after"],
            gap["before"],
            ", ".join(f"{name} {us:.0f}" for name, us in gap["host"].items()),
        )
        for gap in found["gaps"][:5]
    )
    return (
        f"{found['device']}: busy {100 * found['busy']:.2f} % of the time of {found['steps']} "
        f"steps, CUDA graph {found['cuda_graph']}\n\n"
        + _markdown(("idle, µs", "after", "before", "the host meanwhile, µs"), gaps)
    )


def _steps(day: Day) -> str:
    of = json.loads((day.out / "end-to-end.json").read_text())["step_ms"]
    rows = [(name, *(f"{ms[q]:.2f}" for q in QUANTILES)) for name, ms in of.items()]
    return _markdown(("a step, ms", *QUANTILES), rows)


def _targets(day: Day) -> str:
    files = [day.out / f"{part}.json" for part in PARTS]
    made = [json.loads(file.read_text())["ratios"] for file in files if file.is_file()]
    if not made:
        return "Targets: nothing was measured."
    return targets.markdown(targets.merged(made))
