"""`cdp bench loader`: our loader alone, streaming and cached, by threads and by prefetch depth."""

import dataclasses
from typing import Any

import torch
from rich.console import Console

from bench.measure import LEAD, TAIL, Samples, Side, in_turn, report, steady_rate
from pipeline import spectrum
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions, num_threads


def bench_loader(
    index: Index, options: DataOptions, device: torch.device, rounds: int, steps: int, out: Console
) -> list[dict[str, Any]]:
    """Batches of a `TrainingLoader`, counted and dropped."""
    cores = num_threads(options)
    caches = ("none", "host", "gpu") if device.type == "cuda" else ("none", "host")
    names = {"none": "streaming", "host": "cached in host memory", "gpu": "cached on the GPU"}
    about = {"num_images": len(index), "p": options.p, "k": options.k, "steps": steps}

    def compare(title: str, base: str, variants: dict[str, DataOptions]) -> dict[str, Any]:
        loaders = {n: TrainingLoader(index, v, device, seed=0) for n, v in variants.items()}
        for loader in loaders.values():
            check_length(loader, steps)
        sides = {name: loader_side(loader, steps) for name, loader in loaders.items()}
        return report(out, title, measured(sides, rounds), base, about)

    def varied(**changes: Any) -> DataOptions:
        return dataclasses.replace(options, **changes)

    threads = sorted({1, max(1, cores // 2), cores, 2 * cores})
    return [
        compare("loader, cache", "streaming", {names[c]: varied(cache=c) for c in caches}),
        compare(
            "loader, threads",
            "1 threads",
            {f"{n} threads": varied(cache="none", threads=n) for n in threads},
        ),
        compare(
            "loader, prefetch",
            "prefetch 1",
            {f"prefetch {n}": varied(cache="none", prefetch=n) for n in (1, 2, 4)},
        ),
    ]


def measured(sides: dict[str, Side], rounds: int) -> Samples:
    """Two rounds of warm-up: the first fills caches and buffers, the second finds them full."""
    return in_turn(sides, rounds, warmup=2)


def loader_side(loader: TrainingLoader, steps: int) -> Side:
    """One call times `steps` batches of an epoch, always the same one; pairs a second.

    The same epoch each time, so that every side does the same work and a cache is full after one.
    """
    options = loader.source.options

    def side() -> float:
        batches = loader.epoch(1, spectrum.uniform())
        try:
            return steady_rate(batches, steps, options.p * options.k)
        finally:
            batches.close()  # type: ignore[attr-defined]

    return side


def check_length(loader: TrainingLoader, steps: int) -> None:
    """Raises `InputError` if an epoch is too short to time `steps` batches in its middle."""
    need = LEAD + steps + TAIL
    if len(loader) < need:
        raise InputError(
            f"{loader.source.index.root}: an epoch has {len(loader)} batches, the benchmark needs "
            f"{need}; make a larger set (`cdp data make DIR --num-train 300`) or pass --quick"
        )
