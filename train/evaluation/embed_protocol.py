"""Writes features of a data set's own test, from which `cdp score` gets `cdp eval`'s figures."""

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
ABOUT = "embedding.json"  # marks a folder that embed made and may replace


def embed_protocol(
    run_dir: Path,
    folder: Path,
    display: Display,
    data_root: Path | None = None,
    device_name: str = "auto",
    overwrite: bool = False,
    flip_test: bool = False,
) -> list[str]:
    """Embeds the data set's own test, one subfolder of `folder` per mode.

    Each trial has a query file and a gallery file; a side that all trials share is written once.
    Returns the commands that score them. Raises `InputError` as `evaluate_run` does, and if the
    folder is in use.
    """
    if folder.suffix == ".npz":
        raise InputError(
            f"--out {folder}: must be a folder, as embedding the data set's own test writes many "
            "files; name a folder, or name images"
        )
    _check_folder(folder, overwrite)
    run = open_run(run_dir, display, data_root, device_name=device_name)
    run_folder.make_parent(folder)
    tested = embed_test(run, display, EvalOptions(flip_test))
    protocol, features = tested.protocol, tested.features.cpu().numpy()
    names = np.array(protocol.index.short_names(), np.str_)
    embedded = Embedded(features, protocol.index, names, flip_test)
    commands: list[str] = []

    def write(temporary: Path) -> None:
        modes = []
        for mode in protocol.modes:
            sides = _write_mode(embedded, mode, temporary / _slug(mode.name))
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
        (temporary / ABOUT).write_text(json.dumps(about, indent=2) + "\n")

    _replace_folder(folder, write)
    flipped = f"{features.shape[1]} numbers each{' (flip-test)' if flip_test else ''}"
    display.say(f"embedded  {len(names)} images, {flipped}: {folder}")
    if protocol.remark:
        display.say(f"note      {protocol.remark}")
    for command in commands:
        display.say(command)
    return commands


def _write_mode(embedded: Embedded, mode: Mode, folder: Path) -> dict[str, str]:
    """Writes a mode's trials; returns a shell pattern for the files of each side.

    Writes galleries in index order, the order in which the run's own evaluation ranks ties.
    """
    folder.mkdir()
    sides = {
        "query": [trial.query for trial in mode.trials],
        "gallery": [np.sort(trial.gallery) for trial in mode.trials],
    }
    # At most one side is shared, so that the other gives the number of trials.
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
    """Returns the command line that prints this mode's figures."""
    quoted = shlex.quote(str(folder))
    files = " ".join(f"--{side} {quoted}/{pattern}" for side, pattern in sides.items())
    option = "" if distance == "euclidean" else f" --distance {distance}"
    return f"cdp score {files} --protocol {name_of(protocol.rule)}{option}"


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
    """Atomically replaces `folder` with a temporary one that `write` fills."""
    folder = folder.resolve()  # it may be a link
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        write(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
