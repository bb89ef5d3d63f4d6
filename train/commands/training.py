"""cdp train."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from train.commands.ending import to_its_end


def preset_names() -> list[str]:
    """Those beside the paper's methods."""
    from train.presets import BASES

    return list(BASES)


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
            to_its_end(f"cdp train --resume {given}", lambda: resume(given, Display()))
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
    to_its_end(
        f"cdp train --resume {run_dir}",
        lambda: run(arguments.config, run_dir, Display(), arguments.overwrite),
    )
