"""Images that the user names, from any data set or none: files, folders, or a CSV."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from pipeline.datasets.records import Index, Modality, make_index
from pipeline.datasets.table import COLUMNS, read_table
from pipeline.datasets.walk import walk
from pipeline.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
UNKNOWN = -1  # pid and camid of an image about which nothing is known
UNKNOWN_MODALITY = 255
NO_IMAGE = "no image file"


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Images to embed."""

    index: Index
    names: Shaped[ndarray, " n"]  # str: each path as it was given
    left_out: dict[str, list[Path]] = field(default_factory=dict)  # by reason


def read_named(arguments: Sequence[Path]) -> Named:
    """Reads one CSV of `path,pid,camid,modality`, or files and folders, without such labels.

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
        index = read_table(tables[0], columns=COLUMNS[:4]).index
        if not len(index):
            raise InputError(f"{tables[0]}: lists no image")
        return Named(index, np.array([os.fsdecode(bytes(path)) for path in index.paths], np.str_))
    files: list[Path] = []
    left_out: dict[str, list[Path]] = {}
    for argument in arguments:
        found = [argument]
        if argument.is_dir():
            inside = walk(argument)
            found = [file for file in inside.files if _is_image(file)]
            others = {file: NO_IMAGE for file in inside.files if not _is_image(file)}
            for path, reason in (others | inside.left_out).items():
                left_out.setdefault(reason, []).append(path)
            if not found:
                raise InputError(f"{argument}: holds no image file ({', '.join(SUFFIXES)})")
        elif not _is_image(argument):
            raise InputError(
                f"{argument}: is not an image file ({', '.join(SUFFIXES)}), folder or CSV"
            )
        files += found
    rows = [(os.path.abspath(file)[1:], UNKNOWN, UNKNOWN, Modality.RGB) for file in files]
    index = make_index(Path("/"), rows)
    index.modality[:] = UNKNOWN_MODALITY
    return Named(index, np.array([str(file) for file in files], np.str_), left_out)


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
    return Index(named.root, named.paths, pids, camids, modality)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES
