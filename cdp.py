"""The command line: parses and dispatches, nothing else."""

import sys
from collections.abc import Callable

from bench.command import bench
from train.commands.data import data_check, data_make, data_pack, data_preview
from train.commands.ending import exits_by_signals, fail
from train.commands.export import embed, export
from train.commands.overview import doctor, runs
from train.commands.results import experiment, report
from train.commands.search import search
from train.commands.testing import evaluate, score
from train.commands.training import replay_batch, resume, train
from train.live.terminal import discard, never_fail, or_nowhere, reader_left

USAGE = """\
cdp: trains and tests networks for RGB-infrared person re-identification

  cdp train PRESET [--option …]     train, then test on unseen people. PRESET:
                                    demo, small, sysu, regdb, llcm, table (a CSV
                                    of your own images); a method such as agw; a
                                    row of the paper's tables; or your own file,
                                    my_method.py. `cdp train --help` lists them
                                    all
  cdp train --resume RUN_DIR        resume an interrupted run, also on other
                                    hardware; --epochs N changes the total
  cdp train --replay-batch RUN_DIR  show the batch at which the loss became NaN
  cdp eval RUN_DIR                  test a trained run again
  cdp report RUN_DIR                write an HTML page with charts of how a run
                                    went
  cdp score --query Q.npz --gallery G.npz --protocol P
                                    score features from any model, by official
                                    protocols
  cdp experiment NAME               reproduce a table of the paper; trains only
                                    the rows that are missing
  cdp embed RUN_DIR [IMAGES…] --out F
                                    write a trained network's features as .npz
                                    files
  cdp search RUN_DIR --gallery DIR --query IMAGES… --out DIR
                                    find the images most similar to each query:
                                    an HTML page and a CSV
  cdp export RUN_DIR --format F     export a trained network: safetensors, onnx,
                                    torchscript
  cdp runs [DIR]                    list the runs in runs/ or DIR: progress and
                                    figures
  cdp doctor                        show what this machine offers, what is off,
                                    and why
  cdp bench PART…|all               measure images/s of the loader, the training
                                    step, both together, and other loaders
  cdp data make DIR                 write synthetic people as JPEG files
  cdp data check DIR                check that a data set is complete and
                                    readable
  cdp data pack DIR --out SHARDS    pack a data set into a few tar files;
                                    training is identical
  cdp data preview DIR --out F.png  draw originals and their counterparts

`--help` after any command shows its options with their defaults.
Exit status: 0 success, 1 error, 2 wrong use (also no command) or bad input,
3 interrupted and saved.
"""

FIRST_STEPS = """\
cdp: trains networks for RGB-infrared person re-identification. To begin:

  cdp train demo --run-dir runs/demo  synthetic people: minutes on two CPU cores
  cdp report runs/demo                how that run went: an HTML page
  cdp data check DIR                  is your data set complete and readable?
  cdp train sysu --data.root DIR      train on it; or regdb, llcm
  cdp train table --data.root F.csv   train on your own images, listed in a CSV
  cdp doctor                          what this machine offers, what is off, why

cdp --help lists every command; --help after a command, its options.
"""


def main() -> None:
    """Runs the command in `sys.argv`; exits with a status described in `USAGE`."""
    sys.stdout, sys.stderr = map(or_nowhere, (sys.stdout, sys.stderr))
    never_fail(sys.stdout, sys.stderr)
    try:
        with exits_by_signals():
            try:
                run(sys.argv[1:])
            finally:
                sys.stdout.flush()
    except KeyboardInterrupt:
        fail("interrupted", 1)
    except BrokenPipeError:
        if not reader_left(sys.stdout):
            raise
        sys.exit(1)
    except OSError as error:  # others end in `guarded`
        discard(sys.stdout)
        fail(f"standard output: {error.strerror}", 1)


def run(args: list[str]) -> None:
    """Finds the command that `args` starts with and passes it the rest."""
    for name, command in COMMANDS.items():
        words = name.split()
        if args[: len(words)] == words:
            return guarded(command, args[len(words) :])
    if not args:
        print(FIRST_STEPS, end="", file=sys.stderr)
        sys.exit(2)
    if args[0] not in ("-h", "--help", "data"):
        fail(f"unknown command {args[0]!r}; see cdp --help", 2)
    print(USAGE, end="")
    sys.exit(0 if args[-1] in ("-h", "--help") else 2)


def guarded(command: Callable[[list[str]], None], args: list[str]) -> None:
    """Runs the command; reports errors that the user can fix in one line."""
    from pipeline.errors import InputError, is_out_of_memory, said_of_file, said_of_memory

    try:
        command(args)
    except InputError as error:
        fail(str(error), 2)
    except (RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            fail(
                f"memory is full ({said_of_memory(error).strip()[:200]}); stop other programs that "
                "use it, pass --device cpu or, when training, lower --data.p or pass --data.cache "
                "none",
                1,
            )
        if isinstance(error, OSError) and error.errno and not isinstance(error, BrokenPipeError):
            fail(said_of_file(error), 1)  # such as a full disk
        raise


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train --resume": resume,
    "train --replay-batch": replay_batch,
    "train": train,
    "eval": evaluate,
    "report": report,
    "score": score,
    "experiment": experiment,
    "embed": embed,
    "search": search,
    "export": export,
    "runs": runs,
    "doctor": doctor,
    "bench": bench,
    "data make": data_make,
    "data check": data_check,
    "data pack": data_pack,
    "data preview": data_preview,
}


if __name__ == "__main__":
    main()
