"""How things are measured here: sides in turn, many rounds, ratios within a round.

A machine's speed drifts by tens of percent within minutes, so a single figure says little. The
sides of a comparison run A B B A …; what is claimed is the median, over rounds, of a round's ratio.
An image is one of the 2PK that reach the network, so that a pair counts as two.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

LEAD, TAIL = 4, 6  # batches before and after those that are timed


@dataclass(frozen=True, slots=True)
class Pass:
    """What a side did in one round."""

    rate: float  # images a second
    cpu_us: float  # CPU time an image, of this process and its workers


Side = Callable[[], Pass]


@dataclass(frozen=True, slots=True)
class Samples:
    """Each side's passes, round by round, in the order in which they were measured."""

    passes: dict[str, list[Pass]]

    def rates(self, side: str) -> list[float]:
        """Images a second, in each round."""
        return [p.rate for p in self.passes[side]]

    def ratios(self, side: str, base: str) -> list[float]:
        """How many times as fast as `base`, in each round."""
        return [a / b for a, b in zip(self.rates(side), self.rates(base), strict=True)]

    def best_of(self, sides: Sequence[str]) -> str:
        """The side with the highest median rate."""
        return max(sides, key=lambda side: statistics.median(self.rates(side)))


def in_turn(
    sides: dict[str, Side],
    rounds: int,
    warmup: int = 1,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Samples:
    """Runs every side once a round; the first `warmup` rounds do not count.

    Each round begins with another side, so that none always follows the same neighbour.
    """
    passes: dict[str, list[Pass]] = {name: [] for name in sides}
    total = (warmup + rounds) * len(sides)
    for number in range(warmup + rounds):
        first = number % len(sides)
        names = [*sides][first:] + [*sides][:first]
        for i, name in enumerate(names):
            tick(number * len(sides) + i, total)
            done = sides[name]()
            if number >= warmup:
                passes[name].append(done)
    return Samples(passes)


def steady(batches: Iterator[Any], steps: int, images: int, lead: int = LEAD) -> Pass:
    """Speed over `steps` batches of so many `images` in the middle of a pass.

    The first `LEAD` are not timed, and `TAIL` more must follow: loaders work ahead, and neither a
    queue that is full at the start nor the end of the work, when nobody fills it, may count.
    What does not work ahead needs less of a `lead`.
    """
    for _ in islice(batches, lead):
        pass
    synchronize()
    cpu, start = cpu_seconds(), time.perf_counter()
    counted = sum(1 for _ in islice(batches, steps))
    synchronize()
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    assert counted == steps, f"the pass ended after {counted} of {steps} batches"
    return Pass(steps * images / seconds, 1e6 * cpu / (steps * images))


def synchronize() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """CPU time so far of this process and its living descendants (theirs in steps of 10 ms)."""
    ticks = sum(map(_ticks, descendants(os.getpid())))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Processes that `pid` started, and those that they did, as far as they live."""
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _ticks(pid: int) -> int:
    # The fields after the command's name, which may hold anything, in parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])  # utime, stime


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 5th, 95th and 99th percentile, lowest and highest."""
    ordered = sorted(values)

    def percentile(q: int) -> float:
        return ordered[round(q / 100 * (len(ordered) - 1))]

    return {
        "median": statistics.median(ordered),
        "min": ordered[0],
        "p5": percentile(5),
        "p95": percentile(95),
        "p99": percentile(99),
        "max": ordered[-1],
    }
