"""cdp train."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from train.commands.ending import to_its_end

HARDWARE = ("--device", "--step.", "--data.cache", "--nproc-per-node")  # errors about what it lacks


def preset_names() -> list[str]:
    """Those beside the paper's methods."""
    from train.presets import BASES

    return list(BASES)


def train(args: list[str]) -> None:
    import re
    import time

    import tyro

    from pipeline.errors import InputError
    from train.config import Config
    from train.loop import train as run_training
    from train.presets import PRESETS
    from train.reporting.display import Display
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
    to_its_end(
        f"cdp train --resume {shlex.quote(str(run_dir))}",
        lambda: run(arguments.config, run_dir, Display(), arguments.overwrite),
        run_dir,
    )


def replay_batch(args: list[str]) -> None:
    from pipeline.errors import InputError
    from train import replay
    from train.reporting.display import Display

    if len(args) != 1:
        raise InputError("train --replay-batch RUN_DIR: takes the folder and nothing else")
    replay.show(Path(args[0]), Display())


def resume(args: list[str]) -> None:
    import tyro

    from pipeline.errors import InputError
    from train.config import Device
    from train.reporting.display import Display
    from train.trials import resume as go_on

    def parse(
        run_dir: tyro.conf.Positional[Path],
        epochs: int | None = None,
        device: Device | None = None,
    ) -> None:
        """Goes on with a run that was interrupted, or died, from its newest checkpoint.

        Args:
            run_dir: Its folder.
            epochs: Train the run, finished or not, for so many epochs in all. Milestones are shares
                of the epochs and move; epochs that were trained keep their learning rates, and the
                result says that this was no straight run.
            device: Where to go on, if the run began on other hardware; auto is the GPU if there is
                one. Compiling, recording and caching are then chosen anew.
        """
        again = f"cdp train --resume {shlex.quote(str(run_dir))}"
        again += f" --epochs {epochs}" if epochs is not None else ""
        again += f" --device {device}" if device else ""
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
