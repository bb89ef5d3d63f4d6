"""Images that the user names, from any data set or none: files, folders, or a CSV."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from pipeline.datasets.records import Index
from pipeline.datasets.table import COLUMNS, MODALITIES, UNKNOWN, read_table
from pipeline.datasets.walk import walk
from pipeline.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
UNKNOWN_MODALITY = 255
NO_IMAGE = "no image file"


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Images to embed."""

    index: Index
    names: Shaped[ndarray, " n"]  # str: each path as it was given; of a CSV see `short_names`
    left_out: dict[str, list[str]] = field(default_factory=dict)  # paths by reason


def read_named(arguments: Sequence[Path], columns: Sequence[str] = COLUMNS[:4]) -> Named:
    """Reads one CSV of `path,pid,camid,modality`, or files and folders, without such labels.

    The CSV must have `columns`; values of other columns may be missing and are then unknown.
    Folders are searched recursively, through links, in order of path. Raises `InputError` naming
    what is missing, holds no image, or is not an image file.
    """
    tables = [argument for argument in arguments if argument.suffix.lower() == ".csv"]
    for argument in arguments:
        if not argument.exists():
            raise InputError(f"{argument}: no such file or folder")
    if tables:
        if len(arguments) > 1:
            raise InputError(
                f"{tables[0]}: a CSV must be the only argument; add the other images to it"
            )
        index = read_table(tables[0], columns=columns).index
        if not len(index):
            raise InputError(f"{tables[0]}: lists no image")
        return Named(index, np.array(index.short_names(), np.str_))
    files: list[str] = []
    left_out: dict[str, list[str]] = {}
    for argument in arguments:
        found = [str(argument)]
        if argument.is_dir():
            inside = walk(argument)
            found = [file for file in inside.files if _is_image(file)]
            others = {file: NO_IMAGE for file in inside.files if not _is_image(file)}
            for path, reason in (others | inside.left_out).items():
                left_out.setdefault(reason, []).append(path)
            if not found:
                raise InputError(f"{argument}: holds no image file ({', '.join(SUFFIXES)})")
        elif not _is_image(found[0]):
            raise InputError(
                f"{argument}: is not an image file ({', '.join(SUFFIXES)}), folder or CSV"
            )
        files += found
    here = os.path.join(os.getcwd(), "")
    paths = [file if file.startswith("/") else here + file for file in files]
    # Names inside a folder hold no "..", so paths are as tidy as the arguments.
    if any(os.path.abspath(argument) != os.path.join(here, argument) for argument in arguments):
        paths = [os.path.normpath(path) for path in paths]
    encoded = os.fsencode("\0".join(path[1:] for path in paths)).split(b"\0")  # all at once: fast
    unknown = np.full(len(files), UNKNOWN)
    index = Index(
        Path("/"),
        np.array(encoded, np.bytes_),
        unknown,
        unknown.copy(),
        np.full(len(files), UNKNOWN_MODALITY, np.uint8),
    )
    return Named(index, np.array(files, np.str_), left_out)


def look_up(named: Index, known: Iterable[Index]) -> Index:
    """Returns `named` with pid, camid and modality of those images that are also in `known`."""
    wanted: dict[str, list[int]] = {}
    for row in range(len(named)):
        path = str(named.path(row))
        for spelling in {os.path.normpath(path), os.path.realpath(path)}:
            wanted.setdefault(spelling, []).append(row)
    pids, camids, modality = (a.copy() for a in (named.pids, named.camids, named.modality))
    for index in known:
        for root in {os.path.abspath(index.root), os.path.realpath(index.root)}:
            for row, path in enumerate(index.paths):
                for i in wanted.get(os.path.normpath(f"{root}/{os.fsdecode(bytes(path))}"), ()):
                    pids[i], camids[i] = index.pids[row], index.camids[row]
                    modality[i] = index.modality[row]
    return dataclasses.replace(named, pids=pids, camids=camids, modality=modality)


def fill_modality(index: Index, modality: str | None, is_needed: bool, option: str) -> Index:
    """Returns `index` with `modality`, rgb or ir, the value of `option`, where it is unknown.

    Raises `InputError` if an image's modality `is_needed` and still unknown.
    """
    unknown = index.modality == UNKNOWN_MODALITY
    if modality is None and is_needed and unknown.any():
        raise InputError(
            f"{index.path(np.flatnonzero(unknown)[0])}: its modality is unknown and this run's "
            f"network needs it ({unknown.sum()} such images); pass {option} rgb or ir, or a CSV "
            "with a column modality"
        )
    if modality is None:
        return index
    filled = np.where(unknown, np.uint8(MODALITIES[modality]), index.modality)
    return dataclasses.replace(index, modality=filled)


def _is_image(file: str) -> bool:
    return file.lower().endswith(SUFFIXES)
