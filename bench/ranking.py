"""How long ranking takes once features are there: SYSU-MM01's four modes, and a large gallery.

python -m bench.ranking sysu      3,803 queries, 4 modes x 10 trials, 2,048 numbers a feature
python -m bench.ranking large     20,000 queries x 100,000 gallery images, once
"""

import resource
import sys
import time

import torch

from train.evaluation.metrics import Images, rank

NUM_FEATURES = 2048


def sysu(repeats: int = 3) -> None:
    """The official numbers of images: a pool of 6,775 RGB test images, galleries drawn from it."""
    query, pool = _images(3803, 96, 2), _images(6775, 96, 4)
    sizes = (301, 3010, 112, 1120)
    trials = [torch.randperm(len(pool))[:size] for size in sizes for _ in range(10)]
    _report("sysu, 4 modes x 10 trials", query, pool, trials, repeats)


def large() -> None:
    """A gallery that no distance matrix in memory would hold."""
    query, gallery = _images(20000, 5000, 2), _images(100000, 5000, 9)
    _report("20,000 x 100,000", query, gallery, [torch.arange(len(gallery))], 1)


def _images(count: int, num_pids: int, num_places: int) -> Images:
    pids, places = torch.randint(num_pids, (count,)), torch.randint(num_places, (count,))
    return Images(torch.randn(count, NUM_FEATURES), pids, places)


def _report(
    name: str, query: Images, gallery: Images, trials: list[torch.Tensor], repeats: int
) -> None:
    for _ in range(repeats):
        start = time.perf_counter()
        rank(query, gallery, trials, cmc_unique_pids=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name}: {seconds:.2f} s, {torch.get_num_threads()} threads, peak {peak:.2f} GiB")


if __name__ == "__main__":
    torch.manual_seed(0)
    {"sysu": sysu, "large": large}[sys.argv[1]]()
