"""Features of a data set's own test, as files of which `cdp score` makes `cdp eval`'s figures."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.records import Mode, Protocol
from pipeline.datasets.rules import name_of
from pipeline.errors import InputError
from train import run_folder
from train.evaluation.embed import Embedded
from train.evaluation.options import EvalOptions
from train.evaluation.trained import embed_test, open_run
from train.live.display import Display
from train.metrics import Distance

FORMAT = "cdp-reid embedding 1"
ABOUT = "embedding.json"  # marks a folder that embed made, and may replace


def embed_protocol(
    run_dir: Path,
    folder: Path,
    display: Display,
    data_root: Path | None = None,
    device_name: str = "auto",
    overwrite: bool = False,
    flip_test: bool = False,
) -> list[str]:
    """Embeds the data set's own test, each mode in a folder of its own below `folder`.

    A trial is a file of queries and a file of its gallery; one file where all trials of the mode
    have the same. Returns the commands that score them. Raises `InputError` as `evaluate_run` does,
    and if the folder is in use.
    """
    if folder.suffix == ".npz":
        raise InputError(
            f"--out {folder}: without images the data set's own test is embedded, many files: name "
            "a folder"
        )
    _check_folder(folder, overwrite)
    run = open_run(run_dir, display, data_root, device_name=device_name)
    run_folder.make_parent(folder)
    tested = embed_test(run, display, EvalOptions(flip_test))
    protocol, features = tested.protocol, tested.features.cpu().numpy()
    names = np.array([os.fsdecode(bytes(path)) for path in protocol.index.paths], np.str_)
    embedded = Embedded(features, protocol.index, names, flip_test)
    commands: list[str] = []

    def write(made: Path) -> None:
        modes = []
        for mode in protocol.modes:
            sides = _write_mode(embedded, mode, made / _slug(mode.name))
            commands.append(_command(folder / _slug(mode.name), sides, protocol, run.cfg.distance))
            modes.append({"mode": mode.name, "folder": _slug(mode.name)})
        about: dict[str, Any] = {
            "format": FORMAT,
            "run": run_dir.absolute().name,
            "checkpoint": run.weights.name,
            "protocol": protocol.name,
            "rule": name_of(protocol.rule),
            "distance": run.cfg.distance,
            "modes": modes,
        }
        if protocol.remark:
            about["remark"] = protocol.remark
        if flip_test:
            about["flip_test"] = True
        (made / ABOUT).write_text(json.dumps(about, indent=2) + "\n")

    _replace_folder(folder, write)
    how = " (flip-test)" if flip_test else ""
    display.say(f"embedded  {len(names)} images, {features.shape[1]} numbers each{how}: {folder}")
    if protocol.remark:
        display.say(f"note      {protocol.remark}")
    for command in commands:
        display.say(command)
    return commands


def _write_mode(embedded: Embedded, mode: Mode, folder: Path) -> dict[str, str]:
    """Writes a mode's trials; returns the files of each side as a pattern of the shell.

    Galleries are written in the order of the index, in which the run's own evaluation ranks ties.
    """
    folder.mkdir()
    sides = {
        "query": [trial.query for trial in mode.trials],
        "gallery": [np.sort(trial.gallery) for trial in mode.trials],
    }
    # Only one of them, so that the other tells the number of trials.
    shared = next((side for side, trials in sides.items() if _all_equal(trials)), None)
    for side, trials in sides.items():
        if side == shared:
            embedded.write(folder / f"{side}.npz", trials[0])
            continue
        for number, rows in enumerate(trials, start=1):
            embedded.write(folder / f"{side}-{number:02d}.npz", rows)
    return {side: f"{side}.npz" if side == shared else f"{side}-*.npz" for side in sides}


def _all_equal(arrays: list[np.ndarray]) -> bool:
    return all(np.array_equal(arrays[0], array) for array in arrays)


def _command(folder: Path, sides: dict[str, str], protocol: Protocol, distance: Distance) -> str:
    """The line that gives this mode's figures."""
    place = shlex.quote(str(folder))
    files = " ".join(f"--{side} {place}/{pattern}" for side, pattern in sides.items())
    how = "" if distance == "euclidean" else f" --distance {distance}"
    return f"cdp score {files} --protocol {name_of(protocol.rule)}{how}"


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Raises `InputError` if `folder` holds something that embed must not touch."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / ABOUT).is_file():
        raise InputError(f"--out {folder}: exists and was not made by cdp embed; name another")
    if not overwrite:
        raise InputError(f"--out {folder}: exists; name another, or pass --overwrite to replace it")


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Makes `folder` of what `write` puts into a temporary one beside it, whole or not at all."""
    folder = folder.absolute()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        write(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
