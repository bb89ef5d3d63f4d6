"""cdp train."""

import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from train.commands.ending import run_to_end
from train.commands.help import cli, listed, wrapped
from train.commands.own import load_method

# Errors that start with these name something that the hardware lacks.
HARDWARE = ("--device", "--step.", "--data.cache", "--nproc-per-node")


def option(args: list[str], name: str) -> str | None:
    """Returns the value of an option that the preset depends on, before options are parsed."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if arg == name:
            return following
        if arg.startswith(f"{name}="):
            return arg.partition("=")[2]
    return None


def choices() -> str:
    """Returns what may follow `cdp train`, in groups, as a description."""
    from train.presets import PRESETS, preset_groups

    abouts = {name: preset.about.partition("\n")[0] for name, preset in PRESETS.items()}
    groups = {heading: [", ".join(of)] for heading, of in preset_groups().items()}
    groups["presets"] = [f"{name:8}{about}" for name, about in abouts.items()]
    own = "a method file of your own: its path, which ends in .py"
    lists = [listed(heading, of, 8 * (heading == "presets")) for heading, of in groups.items()]
    return "\n\n".join([*lists, own])


def say_next(run_dir: Path, own: str = "") -> None:
    """Prints the command to run after a training; `own` names the user's method file."""
    from train import run_folder
    from train.distributed import find_world
    from train.live.display import Display

    if not find_world().leads:
        return
    if run_folder.read_config(run_dir).data.trial == "all":
        run_dir = run_dir / "trial-01"
    Display().say(f"next      cdp report {shlex.quote(str(run_dir))}{own}")


def train(args: list[str]) -> None:
    import re
    import time

    import tyro

    from pipeline.errors import InputError
    from train.config import Config
    from train.live.display import Display
    from train.loop import train as run_training
    from train.methods import finding
    from train.methods.base import Method
    from train.presets import find_preset
    from train.trials import train_trials

    @dataclass(frozen=True)
    class Arguments:
        config: Annotated[Config, tyro.conf.arg(name="")]
        run_dir: Path | None = None
        """Folder for configuration, metrics, checkpoints and result; default runs/PRESET-TIME."""
        overwrite: bool = False
        """Replace the run that --run-dir holds."""

    args = [re.sub("^--trial(?==|$)", "--data.trial", arg) for arg in args]
    named = bool(args) and not args[0].startswith("-")
    if not named and not {"-h", "--help"} & set(args):
        print(f"cdp: train: which preset?\n\n{wrapped(choices())}", file=sys.stderr)
        sys.exit(2)
    name = args[0] if named else "sysu"
    root = option(args, "--data.root")
    preset = find_preset(name, Path(root) if root else None, option(args, "--data.kind"))
    own_fields = {f.name for f in fields(preset.config.method)} - {f.name for f in fields(Method)}
    for taken in own_fields & {
        *(f.name for f in fields(Arguments)),
        *(f.name for f in fields(Config)),
    }:
        raise InputError(
            f"{name}: the field {taken!r} of its method is an option of cdp train; rename it"
        )
    defaults = f"The options are those of every preset, with the defaults of {name}."
    about = preset.about if named else f"{choices()}\n\n{defaults}"
    arguments = cli(
        Arguments,
        prog=f"cdp train {name if named else 'PRESET'}",
        description=about,
        default=Arguments(preset.config),
        args=args[1:] if named else args,
    )
    now = time.strftime("%Y%m%d-%H%M%S")
    run_dir = arguments.run_dir or Path("runs", f"{Path(name).stem}-{now}")
    own = f" --method {shlex.quote(name)}" if finding.own_source(arguments.config.method) else ""
    run = train_trials if arguments.config.data.trial == "all" else run_training
    run_to_end(
        f"cdp train --resume {shlex.quote(str(run_dir))}{own}",
        lambda: run(arguments.config, run_dir, Display(), arguments.overwrite),
        run_dir,
    )
    say_next(run_dir, own)


def replay_batch(args: list[str]) -> None:
    import tyro

    from train import replay
    from train.live.display import Display

    def parse(run_dir: tyro.conf.Positional[Path], method: Path | None = None) -> None:
        """Lists and draws the batch at which the loss became NaN or infinite.

        Args:
            run_dir: Folder that `cdp train` wrote.
            method: Your own method file, if the run was trained with one.
        """
        load_method(method, run_dir)
        replay.show(run_dir, Display())

    cli(parse, prog="cdp train --replay-batch", args=args)


def resume(args: list[str]) -> None:
    import tyro

    from pipeline.errors import InputError
    from train.config import Device
    from train.live.display import Display
    from train.trials import resume as resume_run

    def parse(
        run_dir: tyro.conf.Positional[Path],
        epochs: int | None = None,
        device: Device | None = None,
        method: Path | None = None,
    ) -> None:
        """Resumes an interrupted or crashed run from its newest checkpoint.

        Args:
            run_dir: Folder that `cdp train` wrote.
            epochs: New total number of epochs, for a finished or unfinished run. Milestones are
                shares of this total and move with it; epochs already trained keep their learning
                rates. The result records the change.
            device: Device to resume on, if the run started on other hardware; auto uses the GPU if
                there is one. Resets compilation, CUDA graph and caching to auto.
            method: Your own method file, if the run was trained with one.
        """
        load_method(method, run_dir, to_train=True)
        command = f"cdp train --resume {shlex.quote(str(run_dir))}"
        command += f" --epochs {epochs}" if epochs is not None else ""
        command += f" --device {device}" if device else ""
        own = f" --method {shlex.quote(str(method))}" if method else ""
        command += own
        try:
            run_to_end(command, lambda: resume_run(run_dir, Display(), device, epochs), run_dir)
        except InputError as error:
            if device is None and str(error).startswith(HARDWARE):
                raise InputError(
                    f"{str(error).partition(';')[0]}; if the run started on other hardware, resume "
                    f"with `{command} --device auto`"
                ) from error
            raise
        say_next(run_dir, own)

    cli(parse, prog="cdp train --resume", args=args)
