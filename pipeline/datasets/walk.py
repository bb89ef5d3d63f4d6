"""Finds the files below a folder, following links to other folders."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pipeline.errors import InputError

HIDDEN, NOT_A_FILE, LOOP = "hidden", "not a file", "link to a folder above it"


@dataclass(frozen=True, slots=True)
class Walked:
    """The content of a folder, at any depth."""

    files: list[Path]  # in order of path
    left_out: dict[Path, str] = field(default_factory=dict)  # and why: HIDDEN, NOT_A_FILE or LOOP


def walk(folder: Path) -> Walked:
    """Lists the files below `folder`, following links as `find -L` does.

    Names that begin with a dot are left out: an archive packed on a Mac holds a `._NAME` beside
    each NAME. A folder linked from two places is listed in both. Raises `InputError` naming a
    folder that cannot be read.
    """
    files: list[Path] = []
    left_out: dict[Path, str] = {}
    above = {str(folder): frozenset({_identity(folder)})}  # each folder's own and its ancestors'
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        ancestors = above.pop(parent)
        for name in tuple(folders):
            path = Path(parent, name)
            if reason := _why_skipped(path, ancestors):
                left_out[path] = reason
                folders.remove(name)
            else:
                above[os.path.join(parent, name)] = ancestors | {_identity(path)}
        for name in names:
            path = Path(parent, name)
            if name.startswith("."):
                left_out[path] = HIDDEN
            elif not path.is_file():  # a pipe, a device, a dangling link
                left_out[path] = NOT_A_FILE
            else:
                files.append(path)
    return Walked(sorted(files), left_out)


def _why_skipped(folder: Path, ancestors: frozenset[tuple[int, int]]) -> str | None:
    """Returns the reason not to enter a folder, or None."""
    if folder.name.startswith("."):
        return HIDDEN
    return LOOP if _identity(folder) in ancestors else None


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        _refuse(error)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
