"""The command line: parses and dispatches, nothing else."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

USAGE = """\
cdp: trains and tests RGB-infrared person re-identification on a DALI pipeline

  cdp train PRESET [--field value …]      train, then test on unseen identities; presets: {presets}
  cdp train --resume RUN_DIR              go on with a run that was interrupted
  cdp train --replay-batch RUN_DIR        show the batch at which the loss was NaN
  cdp eval RUN_DIR                        test a trained run again
  cdp score --query Q.npz --gallery G.npz --protocol P
                                          official figures for features made elsewhere
  cdp bench PART|all                      images a second: stages, loader, peers, step, end-to-end
  cdp data make DIR                       write the embedded synthetic people as JPEG files
  cdp data check DIR                      is the data set whole, and every image readable?
  cdp data preview DIR --out FILE.png     picture of originals and their counterparts

`cdp train --help` shows every field with its default; so does --help after any other command.
Exit status: 0 fine, 2 wrong use or bad input, 3 interrupted and saved, 1 anything else.
"""


def main() -> None:
    """Runs the command of `sys.argv`; exits with 0, 1 or 2 as the usage says."""
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
    from model.options import OptionError
    from pipeline.errors import InputError

    try:
        command(args)
    except (InputError, OptionError) as error:
        fail(str(error), 2)


def fail(message: str, status: int) -> None:
    """One line on stderr, then exit."""
    print(f"cdp: {message}", file=sys.stderr)
    sys.exit(status)


def preset_names() -> list[str]:
    from train.presets import PRESETS

    return list(PRESETS)


def train(args: list[str]) -> None:
    import re
    import time

    import tyro

    from pipeline.errors import InputError
    from train import replay
    from train.config import Config
    from train.loop import train as run_training
    from train.presets import PRESETS
    from train.reporting.display import Display
    from train.trials import resume, train_trials

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[Config, tyro.conf.arg(name="")]
        run_dir: Path | None = None
        """Folder for configuration, metrics, checkpoints and result; default runs/PRESET-TIME."""
        overwrite: bool = False
        """Replace the run that --run-dir holds."""

    if args[:1] in (["--resume"], ["--replay-batch"]):
        if len(args) != 2:
            raise InputError(f"train {args[0]} RUN_DIR: takes the folder and nothing else")
        given = Path(args[1])
        if args[0] == "--resume":
            to_its_end(given, lambda: resume(given, Display()))
        else:
            replay.show(given, Display())
        return
    args = [re.sub("^--trial(?==|$)", "--data.trial", arg) for arg in args]
    named = bool(args) and not args[0].startswith("-")
    if not named and not {"-h", "--help"} & set(args):
        raise InputError(f"train: which preset? one of {', '.join(PRESETS)}")
    name = args[0] if named else "sysu"
    if name not in PRESETS:
        raise InputError(f"train: no preset {name!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    about = preset.about if named else f"Presets: {', '.join(PRESETS)}. Defaults here: {name}.\n"
    arguments = tyro.cli(
        Arguments,
        prog=f"cdp train {name if named else 'PRESET'}",
        description=about,
        default=Arguments(preset.config),
        args=args[1:] if named else args,
    )
    run_dir = arguments.run_dir or Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    run = train_trials if arguments.config.data.trial == "all" else run_training
    to_its_end(run_dir, lambda: run(arguments.config, run_dir, Display(), arguments.overwrite))


def to_its_end(run_dir: Path, run: Callable[[], object]) -> None:
    """Turns an end before its time into one line: status 3 for a signal, 1 for other reasons."""
    import torch

    from train.interruption import EXIT_STATUS, Interrupted
    from train.loop import NotFiniteError

    try:
        run()
    except NotFiniteError as error:
        fail(f"{error}; `cdp train --replay-batch {run_dir}` shows that batch", 1)
    except torch.cuda.OutOfMemoryError as error:
        fail(f"the GPU's memory is full ({error}); lower --data.p, or pass --data.cache host", 1)
    except OSError as error:  # a full disk, above all
        fail(f"{error}; when that is mended, go on with `cdp train --resume {run_dir}`", 1)
    except Interrupted as end:
        fail(f"{end}: saved; go on with `cdp train --resume {run_dir}`", EXIT_STATUS)


def evaluate(args: list[str]) -> None:
    import tyro

    from pipeline.options import Trial
    from train import run_folder
    from train.config import Device
    from train.evaluation.run import evaluate_run
    from train.reporting.display import Display
    from train.trials import evaluate_trials

    def parse(
        run_dir: tyro.conf.Positional[Path],
        data_root: Path | None = None,
        trial: Trial | None = None,
        device: Device = "auto",
    ) -> None:
        """Tests a run in every mode of its data set's protocol, as table and result.json.

        Args:
            run_dir: Folder that `cdp train` wrote.
            data_root: Where the data set is now, if not where it was; may be another data set.
            trial: RegDB's trial to test on; refused if the weights saw its identities.
            device: auto is the GPU if there is one.
        """
        many = run_folder.read_config(run_dir).data.trial == "all"
        run = evaluate_trials if many else evaluate_run
        run(run_dir, Display(), data_root, trial, device)

    tyro.cli(parse, prog="cdp eval", args=args)


def score(args: list[str]) -> None:
    import tyro

    from pipeline.datasets.rules import RULES
    from train.evaluation.metrics import Distance
    from train.evaluation.score import score_files
    from train.reporting.display import Display

    def parse(
        query: Path,
        gallery: tuple[Path, ...],
        protocol: str,
        distance: Distance = "euclidean",
        json: Path | None = None,
    ) -> None:
        """CMC, mAP and mINP of features that any model made.

        A file holds the arrays features [n, d] float32, pids [n] int64, camids [n] int64, as
        numpy.savez writes them. In Python: train.evaluation.score.score.

        Args:
            query: .npz file of the queries.
            gallery: .npz file of the gallery; several are trials, whose figures are averaged.
            protocol: PROTOCOLS
            distance: Between features.
            json: File to write the figures to as well.
        """
        score_files(query, gallery, protocol, distance, json, Display())

    protocols = "; ".join(f"{name}: {rule.about}" for name, rule in RULES.items())
    assert parse.__doc__
    parse.__doc__ = parse.__doc__.replace("PROTOCOLS", protocols)
    tyro.cli(parse, prog="cdp score", args=args)


def bench(args: list[str]) -> None:
    import tyro

    from bench.run import PARTS, run_bench
    from pipeline.errors import InputError
    from train.config import Device
    from train.presets import PRESETS

    def parse(
        part: tyro.conf.Positional[str],
        preset: str | None = None,
        data_root: Path | None = None,
        device: Device = "auto",
        quick: bool = False,
        json: Path | None = None,
        plot: Path | None = None,
    ) -> None:
        """Measures images a second: the sides of a comparison in turn, ratios within a round.

        Args:
            part: stages, loader, peers, step, end-to-end, or all.
            preset: Batches and network of this preset; default: the paper's (sysu), but for a step
                without a GPU the demo's.
            data_root: Data set to measure on; default: the embedded crops.
            device: auto is the GPU if there is one.
            quick: Fewer rounds, for a first look.
            json: File to write every sample to, with hardware and versions.
            plot: PNG file to draw it all to.
        """
        if part != "all" and part not in PARTS:
            raise InputError(f"bench: no part {part!r}; there are {', '.join(PARTS)}, all")
        if preset is not None and preset not in PRESETS:
            raise InputError(f"bench: no preset {preset!r}; there are {', '.join(PRESETS)}")
        run_bench(part, preset, data_root, device, quick, json, plot)

    tyro.cli(parse, prog="cdp bench", args=args)


def data_make(args: list[str]) -> None:
    import tyro

    from pipeline.datasets.synthetic import SyntheticOptions
    from train.data import make
    from train.reporting.display import Display

    def parse(
        root: tyro.conf.Positional[Path],
        options: Annotated[SyntheticOptions, tyro.conf.arg(name="")],
    ) -> None:
        """Writes synthetic RGB-infrared people as JPEG files in SYSU-MM01's layout.

        Args:
            root: Folder to make; must not exist, or be empty.
            options: What the set holds.
        """
        make(root, options, Display())

    tyro.cli(parse, prog="cdp data make", args=args)


def data_check(args: list[str]) -> None:
    import tyro

    from pipeline.options import KindName
    from train.data_check import check
    from train.reporting.display import Display

    def parse(root: tyro.conf.Positional[Path], kind: KindName = "auto") -> None:
        """Looks at every file of a data set; exit status 2 if something has to be mended.

        Args:
            root: Folder of a data set, or the CSV file that lists it.
            kind: Its layout; auto: told by what the folder holds.
        """
        check(root, kind, Display())

    tyro.cli(parse, prog="cdp data check", args=args)


def data_preview(args: list[str]) -> None:
    import tyro

    from pipeline.preview import preview

    def parse(
        root: tyro.conf.Positional[Path], out: Path, identities: int = 8, seed: int = 0
    ) -> None:
        """Draws originals and their counterparts, made by the training graph, as one picture.

        Args:
            root: Folder of a data set, or the CSV file that lists it.
            out: PNG file to write.
            identities: Rows of the picture.
            seed: Picks the identities and images.
        """
        preview(root, out, identities, seed)
        print(out)

    tyro.cli(parse, prog="cdp data preview", args=args)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "score": score,
    "bench": bench,
    "data make": data_make,
    "data check": data_check,
    "data preview": data_preview,
}


if __name__ == "__main__":
    main()
