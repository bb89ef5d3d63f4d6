"""`cdp bench ranking`: time and memory of ranking given features, by gallery size."""

import resource
import time
from typing import Literal

import numpy as np
import torch
import tyro

from pipeline.errors import InputError
from train.evaluation.score import Features, score
from train.metrics import Images, rank

NUM_FEATURES = 2048


def ranking(
    size: tyro.conf.Positional[Literal["sysu", "large", "million"]] = "sysu",
    queries: int = 1000,
    numbers: int = 512,
) -> None:
    """Ranks random features and prints seconds and memory.

    Args:
        size: sysu: 3,803 queries, 4 modes x 10 trials, 2,048 numbers per feature. large: 20,000
            queries x 100,000 gallery images. million: 1,000,000 gallery images, like `cdp score`
            without reading files.
        queries: Number of queries for million.
        numbers: Numbers per feature for million.
    """
    if min(queries, numbers) < 1:
        raise InputError("bench ranking: --queries and --numbers must be at least 1")
    torch.manual_seed(0)
    if size == "million":
        _million(queries, numbers)
    else:
        {"sysu": _sysu, "large": _large}[size]()


def _sysu(repeats: int = 3) -> None:
    """Ranks the official numbers of images: galleries drawn from a pool of 6,775 RGB images."""
    query, pool = _images(3803, 96, 2), _images(6775, 96, 4)
    sizes = (301, 3010, 112, 1120)
    trials = [torch.randperm(len(pool))[:size] for size in sizes for _ in range(10)]
    _report("sysu, 4 modes x 10 trials", query, pool, trials, repeats)


def _large() -> None:
    """Ranks a gallery too large for a distance matrix in memory."""
    query, gallery = _images(20000, 5000, 2), _images(100000, 5000, 9)
    _report("20,000 x 100,000", query, gallery, [torch.arange(len(gallery))], 1)


def _million(queries: int, numbers: int) -> None:
    """Ranks a gallery whose features fill most of a small machine's memory; ten images each."""
    rng = np.random.default_rng(0)

    def features(count: int) -> Features:
        values = rng.standard_normal((count, numbers), np.float32)
        return Features(values, rng.integers(100_000, size=count), rng.integers(9, size=count))

    query, gallery = features(queries), features(1_000_000)
    before = _peak()
    start, cpu = time.perf_counter(), time.process_time()
    score(query, gallery, "market")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"{queries} x 1,000,000, {numbers} numbers: {seconds:.0f} s, {cpu:.0f} s of CPU, "
        f"{torch.get_num_threads()} threads, peak {_peak():.2f} GiB, of which {before:.2f} before"
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _images(count: int, num_pids: int, num_codes: int) -> Images:
    pids, codes = torch.randint(num_pids, (count,)), torch.randint(num_codes, (count,))
    return Images(torch.randn(count, NUM_FEATURES), pids, codes)


def _report(
    name: str, query: Images, gallery: Images, trials: list[torch.Tensor], repeats: int
) -> None:
    for _ in range(repeats):
        start = time.perf_counter()
        rank(query, gallery, trials, cmc_unique_pids=True)
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.2f} s, {torch.get_num_threads()} threads, peak {_peak():.2f} GiB")
