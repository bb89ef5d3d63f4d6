"""How a command ends when it does not end well: one line on stderr and an exit status."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def fail(message: str, status: int) -> None:
    """One line on stderr, then exit; under torchrun it names the process."""
    rank = os.environ.get("RANK")
    print(f"cdp{f' (rank {rank})' if rank else ''}: {message}", file=sys.stderr)
    sys.exit(status)


def to_its_end(again: str, run: Callable[[], object], run_dir: Path | None = None) -> None:
    """Turns an end before its time into one line: status 3 for a signal, 1 for other reasons.

    `again` is the command that goes on; if it needs a run in `run_dir`, it is only offered once
    there is one.
    """
    from pipeline.errors import is_out_of_memory
    from train.distributed import LostRankError
    from train.divergence import CollapsedError, NotFiniteError
    from train.interruption import EXIT_STATUS, Interrupted
    from train.run_folder import is_run

    def go_on() -> str:
        if run_dir is None or is_run(run_dir):
            return f"go on with `{again}`"
        return "start the run again, of which nothing was trained"

    try:
        with _signals_raise():
            run()
    except NotFiniteError as error:
        replay = re.sub(" --(epochs|device) [^ ]+", "", again).replace("--resume", "--replay-batch")
        fail(f"{error}; `{replay}` shows that batch", 1)
    except CollapsedError as error:
        fail(str(error), 1)
    except LostRankError as error:
        fail(f"{error}; {go_on()}", 1)
    except OSError as error:  # a full disk, above all
        if is_out_of_memory(error):
            raise
        fail(f"{error}; when that is mended, {go_on()}", 1)
    except Interrupted as end:
        fail(f"{end}: saved; {go_on()}", EXIT_STATUS)
    except KeyboardInterrupt as end:
        fail(f"{end or 'SIGINT'}: {go_on()}", 1)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Within, signals that ask a run to stop raise KeyboardInterrupt, also before it catches them.

    Not under torchrun, which waits for processes that do not die of SIGTERM at once.
    """
    from train.distributed import find_world
    from train.interruption import SIGNALS

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    numbers = SIGNALS if find_world().size == 1 else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
