"""How the suite measures: it alternates the sides, for many rounds, with ratios within a round.

A machine's speed drifts by tens of percent within minutes, so a single figure says little. The
sides of a comparison run in turn; results are the median over rounds of the ratio within a round.
Images are the 2PK that reach the network, so a pair counts as two.
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
    """One side's result in one round."""

    rate: float  # images/s
    cpu_us: float  # CPU time per image, of this process and its workers


Side = Callable[[], Pass]


@dataclass(frozen=True, slots=True)
class Samples:
    """Each side's passes, in the order of measurement."""

    passes: dict[str, list[Pass]]

    def rates(self, side: str) -> list[float]:
        """Returns images/s of each round."""
        return [p.rate for p in self.passes[side]]

    def ratios(self, side: str, base: str) -> list[float]:
        """Returns the speed relative to `base` in each round."""
        return [a / b for a, b in zip(self.rates(side), self.rates(base), strict=True)]

    def best_of(self, sides: Sequence[str]) -> str:
        """Returns the side with the highest median rate."""
        return max(sides, key=lambda side: statistics.median(self.rates(side)))


def in_turn(
    sides: dict[str, Side],
    rounds: int,
    warmup: int = 1,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Samples:
    """Runs every side once per round; the first `warmup` rounds do not count.

    Each round starts with another side, so that no side always comes first or last.
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
    """Times `steps` batches of `images` each in the middle of a pass.

    The first `lead` batches are not timed, and `TAIL` more must follow: loaders work ahead, so the
    full queue at the start and the draining queue at the end must not count. What does not work
    ahead needs a shorter `lead`.
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
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """Returns CPU time of this process and its living descendants (theirs in 10 ms steps)."""
    ticks = sum(map(_ticks, descendants(os.getpid())))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Returns the living child processes of `pid` and their descendants."""
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _ticks(pid: int) -> int:
    # Skips the command name in parentheses, which may contain anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])  # utime, stime


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, 5th, 95th and 99th percentile, minimum and maximum."""
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
