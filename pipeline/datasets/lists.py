"""What several data sets are made of: lists of images, lists of identities, folders of images."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError


def read_list(root: Path, name: str) -> Iterator[tuple[str, int]]:
    """Each line's (path relative to `root`, label) of `idx/NAME`, as RegDB and LLCM have them.

    Raises `InputError` if the list is missing or empty, and naming the line that is not of the form
    `path label`.
    """
    file = root / "idx" / name
    if not file.is_file():
        raise InputError(f"{file}: missing; --data.root must be the folder that holds idx/")
    lines = [(n, line) for n, line in enumerate(file.read_text().splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{file}: lists no image; restore it")
    for number, line in lines:
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal():
            raise InputError(f"{file}, line {number}: {line!r} is not of the form `path label`")
        yield path.strip(), int(label)


def read_id_list(path: Path) -> list[int]:
    """The comma-separated integers of a file; `InputError` names what is none."""
    fields = [field for field in path.read_text().replace("\n", ",").split(",") if field.strip()]
    if not fields:
        raise InputError(f"{path}: lists no identity; expected comma-separated integers as 1,2,3")
    for field in fields:
        if not field.strip().isdecimal():
            raise InputError(
                f"{path}: {field.strip()!r} is no identity; expected integers as 1,2,3"
            )
    return [int(field) for field in fields]


def list_images(root: Path, folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths, relative to `root`, of the images in `folder`, sorted; none if there is no folder."""
    try:
        names = os.listdir(root / folder)
    except FileNotFoundError:
        return []  # this camera never saw this identity
    return [f"{folder}/{name}" for name in sorted(names) if name.lower().endswith(suffixes)]
