"""A polite end: the first signal asks the run to save and stop, a second one ends it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

EXIT_STATUS = 3  # of a run that was interrupted and can be resumed
# SIGUSR1 is what SLURM sends ahead of a time limit or pre-emption (`--signal=USR1@60`).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal came, and the run is saved; the message says how to go on."""


class Interruption:
    """Knows whether a signal has come."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def check(self, run_dir: Path) -> None:
        """Raises if a signal has come; the run must have been saved."""
        if self.signal:
            raise Interrupted(
                f"{self.signal.name}: saved; go on with `cdp train --resume {run_dir}`"
            )


@contextmanager
def caught() -> Iterator[Interruption]:
    """Within, a signal is noted instead of ending the process."""
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        if interruption.signal:
            os._exit(128 + number)
        interruption.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
