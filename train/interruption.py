"""Graceful shutdown: the first signal asks the run to save and stop, a second one kills it."""

import os
import signal
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_STATUS = 3  # of a run that was interrupted and can be resumed
# SLURM sends SIGUSR1 before a time limit or pre-emption (`--signal=USR1@60`).
# A terminal that is closed sends SIGHUP, unless the program was started with nohup.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def caught_signals() -> list[signal.Signals]:
    """Returns `SIGNALS` without SIGHUP where it is ignored."""
    return [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


class Interrupted(Exception):
    """A signal arrived, named in the message, and the run is saved."""


class Interruption:
    """Records whether a signal has arrived."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # known to all ranks
        self.own: signal.Signals | None = None  # received by this process

    def reader_left(self) -> None:
        """Stops the run as nobody reads its output, like after `| head`, or Ctrl-C in `| tee`."""
        self.own = self.own or signal.SIGPIPE

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
        if number == signal.SIGHUP:
            discard_lost_output()

    with handled(caught_signals(), note):
        yield interruption


@contextmanager
def handled(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handles these signals by `handler`, and afterwards as before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def discard_lost_output() -> None:
    """Discards what is still printed to a terminal that was closed; writing there would fail."""
    for fd in (1, 2):
        if stat.S_ISCHR(os.fstat(fd).st_mode) and not os.isatty(fd):
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
