"""How a command reports failure: one line on stderr and an exit status."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


def fail(message: str, status: int) -> None:
    """Prints one line on stderr, naming the rank under torchrun, and exits."""
    rank = os.environ.get("RANK")
    with suppress(OSError):  # nobody reads it
        print(f"cdp{f' (rank {rank})' if rank else ''}: {message}", file=sys.stderr)
    sys.exit(status)


@contextmanager
def exits_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP exit like an error, so that no temporary files are left.

    Not under torchrun, which waits for processes that do not die of SIGTERM at once.
    """
    from train.interruption import handled

    if "RANK" in os.environ:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    heard = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]  # not all after nohup
    with handled(heard, stop):
        yield


def run_to_end(resume_command: str, run: Callable[[], object], run_dir: Path | None = None) -> None:
    """Calls `run`; reports an early end in one line: status 3 for a signal, 1 for other reasons.

    `resume_command` is offered only once `run_dir`, if given, holds a run.
    """
    from pipeline.errors import is_out_of_memory, said_of_file
    from train.distributed import LostRankError
    from train.divergence import CollapsedError, NotFiniteError
    from train.interruption import EXIT_STATUS, Interrupted
    from train.run_folder import is_run

    def how_to_resume() -> str:
        if run_dir is None or is_run(run_dir):
            return f"resume with `{resume_command}`"
        return "start the run again, nothing was trained yet"

    try:
        with _signals_raise():
            run()
    except NotFiniteError as error:
        replay = re.sub(" --(epochs|device) [^ ]+", "", resume_command)
        replay = replay.replace("--resume", "--replay-batch")
        fail(f"{error}; `{replay}` shows that batch", 1)
    except CollapsedError as error:
        fail(str(error), 1)
    except LostRankError as error:
        fail(f"{error}; {how_to_resume()}", 1)
    except OSError as error:  # usually a full disk
        if is_out_of_memory(error) or isinstance(error, BrokenPipeError):
            raise
        fail(f"{said_of_file(error)}; once that is fixed, {how_to_resume()}", 1)
    except Interrupted as end:
        fail(f"{end}: saved; {how_to_resume()}", EXIT_STATUS)
    except KeyboardInterrupt as end:
        fail(f"{end or 'SIGINT'}: {how_to_resume()}", 1)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Makes signals raise KeyboardInterrupt until the run installs its own handlers.

    Not under torchrun, which waits for processes that do not die of SIGTERM at once.
    """
    from train.distributed import find_world
    from train.interruption import caught_signals, discard_lost_output, handled

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            discard_lost_output()
        raise KeyboardInterrupt(signal.Signals(number).name)

    with handled(caught_signals() if find_world().size == 1 else (), stop):
        yield
