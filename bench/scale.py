"""`cdp bench scale`: the index, the epoch plan, the source and DHSM with many images and people.

Reads no files: the index is made in memory, in random order, each identity with at least two images
of each modality. MB is a part's peak increase of the process's resident memory (Linux); blocks is
the change in the number of Python's memory blocks.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from pipeline.counterpart import feeding
from pipeline.datasets.records import Index
from pipeline.draws import Draw
from pipeline.errors import InputError
from pipeline.groups import group
from pipeline.options import DataOptions
from pipeline.reader import encode_paths
from pipeline.sampler import plan_epoch
from pipeline.source import TrainingSource
from pipeline.spectrum import uniform
from train import run_folder
from train.dhsm import DhsmOptions, Mining

OPTIONS = DataOptions(p=16, k=4, on_bad_image="skip")
BAD = 1000
BATCHES = 2000


def synthetic(images: int, identities: int, seed: int = 0) -> Index:
    """Makes an index without files; `images` must be at least four times `identities`."""
    rng = np.random.default_rng(seed)
    others = images - 4 * identities
    everyone = np.repeat(np.arange(identities), 4)
    order = rng.permutation(images)
    pids = np.concatenate([everyone, rng.integers(identities, size=others)])[order]
    modality = np.concatenate([np.arange(4 * identities) % 2, rng.integers(2, size=others)])[order]
    paths = np.empty(images, "S28")
    for start in range(0, images, 100_000):  # in parts, to bound the memory of strings
        rows = np.arange(start, min(start + 100_000, images))
        paths[rows] = [
            b"cam%d/%08d/%08d.jpg" % (m, p, r)
            for m, p, r in zip(
                modality[rows].tolist(), pids[rows].tolist(), rows.tolist(), strict=True
            )
        ]
    return Index(Path("/data"), paths, pids, 1 + 2 * modality, modality.astype(np.uint8))


def resident(field: str) -> float:
    """Returns VmRSS (current) or VmHWM (peak since its reset) of this process in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


@contextmanager
def measured(name: str, rows: list[dict[str, Any]]) -> Iterator[None]:
    """Measures the block and appends a row."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, blocks = resident("VmRSS"), sys.getallocatedblocks()
    start, cpu = time.perf_counter(), time.process_time()
    yield
    rows.append(
        {
            "part": name,
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mb": resident("VmHWM") - before,
            "blocks": sys.getallocatedblocks() - blocks,
        }
    )


def of_one(work: Callable[[int], object]) -> float:
    """Returns the median seconds of `BATCHES` calls."""
    times = []
    for step in range(BATCHES):
        start = time.perf_counter()
        work(step)
        times.append(time.perf_counter() - start)
    return median(times)


def measure(index: Index, num_classes: int) -> list[dict[str, Any]]:
    """Measures all parts; returns one row per part."""
    rows: list[dict[str, Any]] = []
    for sampling in ("balanced", "random"):
        with measured(f"group, once, {sampling}", rows):
            groups = group(index, sampling)
        for epoch in (1, 2):
            with measured(f"plan, {sampling}, epoch {epoch}", rows):
                plan_epoch(index, OPTIONS.p, OPTIONS.k, sampling, 0, epoch, groups)
        del groups
    with measured("source, made once", rows):
        source = TrainingSource(index, OPTIONS, seed=0)
    with measured("source, begin an epoch", rows):
        source.begin(1, uniform())
    source.plan.bad = dict.fromkeys(np.unique(index.pids[:BAD], return_index=True)[1].tolist(), "")
    with measured(f"source, begin, {BAD} bad images", rows):
        source.begin(2, uniform())
    steps = min(BATCHES, source.plan.steps)
    source.begin(3, uniform())
    paths = of_one(lambda step: encode_paths(index, source.plan.rows_of_all(step % steps)))
    feed = source.feed(Draw("pair", 3, feeding(OPTIONS)))
    source.begin(3, uniform())
    draws = of_one(lambda step: feed() if step < steps else None)
    rows.append({"part": "batch of 64, paths", "seconds": paths})
    rows.append({"part": "batch of 64, draws", "seconds": draws})
    del source
    logits = torch.zeros(OPTIONS.p * OPTIONS.k, num_classes)
    confidence = Mining(DhsmOptions(), 4, torch.device("cpu"))
    pids = torch.arange(len(logits)) % num_classes
    spectrum = (torch.arange(len(logits)) % 4).to(torch.int8)
    confidence.add(confidence.of_step(logits[:, :2], pids % 2, spectrum))  # starts threads
    with measured(f"DHSM, a step, {num_classes:,} classes", rows):
        confidence.add(confidence.of_step(logits, pids, spectrum))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Formats rows as text, one line per part."""
    lines = [f"{'part':38} {'ms':>10} {'CPU ms':>10} {'peak MB':>8} {'blocks':>8}"]
    for row in rows:
        cpu = f"{1e3 * row['cpu_seconds']:.0f}" if "cpu_seconds" in row else ""
        peak, blocks = (f"{row[key]:.0f}" if key in row else "" for key in ("peak_mb", "blocks"))
        lines.append(
            f"{row['part']:38} {1e3 * row['seconds']:>10.3f} {cpu:>10} {peak:>8} {blocks:>8}"
        )
    return "\n".join(lines)


def scale(images: int = 10_000_000, identities: int = 1_000_000, json: Path | None = None) -> None:
    """Measures the cost of many images and people, without any files.

    Args:
        images: Number of images; at least four times the identities.
        identities: Number of people.
        json: File to write the results to.
    """
    if images < 4 * identities:
        raise InputError(f"--images {images}: must be at least 4 x --identities")
    if identities < OPTIONS.p:
        raise InputError(f"--identities {identities}: must be at least {OPTIONS.p}")
    if json:
        run_folder.make_parent(json)
    rows: list[dict[str, Any]] = []
    with measured("index itself", rows):
        index = synthetic(images, identities)
    rows += measure(index, identities)
    print(table(rows))
    threads = torch.get_num_threads()
    result = {"images": images, "identities": identities, "threads": threads, "parts": rows}
    if json:
        run_folder.write_result(json, result)
