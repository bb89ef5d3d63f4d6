"""A polite end: the first signal asks the run to save and stop, a second one ends it at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_STATUS = 3  # of a run that was interrupted and can be resumed
# SIGUSR1 is what SLURM sends ahead of a time limit or pre-emption (`--signal=USR1@60`).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal came, which the message names, and the run is saved."""


class Interruption:
    """Knows whether a signal has come."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # that all ranks know of
        self.own: signal.Signals | None = None  # that this process got

    def agree(self, collect: Callable[[Any], list[Any]]) -> None:
        """Takes note of this process's signal or another's; `collect` gives every rank's value."""
        self.signal = next((s for s in collect(self.own) if s), None)

    def check(self) -> None:
        """Raises `Interrupted` if a signal has come; the run must have been saved."""
        if self.signal:
            raise Interrupted(self.signal.name)


@contextmanager
def caught() -> Iterator[Interruption]:
    """Within, a signal is noted instead of ending the process."""
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
