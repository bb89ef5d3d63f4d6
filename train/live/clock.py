"""Splits an epoch's time into waiting for data and everything else."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from pipeline.options import num_cores
from train.live import cores

T = TypeVar("T")
Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """Marks the present on the host's clock or, for a GPU, in its current stream."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """Returns the seconds from one mark to a later one; waits until the GPU has passed it."""
    if isinstance(start, torch.cuda.Event):
        end.synchronize()  # type: ignore[union-attr]
        return start.elapsed_time(end) / 1000
    return end - start  # type: ignore[operator]


def has_passed(moment: Mark) -> bool:
    """Whether the device has reached this mark."""
    return not isinstance(moment, torch.cuda.Event) or moment.query()


class Clock:
    """Starts at construction, at `seconds`, of which `waited` were spent waiting for data.

    Measures how long the device waits: a GPU, from the end of a step until the next batch is
    ready, or else the host. The host may ask for a batch long before the GPU needs it.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, waited: float = 0.0) -> None:
        self._device = device
        self._start = time.perf_counter() - seconds
        self._waited = waited
        self._waits: deque[tuple[Mark, Mark]] = deque()  # not yet added to `_waited`
        self._usage = cores.usage()

    def time_waits(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches and measures the wait for each."""
        iterator = iter(batches)
        while True:
            start = mark(self._device)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waits.append((start, mark(self._device)))
            yield batch

    @property
    def waited(self) -> float:
        """Seconds spent waiting for data; blocks until a GPU has received the last batch."""
        while self._waits:
            self._waited += seconds_between(*self._waits.popleft())
        return self._waited

    def seconds(self) -> float:
        """Returns the seconds since the start; on a GPU, synchronize first."""
        return time.perf_counter() - self._start

    def rate(self, count: int) -> float:
        """Returns `count` per second since the start."""
        return count / self.seconds()

    def wait_share(self) -> float:
        """Returns the share of time, 0…1, spent waiting for data, up to the GPU's current work."""
        while self._waits and has_passed(self._waits[0][1]):
            self._waited += seconds_between(*self._waits.popleft())
        return self._waited / self.seconds()

    def cores_taken(self) -> float:
        """Returns the share of this process's cores, 0…1, that other programs took since then."""
        return cores.share_taken(self._usage, cores.usage(), num_cores())
