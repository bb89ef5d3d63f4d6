"""cdp train."""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from train.commands.ending import to_its_end
from train.commands.own import take

HARDWARE = ("--device", "--step.", "--data.cache", "--nproc-per-node")  # errors about what it lacks


def preset_names() -> list[str]:
    """Those beside methods."""
    from train.presets import PRESETS

    return list(PRESETS)


def option(args: list[str], name: str) -> str | None:
    """The value that follows an option, which the preset depends on, before all are parsed."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        if arg == name:
            return following
        if arg.startswith(f"{name}="):
            return arg.partition("=")[2]
    return None


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
    from train.presets import PRESETS, find_preset, preset_names
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
        raise InputError(f"train: which preset? one of {', '.join(preset_names())}")
    name = args[0] if named else "sysu"
    root = option(args, "--data.root")
    preset = find_preset(name, Path(root) if root else None, option(args, "--data.kind"))
    own_fields = {f.name for f in fields(preset.config.method)} - {f.name for f in fields(Method)}
    for taken in own_fields & {
        *(f.name for f in fields(Arguments)),
        *(f.name for f in fields(Config)),
    }:
        raise InputError(
            f"{name}: the field {taken!r} of its method is an option already; rename it"
        )
    about = preset.about
    if not named:
        methods = ", ".join(name for name in preset_names() if name not in PRESETS)
        about = (
            f"Presets: {', '.join(PRESETS)}. Defaults here: {name}.\n\nMethods, each with any "
            f"data set: {methods}; and your own: the name of its file, which ends in .py.\n"
        )
    arguments = tyro.cli(
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
    to_its_end(
        f"cdp train --resume {shlex.quote(str(run_dir))}{own}",
        lambda: run(arguments.config, run_dir, Display(), arguments.overwrite),
        run_dir,
    )


def replay_batch(args: list[str]) -> None:
    import tyro

    from train import replay
    from train.live.display import Display

    def parse(run_dir: tyro.conf.Positional[Path], method: Path | None = None) -> None:
        """Lists and draws the batch at which a loss was NaN or infinite.

        Args:
            run_dir: The run's folder.
            method: The method file of your own that the run was trained with.
        """
        take(method, run_dir)
        replay.show(run_dir, Display())

    tyro.cli(parse, prog="cdp train --replay-batch", args=args)


def resume(args: list[str]) -> None:
    import tyro

    from pipeline.errors import InputError
    from train.config import Device
    from train.live.display import Display
    from train.trials import resume as go_on

    def parse(
        run_dir: tyro.conf.Positional[Path],
        epochs: int | None = None,
        device: Device | None = None,
        method: Path | None = None,
    ) -> None:
        """Goes on with a run that was interrupted, or died, from its newest checkpoint.

        Args:
            run_dir: Its folder.
            epochs: Train the run, finished or not, for so many epochs in all. Milestones are shares
                of the epochs and move; epochs that were trained keep their learning rates, and the
                result says that this was no straight run.
            device: Where to go on, if the run began on other hardware; auto is the GPU if there is
                one. Compiling, recording and caching are then chosen anew.
            method: The method file of your own that the run was trained with.
        """
        take(method, run_dir, to_train=True)
        again = f"cdp train --resume {shlex.quote(str(run_dir))}"
        again += f" --epochs {epochs}" if epochs is not None else ""
        again += f" --device {device}" if device else ""
        again += f" --method {shlex.quote(str(method))}" if method else ""
        try:
            to_its_end(again, lambda: go_on(run_dir, Display(), device, epochs), run_dir)
        except InputError as error:
            if device is None and str(error).startswith(HARDWARE):
                raise InputError(
                    f"{str(error).partition(';')[0]}; if the run began on other hardware, go on "
                    f"with `{again} --device auto`"
                ) from error
            raise

    tyro.cli(parse, prog="cdp train --resume", args=args)
