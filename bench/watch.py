"""What a machine does while something runs: the GPU, as its driver tells, and memory in use."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.measure import descendants
from bench.plot import QUIET

PERIOD = 0.5  # s
# As `nvidia-smi --help-query-gpu` names them. A driver that does not know one refuses the line.
GPU_FIELDS = {
    "gpu_percent": "utilization.gpu",
    "jpeg_percent": "utilization.jpeg",
    "gpu_memory_mib": "memory.used",
    "power_w": "power.draw",
    "sm_mhz": "clocks.sm",
}
OLDER = ("utilization.jpeg",)  # fields that older drivers lack
# Panels of the picture: label, and lines as (column, unit, name, colour).
PANELS = (
    (
        "use, %",
        (("gpu_percent", 1, "GPU", "#4c78a8"), ("jpeg_percent", 1, "JPEG engine", "#f58518")),
    ),
    ("GPU memory, GiB", (("gpu_memory_mib", 1024, "", "#4c78a8"),)),
    ("power, W", (("power_w", 1, "", "#b279a2"),)),
    ("host memory, GiB", (("host_memory_mib", 1024, "", "#54a24b"),)),
)
HOST = ("host_memory_mib", "num_processes")


@contextmanager
def watching(pid: int) -> Iterator[list[dict[str, float]]]:
    """Samples twice a second what process `pid` and the GPU do; the list grows meanwhile.

    A sample holds `seconds` since the start, `HOST`, and `GPU_FIELDS` where the driver tells them.
    The memory of several processes is added up, with what they share counted in each.
    """
    samples: list[dict[str, float]] = []
    ended = threading.Event()
    start = time.perf_counter()
    fields = known_fields()
    # One process that goes on: to start the driver's tool anew each time would disturb the GPU.
    tool = _nvidia_smi(fields, f"-lms={int(1000 * PERIOD)}") if fields else None

    def watch() -> None:
        while not ended.is_set():
            line = tool.stdout.readline() if tool and tool.stdout else ""
            if not line and ended.wait(PERIOD):  # no tool, or it has ended
                break
            seconds = time.perf_counter() - start
            sample = {"seconds": seconds, **_host(pid), **parse(fields, line)}
            samples.append({name: round(value, 2) for name, value in sample.items()})

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        if tool:
            tool.kill()
        thread.join(10 * PERIOD)


def known_fields() -> dict[str, str]:
    """Those of `GPU_FIELDS` that this machine's driver tells; none without a GPU."""
    for left_out in ((), OLDER):
        fields = {name: field for name, field in GPU_FIELDS.items() if field not in left_out}
        tool = _nvidia_smi(fields)
        if not tool:
            return {}
        try:
            line, _ = tool.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            tool.kill()
            return {}
        if parse(fields, line):
            return fields
    return {}


def _nvidia_smi(fields: dict[str, str], *args: str) -> subprocess.Popen[str] | None:
    """The driver's tool, started; None where there is none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "-i=0", *args]
    try:
        return subprocess.Popen(
            [*command, "--format=csv,noheader,nounits"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None


def parse(fields: dict[str, str], line: str) -> dict[str, float]:
    """The driver's line as numbers; what it does not know ("[N/A]") is left out."""
    numbers = {}
    for name, text in zip(fields, line.split(","), strict=False):
        try:
            numbers[name] = float(text)
        except ValueError:
            continue
    return numbers


def _host(pid: int) -> dict[str, float]:
    pages, processes = 0, [pid, *descendants(pid)]
    for process in processes:
        with suppress(OSError):  # it has ended
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return dict(zip(HOST, (pages * 4096 / 2**20, float(len(processes))), strict=True))


def summary(samples: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and highest of each column."""
    names = {name: None for sample in samples for name in sample if name != "seconds"}
    columns = {name: [s[name] for s in samples if name in s] for name in names}
    return {
        name: {"mean": round(sum(values) / len(values), 1), "max": max(values)}
        for name, values in columns.items()
    }


def draw(watched: dict[str, list[dict[str, float]]], title: str) -> Any:
    """A matplotlib figure: the jobs one after another, use and memory over time."""
    from matplotlib import pyplot

    seen = {name for samples in watched.values() for sample in samples for name in sample}
    panels = [panel for panel in PANELS if any(column in seen for column, *_ in panel[1])]
    figure, grid = pyplot.subplots(
        max(1, len(panels)), 1, figsize=(13, 1 + 1.8 * len(panels)), sharex=True, squeeze=False
    )
    for (label, lines), axes in zip(panels, grid[:, 0], strict=False):
        start = 0.0
        for job, samples in watched.items():
            for column, unit, name, colour in lines:
                points = [(start + s["seconds"], s[column] / unit) for s in samples if column in s]
                if points:
                    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, label=name)
            axes.axvline(start, color="#d0d5da", linewidth=0.8)
            if axes is grid[0, 0]:
                axes.text(start, 1.02, f" {job}", transform=axes.get_xaxis_transform(), fontsize=7)
            start += max((sample["seconds"] for sample in samples), default=0.0)
        if len(lines) > 1:
            names = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
            axes.legend(names.values(), names.keys(), frameon=False, fontsize=7, loc="upper right")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, start)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1, 0].set_xlabel("s")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=QUIET)
    figure.tight_layout()
    return figure
