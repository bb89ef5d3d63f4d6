"""`cdp bench packed LOOSE SHARDS`: the training loader on loose and on packed files."""

import statistics
from pathlib import Path

import torch
import tyro

from bench.measure import LEAD, TAIL, Pass, Side, in_turn, steady
from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.errors import InputError
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions, num_images

ROUNDS = 9


def packed(loose: tyro.conf.Positional[Path], shards: tyro.conf.Positional[Path]) -> None:
    """Streams epochs of 256x128, P 16, K 4 from each in turn, with a warm page cache.

    Args:
        loose: Folder of a data set.
        shards: The same data set, packed with `cdp data pack`.
    """
    samples = in_turn({"loose": _side(loose), "packed": _side(shards)}, ROUNDS)
    for name in samples.passes:
        print(name, "images/s", *(round(rate) for rate in samples.rates(name)))
    rates = samples.ratios("packed", "loose")
    both = zip(samples.passes["packed"], samples.passes["loose"], strict=True)
    print(f"packed / loose: {statistics.median(rates):.3f} ({min(rates):.2f}-{max(rates):.2f})")
    print(f"CPU, packed / loose: {statistics.median(p.cpu_us / b.cpu_us for p, b in both):.3f}")


def _side(root: Path) -> Side:
    """Returns a side that times an epoch without a cache, except the ends that `steady` drops."""
    options = DataOptions(root=root, cache="none")
    loader = TrainingLoader(read_training(options, root), options, torch.device("cpu"), seed=0)
    steps = len(loader) - LEAD - TAIL
    if steps < 1:
        raise InputError(
            f"{root}: an epoch has {len(loader)} batches, the benchmark needs {LEAD + TAIL + 1}; "
            "make a larger set (`cdp data make DIR --num-train 300`)"
        )

    def measured() -> Pass:
        batches = loader.epoch(1, spectrum.uniform())
        try:
            return steady(batches, steps, num_images(options))
        finally:
            batches.close()  # type: ignore[attr-defined]

    return measured
