"""Where an epoch's time goes: waiting for data, or everything else."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Starts at once, or goes on after `seconds`, of which `waited` were spent waiting for data.

    Wall time on the host; on a GPU read it after a sync with the device.
    """

    def __init__(self, seconds: float = 0.0, waited: float = 0.0) -> None:
        self._start = time.perf_counter() - seconds
        self.waited = waited

    def time_waits(self, batches: Iterable[T]) -> Iterator[T]:
        """Passes the batches on and sums how long each one was waited for."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - begin
            yield batch

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start

    def rate(self, count: int) -> float:
        """`count` things since the start, in things a second."""
        return count / self.seconds()

    def wait_share(self) -> float:
        """The share of the time, 0…1, spent waiting for data."""
        return self.waited / self.seconds()
