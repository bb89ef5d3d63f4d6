"""The command line: parses and dispatches, nothing else."""

import sys
from collections.abc import Callable

from bench.command import bench
from train.commands.data import data_check, data_make, data_pack, data_preview
from train.commands.ending import fail
from train.commands.export import embed, export
from train.commands.results import experiment, report
from train.commands.search import search
from train.commands.testing import evaluate, score
from train.commands.training import preset_names, replay_batch, resume, train
from train.live.terminal import never_fail

USAGE = """\
cdp: trains and tests RGB-infrared person re-identification on a DALI pipeline

  cdp train PRESET [--field value …]      train, then test on unseen identities; presets: {presets},
                                          and the paper's methods, baseline-1 … cdp-rgb-hsv
  cdp train --resume RUN_DIR              go on with a run that was interrupted, also elsewhere;
                                          with --epochs N: for so many epochs in all
  cdp train --replay-batch RUN_DIR        show the batch at which the loss was NaN
  cdp eval RUN_DIR                        test a trained run again
  cdp report RUN_DIR                      how a run went: an HTML page and its charts
  cdp score --query Q.npz --gallery G.npz --protocol P
                                          official figures for features made elsewhere
  cdp experiment NAME                     a table of the paper: runs its rows, or what is missing
  cdp embed RUN_DIR [IMAGES…] --out F     a trained network's features, as .npz files for cdp score
  cdp search RUN_DIR --gallery DIR --query IMAGES… --out DIR
                                          the images nearest to each query, as pictures and CSV
  cdp export RUN_DIR --format F           a trained network as safetensors, onnx or torchscript
  cdp bench PART…|all                     images a second: of the loader, the step, both, and others
  cdp data make DIR                       write the embedded synthetic people as JPEG files
  cdp data check DIR                      is the data set whole, and every image readable?
  cdp data pack DIR --out SHARDS          a few tar files in place of many images, same training
  cdp data preview DIR --out FILE.png     picture of originals and their counterparts

`cdp train --help` shows every field with its default; so does --help after any other command.
Exit status: 0 fine, 2 wrong use or bad input, 3 interrupted and saved, 1 anything else.
"""


def main() -> None:
    """Runs the command of `sys.argv`; exits with a status as the usage says."""
    never_fail(sys.stdout, sys.stderr)
    try:
        run(sys.argv[1:])
    except KeyboardInterrupt:
        fail("interrupted", 1)


def run(args: list[str]) -> None:
    """Finds the command's words at the front of `args` and hands it the rest."""
    for name, command in COMMANDS.items():
        words = name.split()
        if args[: len(words)] == words:
            return guarded(command, args[len(words) :])
    usage = USAGE.format(presets=", ".join(preset_names()))
    if args and args[0] not in ("-h", "--help", "data"):
        fail(f"unknown command {args[0]!r}; see cdp --help", 2)
    print(usage, end="", file=sys.stdout if args else sys.stderr)
    sys.exit(0 if args and args[-1] in ("-h", "--help") else 2)


def guarded(command: Callable[[list[str]], None], args: list[str]) -> None:
    """Turns the errors that a user can mend into one line."""
    from pipeline.errors import InputError, is_out_of_memory, said_of_memory

    try:
        command(args)
    except InputError as error:
        fail(str(error), 2)
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        fail(
            f"memory is full ({said_of_memory(error).strip()[:200]}); end what else uses it, pass "
            "--device cpu, or, to train, lower --data.p or pass --data.cache none",
            1,
        )


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
    "bench": bench,
    "data make": data_make,
    "data check": data_check,
    "data pack": data_pack,
    "data preview": data_preview,
}


if __name__ == "__main__":
    main()
