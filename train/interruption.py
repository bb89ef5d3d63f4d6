"""Graceful shutdown: the first signal asks the run to save and stop, a second one kills it."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_STATUS = 3  # of a run that was interrupted and can be resumed
# SLURM sends SIGUSR1 before a time limit or pre-emption (`--signal=USR1@60`).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal arrived, named in the message, and the run is saved."""


class Interruption:
    """Records whether a signal has arrived."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # known to all ranks
        self.own: signal.Signals | None = None  # received by this process

    def agree(self, collect: Callable[[Any], list[Any]]) -> None:
        """Sets `signal` to any rank's signal; `collect` returns every rank's value."""
        self.signal = next((s for s in collect(self.own) if s), None)

    def check(self) -> None:
        """Raises `Interrupted` if a signal has arrived; the run must have been saved."""
        if self.signal:
            raise Interrupted(self.signal.name)


@contextmanager
def caught() -> Iterator[Interruption]:
    """Records signals instead of letting them end the process."""
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        if interruption.own:
            os._exit(128 + number)
        interruption.own = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
