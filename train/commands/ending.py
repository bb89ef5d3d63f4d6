"""How a command ends when it does not end well: one line on stderr and an exit status."""

import os
import sys
from collections.abc import Callable


def fail(message: str, status: int) -> None:
    """One line on stderr, then exit; under torchrun it names the process."""
    rank = os.environ.get("RANK")
    print(f"cdp{f' (rank {rank})' if rank else ''}: {message}", file=sys.stderr)
    sys.exit(status)


def to_its_end(again: str, run: Callable[[], object]) -> None:
    """Turns an end before its time into one line: status 3 for a signal, 1 for other reasons.

    `again` is the command that goes on.
    """
    from pipeline.errors import is_out_of_memory
    from train.distributed import LostRankError
    from train.interruption import EXIT_STATUS, Interrupted
    from train.loop import NotFiniteError

    try:
        run()
    except NotFiniteError as error:
        replay = again.replace("--resume", "--replay-batch").partition(" --device")[0]
        fail(f"{error}; `{replay}` shows that batch", 1)
    except LostRankError as error:
        fail(f"{error}; go on with `{again}`", 1)
    except OSError as error:  # a full disk, above all
        if is_out_of_memory(error):
            raise
        fail(f"{error}; when that is mended, go on with `{again}`", 1)
    except Interrupted as end:
        fail(f"{end}: saved; go on with `{again}`", EXIT_STATUS)
