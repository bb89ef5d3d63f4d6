"""cdp report, cdp experiment."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from train.commands.ending import run_to_end
from train.commands.help import cli, listed
from train.commands.own import load_method


def report(args: list[str]) -> None:
    from importlib.util import find_spec

    import tyro

    from pipeline.errors import InputError
    from train.config import Device

    def parse(
        run_dir: tyro.conf.Positional[Path],
        out: Path | None = None,
        data_root: Path | None = None,
        device: Device = "auto",
        seed: int = 0,
        method: Path | None = None,
    ) -> None:
        """Writes a report on a run: one HTML page that opens offline, and its charts as PNG files.

        Args:
            run_dir: Folder that `cdp train` wrote; the run need not have finished.
            out: Folder to write to; default RUN_DIR/report.
            data_root: Current location of the data set, if it has moved.
            device: auto uses the GPU if there is one.
            seed: Seed for choosing the people and queries to show.
            method: Your own method file, if the run was trained with one.
        """
        load_method(method, run_dir)
        if not (find_spec("matplotlib") and find_spec("sklearn")):
            raise InputError(
                "cdp report: needs matplotlib and scikit-learn; uv sync --group report"
            )
        if not 0 <= seed < 2**32:
            raise InputError(f"--seed {seed}: must be in 0…2**32 - 1")
        from train.live.display import Display
        from train.reporting.report import report as write_report

        write_report(run_dir, Display(), out, device, data_root, seed)

    cli(parse, prog="cdp report", args=args)


def _about(name: str) -> str:
    """Returns the help text: the experiment's rows, or, if none is named, all experiments."""
    from train.paper.contents import EXPERIMENTS

    if name in EXPERIMENTS:
        of = EXPERIMENTS[name]
        wide = 2 + max(len(row) for _, row in of.rows)
        rows = [f"{row:{wide}}{'' if label == row else label}".rstrip() for label, row in of.rows]
        return f"{of.title}.\n\n{listed('rows', rows, wide)}"
    table = listed("names", [f"{known:11}{e.title}" for known, e in EXPERIMENTS.items()], 11)
    return f"Runs the rows of a table or figure of the paper.\n\n{table}"


def experiment(args: list[str]) -> None:
    import tyro

    from pipeline.datasets import synthetic
    from pipeline.datasets.kinds import original_kind
    from pipeline.errors import InputError
    from train.config import Config
    from train.live.display import Display
    from train.paper.contents import EXPERIMENTS
    from train.paper.experiments import run_experiment
    from train.presets import PRESETS

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[Config, tyro.conf.arg(name="")]
        seeds: int = 1
        """Runs per row, with seeds --seed, --seed + 1, …; tables give mean ± deviation."""
        preset: str | None = None
        """Preset that the rows modify; default: small for synthetic data, else the one for the data
        set's kind."""
        out: Path | None = None
        """Folder for run folders and tables; default runs/experiments-DATA. Runs finished there are
        not repeated."""
        rows: tuple[str, ...] = ()
        """Train and show only these rows, such as cdp or cdp-dhsm; default: all. The table's files
        are named after them."""
        quick: bool = False
        """Two epochs per run, more for further stages, to try out the table; its figures are
        meaningless."""

    args = [re.sub("^--data(?==|$)", "--data.root", arg) for arg in args]
    args = [re.sub("^--trial(?==|$)", "--data.trial", arg) for arg in args]
    named = bool(args) and not args[0].startswith("-")
    if not named and not {"-h", "--help"} & set(args):
        raise InputError(f"experiment: which one? {', '.join(EXPERIMENTS)}")
    name = args.pop(0) if named else "NAME"
    if named and name not in EXPERIMENTS:
        raise InputError(f"experiment: unknown {name!r}; choose one of {', '.join(EXPERIMENTS)}")

    def parse(preset: str) -> Arguments:
        if preset not in PRESETS:
            raise InputError(f"--preset {preset}: unknown; choose one of {', '.join(PRESETS)}")
        default = Arguments(PRESETS[preset].config)
        prog = f"cdp experiment {name}"
        return cli(Arguments, prog=prog, description=_about(name), default=default, args=args)

    # The preset sets the defaults of all other options, and the data may determine the preset.
    first = parse("small")
    root = first.config.data.root
    chosen = first.preset or "small"
    if not first.preset and root and not synthetic.recipe(root):
        chosen = original_kind(root, first.config.data.kind)
    arguments = parse(chosen)
    run_to_end(
        f"cdp experiment {name} {' '.join(args)}".rstrip(),
        lambda: run_experiment(
            name,
            arguments.config,
            arguments.seeds,
            arguments.out,
            arguments.quick,
            Display(),
            arguments.rows,
        ),
    )
