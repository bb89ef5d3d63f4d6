"""Lists of images as RegDB and LLCM have them: `idx/NAME.txt`, a line `path label` an image."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError


def read_list(root: Path, name: str) -> Iterator[tuple[str, int]]:
    """Each line's (path relative to `root`, label).

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
