"""Where an epoch's time goes: waiting for data, or everything else."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")
Mark = float | torch.cuda.Event


def mark(device: torch.device) -> Mark:
    """Now: on the host's clock, or, on a GPU, when its current stream has come so far."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Mark, end: Mark) -> float:
    """From one mark to a later one; waits until a GPU has passed it."""
    if isinstance(begin, torch.cuda.Event):
        end.synchronize()  # type: ignore[union-attr]
        return begin.elapsed_time(end) / 1000
    return end - begin  # type: ignore[operator]


def has_passed(moment: Mark) -> bool:
    """Has the device come as far as this mark?"""
    return not isinstance(moment, torch.cuda.Event) or moment.query()


class Clock:
    """Starts at once, or goes on after `seconds`, of which `waited` were spent waiting for data.

    What waits for data is the device: without a GPU the host; a GPU from the end of a step until
    the next batch is there. The host may ask for a batch long before the GPU needs it.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, waited: float = 0.0) -> None:
        self._device = device
        self._start = time.perf_counter() - seconds
        self._waited = waited
        self._waits: deque[tuple[Mark, Mark]] = deque()  # not added up yet

    def time_waits(self, batches: Iterable[T]) -> Iterator[T]:
        """Passes the batches on and notes how long each one was waited for."""
        iterator = iter(batches)
        while True:
            begin = mark(self._device)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waits.append((begin, mark(self._device)))
            yield batch

    @property
    def waited(self) -> float:
        """Seconds spent waiting for data; on a GPU it waits until the last batch is there."""
        while self._waits:
            self._waited += seconds_between(*self._waits.popleft())
        return self._waited

    def seconds(self) -> float:
        """Since the start; on a GPU read it after a sync with the device."""
        return time.perf_counter() - self._start

    def rate(self, count: int) -> float:
        """`count` things since the start, in things a second."""
        return count / self.seconds()

    def wait_share(self) -> float:
        """The share of the time, 0…1, spent waiting for data, as far as a GPU has come by now."""
        while self._waits and has_passed(self._waits[0][1]):
            self._waited += seconds_between(*self._waits.popleft())
        return self._waited / self.seconds()
