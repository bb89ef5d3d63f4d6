"""How things are measured here: sides in turn, many rounds, ratios within a round.

A machine's speed drifts by tens of percent within minutes, so a single figure says little. The
sides of a comparison run A B A B …; what is claimed is the median, over rounds, of a round's ratio.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "numpy", "pillow", "timm")
LEAD, TAIL = 4, 6  # batches before and after those that are timed
Side = Callable[[], float]  # does its work once and returns the rate, in images a second


@dataclass(frozen=True, slots=True)
class Samples:
    """Rates of each side, round by round, in the order in which they were measured."""

    rates: dict[str, list[float]]

    def median(self, side: str) -> float:
        """The side's median rate."""
        return statistics.median(self.rates[side])

    def ratios(self, side: str, base: str) -> list[float]:
        """How many times as fast as `base`, in each round."""
        return [a / b for a, b in zip(self.rates[side], self.rates[base], strict=True)]


def in_turn(sides: dict[str, Side], rounds: int, warmup: int = 1) -> Samples:
    """Runs every side once a round; the first `warmup` rounds do not count."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmup + rounds):
        for name, side in sides.items():
            rate = side()
            if number >= warmup:
                rates[name].append(rate)
    return Samples(rates)


def steady_rate(batches: Iterator[Any], steps: int, batch_size: int) -> float:
    """Things a second over `steps` batches in the middle of a pass.

    The first `LEAD` are not timed, and `TAIL` more must follow: loaders work ahead, and neither a
    queue that is full at the start nor the end of the work, when nobody fills it, may count.
    """
    for _ in islice(batches, LEAD):
        pass
    synchronize()
    start = time.perf_counter()
    counted = sum(1 for _ in islice(batches, steps))
    synchronize()
    seconds = time.perf_counter() - start
    assert counted == steps, f"the pass ended after {counted} of {steps} batches"
    return steps * batch_size / seconds


def synchronize() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest, highest, and the half-width of the middle 90 % relative to the median."""
    ordered = sorted(values)
    low, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.05, 0.95))
    middle = statistics.median(ordered)
    return {
        "median": middle,
        "min": ordered[0],
        "max": ordered[-1],
        "spread": (high - low) / 2 / middle,
    }


def environment() -> dict[str, Any]:
    """What a figure depends on: hardware, drivers, versions, date."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    about: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.processor(),
        "num_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "gpu": None,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        about["gpu"] = {
            "name": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "clock_mhz": torch.cuda.clock_rate(0),
        }
    return about


def report(
    console: Console,
    title: str,
    samples: Samples,
    base: str,
    about: dict[str, Any],
    unit: str = "pairs/s",
) -> dict[str, Any]:
    """Prints the table and one JSON line; returns what the line holds.

    `base` is the side that the others are compared with; `about` says what was measured.
    """
    table = Table(title=title)
    table.add_column("side")
    for name in (unit, "spread", f"x {base}", "min … max"):
        table.add_column(name, justify="right")
    sides: dict[str, Any] = {}
    for name, rates in samples.rates.items():
        ratio = spread(samples.ratios(name, base))
        sides[name] = {"rate": spread(rates), "samples": rates, "ratio": ratio}
        table.add_row(
            name,
            f"{samples.median(name):.0f}",
            f"± {100 * sides[name]['rate']['spread']:.0f} %",
            f"{ratio['median']:.2f}",
            f"{ratio['min']:.2f} … {ratio['max']:.2f}",
        )
    console.print(table)
    result = {"bench": title, "unit": unit, "base": base, **about, "sides": sides}
    console.print(json.dumps(result), soft_wrap=True, highlight=False, markup=False)
    return result
