"""`cdp bench end-to-end --trace DIR`: a trace of training steps; when and why the GPU was idle.

torch's profiler sees all kernels of the process, including DALI's. Open the trace in
https://ui.perfetto.dev.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from bench.measure import synchronize
from bench.session import Session
from pipeline import spectrum
from pipeline.loader import TrainingLoader
from train import run_folder, runtime
from train.live.display import Display
from train.step import TrainingStep

WARMUP = 6  # steps before tracing, to fill the loader's queues
NUM_STEPS = 20
WAIT, STEP = "wait for data", "launch the step"  # the host's two activities
ON_A_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
ON_A_CPU = ("cpu_op",)
NUM_GAPS = 10


@dataclass(frozen=True, slots=True)
class Event:
    """One bar of a trace; times in µs from the trace's start."""

    kind: str
    name: str
    lane: str  # the stream on a GPU, the thread on the host
    start: float
    end: float


def trace(session: Session, folder: Path, step: TrainingStep, loader: TrainingLoader) -> None:
    """Traces up to `NUM_STEPS` steps into `folder`: trace.json.gz and idle.json."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = min(NUM_STEPS, session.steps)
    with runtime.own_stream(session.device):
        batches = iter(loader.epoch(1, spectrum.uniform()))
        for _ in range(WARMUP):
            step(next(batches))
        activities = [ProfilerActivity.CPU]
        if session.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        synchronize()
        with profile(activities=activities) as profiler:
            for _ in range(steps):
                with record_function(WAIT):
                    batch = next(batches)
                with record_function(STEP):
                    step(batch)
            synchronize()
        batches.close()  # type: ignore[attr-defined]
    file = folder / "trace.json.gz"
    profiler.export_chrome_trace(str(file))
    events = read(file)
    found = idle(events) | {"steps": steps, "cuda_graph": step.options.cuda_graph}
    run_folder.write_result(folder / "idle.json", found)
    say(found, session.display)


def read(file: Path) -> list[Event]:
    """Reads the bars of a trace by torch's profiler, sorted by start time, counted from 0."""
    with gzip.open(file) as opened:
        bars = [e for e in json.load(opened)["traceEvents"] if e.get("ph") == "X" and "cat" in e]
    zero = min((bar["ts"] for bar in bars), default=0.0)
    events = [
        Event(
            kind=bar["cat"],
            name=str(bar["name"]),
            lane=str(bar.get("args", {}).get("stream", bar["tid"])),
            start=bar["ts"] - zero,
            end=bar["ts"] - zero + bar.get("dur", 0.0),
        )
        for bar in bars
    ]
    return sorted(events, key=lambda event: event.start)


def work_of(events: Iterable[Event]) -> list[Event]:
    """Returns the device's work: kernels and copies, or torch's operators without a GPU."""
    events = list(events)
    on_gpu = [event for event in events if event.kind in ON_A_GPU]
    return on_gpu or [event for event in events if event.kind in ON_A_CPU]


def idle(events: Sequence[Event]) -> dict[str, Any]:
    """Returns how busy the device was between its first and last work, and its longest gaps.

    Each gap names the work before and after it, and what the host did meanwhile.
    """
    work = work_of(events)
    if not work:
        return {"busy": None, "window_ms": 0.0, "gaps": []}
    busy_us, until, before = 0.0, work[0].start, work[0]
    gaps: list[tuple[float, float, str, str]] = []
    for event in work:
        if event.start > until:
            gaps.append((until, event.start, before.name, event.name))
        busy_us += max(0.0, event.end - max(event.start, until))
        if event.end >= until:
            until, before = event.end, event
    window = until - work[0].start
    longest = sorted(gaps, key=lambda gap: gap[0] - gap[1])[:NUM_GAPS]
    return {
        "device": "GPU" if work[0].kind in ON_A_GPU else "CPU, torch's operators",
        "busy": busy_us / window if window else 1.0,
        "window_ms": window / 1000,
        "num_events": len(work),
        "idle_ms": sum(end - start for start, end, *_ in gaps) / 1000,
        "gaps": [
            {
                "us": end - start,
                "at_ms": (start - work[0].start) / 1000,
                "after": last,
                "before": first,
                "host": _host_between(events, start, end),
            }
            for start, end, last, first in longest
        ],
    }


def _host_between(events: Sequence[Event], start: float, end: float) -> dict[str, float]:
    """Returns the host's five longest activities between two times, name → µs."""
    spent: dict[str, float] = {}
    for event in events:
        overlap = min(event.end, end) - max(event.start, start)
        if overlap > 0 and event.kind in ("user_annotation", "cuda_runtime", "cuda_driver"):
            spent[event.name] = spent.get(event.name, 0.0) + overlap
    return dict(sorted(spent.items(), key=lambda item: -item[1])[:5])


def say(found: dict[str, Any], display: Display) -> None:
    """Prints the share of busy time and the three longest gaps."""
    if found["busy"] is None:
        display.say("nothing ran on the device")
        return
    display.say(
        f"{found['device']}: busy {100 * found['busy']:.2f} % of {found['window_ms']:.1f} ms, "
        f"{found['steps']} steps"
    )
    for gap in found["gaps"][:3]:
        host = ", ".join(f"{name} {us:.0f} µs" for name, us in gap["host"].items()) or "nothing"
        display.say(
            f"idle {gap['us']:.0f} µs at {gap['at_ms']:.1f} ms, after {gap['after'][:60]}, before "
            f"{gap['before'][:60]}; the host: {host}"
        )
