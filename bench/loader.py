"""`cdp bench loader`: our loader alone, by page cache, pixel cache, threads and prefetch."""

import dataclasses
import os
from functools import partial
from typing import Any

from bench.measure import Pass, Side, steady
from bench.session import Session
from pipeline import spectrum
from pipeline.augment import augmented
from pipeline.batches import device_id, run
from pipeline.datasets.records import Index
from pipeline.graph import training_graph
from pipeline.loader import TrainingLoader
from pipeline.options import AugmentationOptions, num_threads
from pipeline.source import TrainingSource

CACHES = {"none": "streaming", "host": "cached in host memory", "gpu": "cached on the GPU"}


def bench_loader(session: Session) -> None:
    """Measures batches of a `TrainingLoader`, which are dropped."""
    data = session.config.data
    names = {cache: CACHES[cache] for cache in caches(session)}
    cached = session.compare(
        "loader, cache", {name: ours(session, cache=c) for c, name in names.items()}, "streaming", 2
    )
    fastest = list(names.values())[-1]
    session.ratios["cached_over_streaming"] = cached.ratios(fastest, "streaming")
    session.ratios["decodes_per_image"] = [_decodes_per_image(session)]

    streaming = ours(session, cache="none")

    def cold() -> Pass:
        forget(session.index)
        return streaming()

    session.compare("loader, page cache", {"warm": streaming, "cold": cold}, "warm")
    threads = sorted({1, max(1, num_threads(data) // 2), num_threads(data), 2 * num_threads(data)})
    session.compare(
        "loader, threads",
        {f"threads {n}": ours(session, cache="none", threads=n) for n in threads},
        "threads 1",
    )
    session.compare(
        "loader, prefetch",
        {f"prefetch {n}": ours(session, cache="none", prefetch=n) for n in (1, 2, 4)},
        "prefetch 1",
    )


def caches(session: Session) -> list[str]:
    """Returns the caches available here, the fastest last."""
    return ["none", "host", *(["gpu"] if session.device.type == "cuda" else [])]


def make_loader(
    session: Session, augmentation: AugmentationOptions | None = None, **changes: Any
) -> TrainingLoader:
    """Returns the preset's training loader with changed options."""
    options = dataclasses.replace(session.config.data, **changes)
    augment = partial(augmented, options=augmentation) if augmentation else None
    return TrainingLoader(session.index, options, session.device, seed=0, augment=augment)


def ours(session: Session, **changes: Any) -> Side:
    """Returns our loader with changed options as a side of a comparison."""
    return loader_side(make_loader(session, **changes), session)


def loader_side(loader: TrainingLoader, session: Session) -> Side:
    """Returns a side that times batches in the middle of an epoch.

    It is the same epoch each time, so that all sides do the same work and one pass fills a cache.
    """
    steps = session.loader_steps(loader)

    def side() -> Pass:
        batches = loader.epoch(1, spectrum.uniform())
        try:
            return steady(batches, steps, session.images)
        finally:
            batches.close()  # type: ignore[attr-defined]

    return side


def forget(index: Index) -> None:
    """Asks the kernel to drop the files from its page cache, so that they are read from disk."""
    for row in range(len(index)):
        file = os.open(index.path(row), os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


class _Counting(TrainingSource):
    """Counts the files passed to the decoder."""

    num_files = 0

    def images(self) -> Any:
        paths = super().images()
        self.num_files += len(paths)
        return paths


def _decodes_per_image(session: Session) -> float:
    """Returns decoded files / received images of an epoch without a cache."""
    data, device = session.config.data, session.device
    source = _Counting(session.index, data, seed=0)
    graph = training_graph(source, data, device_id(device), num_threads(data))
    source.begin(1, spectrum.uniform())
    received = sum(len(pairs.flatten(0, 1)) for _, (pairs, *_) in run(graph, source, device))
    return source.num_files / received
