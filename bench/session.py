"""The session passed to every part of the suite; shows and records comparisons."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.box import SIMPLE_HEAD as HEADS
from rich.table import Table

from bench.measure import LEAD, TAIL, Samples, Side, in_turn, spread, steady, synchronize
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from pipeline.options import num_images
from train.config import Config
from train.live.display import Display
from train.step import WARMUP, TrainingStep

if TYPE_CHECKING:  # imports DALI, which a step alone does not need
    from pipeline.loader import TrainingLoader

# Images per pass of a loader, so that it takes a good part of a second.
IMAGES, QUICK_IMAGES = 4096, 2048
# Maximum length of a pass of slow steps.
SECONDS, QUICK_SECONDS = 4.0, 1.0


@dataclass
class Session:
    """One call of the suite: what is measured, for how long, and the results so far."""

    index: Index
    num_classes: int
    config: Config
    preset: str
    device: torch.device
    precision: str
    rounds: int
    steps: int  # timed in each round
    quick: bool
    display: Display
    timm_script: Path | None = None  # timm's benchmark.py
    sweep: bool = True  # also measure other batch sizes of the step
    keep: Callable[[], None] = lambda: None  # saves the results so far
    trace: Callable[[TrainingStep, "TrainingLoader"], None] = lambda step, loader: None
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    waterfall: dict[str, dict[str, float]] = field(default_factory=dict)  # µs per image and stage
    step_ms: dict[str, dict[str, float]] = field(default_factory=dict)  # quantiles of a real run
    ratios: dict[str, list[float]] = field(default_factory=dict)  # stable name → samples

    def loader_steps(self, loader: "TrainingLoader") -> int:
        """Returns the number of batches to time for a loader; at least `steps`.

        It is higher than for steps, as a loader is much faster. Raises `InputError` if an epoch is
        too short.
        """
        middle = len(loader) - LEAD - TAIL
        if middle < self.steps:
            raise InputError(
                f"{self.index.root}: an epoch has {len(loader)} batches, the benchmark needs "
                f"{LEAD + self.steps + TAIL}; make a larger set (`cdp data make DIR --num-train "
                f"300`){'' if self.quick else ' or pass --quick'}"
            )
        enough = (QUICK_IMAGES if self.quick else IMAGES) // self.images
        return min(middle, max(self.steps, enough))

    def resident_side(self, work: Callable[[], object], images: int) -> Side:
        """Returns a side that repeats `work`, without a loader, `steps` times or as time allows.

        A training step is compiled at its first call and recorded after `WARMUP` more or less slow
        ones; neither is timed.
        """
        for _ in range(WARMUP + 1):
            work()
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        limit = (QUICK_SECONDS if self.quick else SECONDS) / (time.perf_counter() - start)
        steps = max(1, min(self.steps, int(limit)))
        return lambda: steady((work() for _ in repeat(None)), steps, images, lead=1)

    @property
    def images(self) -> int:
        """Images per batch, 2PK."""
        return num_images(self.config.data)

    def compare(
        self, title: str, sides: dict[str, Side], base: str, warmup: int = 1, **about: Any
    ) -> Samples:
        """Measures the sides in turn; prints a table and a JSON line, and records the latter.

        Compares all sides with `base`; `about` adds entries to the record.
        """
        with self.display.progress(title) as tick:
            samples = in_turn(sides, self.rounds, warmup, tick)
        data = self.config.data
        record = {
            "bench": title,
            "unit": "images/s",
            "base": base,
            "preset": self.preset,
            "height_px": data.height_px,
            "width_px": data.width_px,
            "p": data.p,
            "k": data.k,
            "precision": self.precision,
            "num_images": len(self.index),
            "warmup": warmup,
            "rounds": self.rounds,
            "steps": self.steps,
            **about,
            "sides": {name: _side(samples, name, base) for name in sides},
        }
        self.comparisons.append(record)
        self.display.console.print(_table(record))
        self.say_json(record)
        self.keep()
        return samples

    def say_json(self, record: dict[str, Any]) -> None:
        """Prints a record as one line of JSON."""
        self.display.console.print(
            json.dumps(record), soft_wrap=True, highlight=False, markup=False
        )


def _side(samples: Samples, name: str, base: str) -> dict[str, Any]:
    ratios, rates = samples.ratios(name, base), samples.rates(name)
    cpu = [p.cpu_us for p in samples.passes[name]]
    return {
        "rate": spread(rates),
        "cpu_us": spread(cpu),
        "ratio": spread(ratios),
        "rate_samples": rates,
        "cpu_us_samples": cpu,
        "ratio_samples": ratios,
    }


def _table(record: dict[str, Any]) -> Table:
    size = f"{record['height_px']}x{record['width_px']}, P {record['p']} x K {record['k']}"
    table = Table(title=f"{record['bench']} ({record['preset']}: {size})", box=HEADS, padding=0)
    table.caption = f"ratio: to {record['base']!r}, median and range over rounds"
    table.add_column("", max_width=34)
    for name in ("images/s", "± %", "µs CPU", "ratio", "min … max"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, side in record["sides"].items():
        rate, ratio = side["rate"], side["ratio"]
        table.add_row(
            name,
            f"{rate['median']:.0f}",
            f"{50 * (rate['p95'] - rate['p5']) / rate['median']:.0f}",
            f"{side['cpu_us']['median']:.0f}",
            figure(ratio["median"]),
            f"{figure(ratio['min'])} … {figure(ratio['max'])}",
        )
    return table


def figure(x: float) -> str:
    """Formats a number with three digits."""
    return f"{x:.{max(0, 2 - math.floor(math.log10(abs(x))))}f}" if x else "0"
