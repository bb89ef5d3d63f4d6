"""`python -m bench.packed DIR SHARDS`: the training loader on loose files and on a pack of them."""

import statistics
import sys
from pathlib import Path

import torch

from bench.measure import LEAD, TAIL, Pass, Side, in_turn, steady
from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions, num_images

ROUNDS = 9


def main(loose: Path, packed: Path) -> None:
    """Streams an epoch of 256x128, P 16, K 4 from each, in turn, the page cache warm."""
    samples = in_turn({"loose": side(loose), "packed": side(packed)}, ROUNDS)
    for name in samples.passes:
        print(name, "images/s", *(round(rate) for rate in samples.rates(name)))
    rates = samples.ratios("packed", "loose")
    both = zip(samples.passes["packed"], samples.passes["loose"], strict=True)
    print(f"packed / loose: {statistics.median(rates):.3f} ({min(rates):.2f}-{max(rates):.2f})")
    print(f"CPU, packed / loose: {statistics.median(p.cpu_us / b.cpu_us for p, b in both):.3f}")


def side(root: Path) -> Side:
    """An epoch of a loader without a cache, but for the ends that `steady` leaves out."""
    options = DataOptions(root=root, cache="none")
    loader = TrainingLoader(read_training(options, root), options, torch.device("cpu"), seed=0)

    def measured() -> Pass:
        batches = loader.epoch(1, spectrum.uniform())
        try:
            return steady(batches, len(loader) - LEAD - TAIL, num_images(options))
        finally:
            batches.close()  # type: ignore[attr-defined]

    return measured


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
