"""Reads what several data sets consist of: text files, lists of images or identities, folders."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped
from numpy import ndarray

from pipeline.datasets.findings import Findings
from pipeline.datasets.records import Index, Modality
from pipeline.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
LARGEST = 2**63 - 1  # of an int64
BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Line(NamedTuple):
    """A line of a list of images."""

    number: int
    path: str  # relative to the data set's folder, or absolute if it lies elsewhere
    label: int


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns any error in reading a user's file into an `InputError` that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{file}: missing; restore it") from error
    except UnicodeDecodeError as error:
        with file.open("rb") as opened:
            start = opened.read(2)
        hint = (
            f"looks like {BYTE_ORDER_MARKS[start]}"
            if start in BYTE_ORDER_MARKS
            else (f"byte 0x{error.object[error.start]:02x}; perhaps GBK or Latin-1")
        )
        raise InputError(f"{file}: is not UTF-8 text ({hint}); save it as UTF-8") from error
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or error or type(error).__name__
        raise InputError(f"{file}: cannot be read ({reason}); restore it") from error


def read_text(file: Path) -> str:
    """Returns a file's text without byte order mark; raises `InputError` if it is not UTF-8."""
    with reading(file):
        text = file.read_text(encoding="utf-8-sig")
    refuse_nul(file, text)
    return text


def refuse_nul(file: Path, text: str) -> None:
    """Raises `InputError` for a NUL, which no path holds, but UTF-16 text is full of."""
    if "\0" in text:
        raise InputError(f"{file}: holds NUL characters, so it is not UTF-8 text; save it as UTF-8")


def number_of(text: str) -> int | None:
    """Returns the decimal number in `text` if an int64 can hold it, else None."""
    if not text.isdecimal() or len(text) > len(str(LARGEST)):
        return None
    number = int(text)
    return number if number <= LARGEST else None


def read_ids(root: Path, name: str, found: Findings) -> list[int]:
    """Returns the sorted identities of the comma-separated list `root/NAME`; records faults."""
    file = root / name
    if not file.is_file():
        found.fault("missing list", file, "missing; --data.root must be the data set's folder")
        return []
    text, ids = "", set[int]()
    with found.recording("bad list", file):
        text = read_text(file)
        if not text.strip(" ,\r\n"):
            raise InputError(f"{file}: lists no identity; expected integers such as 1,2")
    for part in filter(None, map(str.strip, text.replace("\n", ",").split(","))):
        number = number_of(part)
        if number is None:
            problem = f"{part[:40]!r} is not an identity; expected integers such as 1,2"
            found.fault("bad list", file, problem)
        elif number in ids:
            found.fault("listed twice", f"{file}, identity {number}", "is listed twice; remove one")
        else:
            ids.add(number)
    return sorted(ids)


def read_list(root: Path, name: str, found: Findings) -> list[Line]:
    """Returns the `path label` lines of `root/idx/NAME` (RegDB, LLCM); records bad ones."""
    file = root / "idx" / name
    if not file.is_file():
        found.fault("missing list", file, "missing; --data.root must be the folder that holds idx/")
        return []
    text = ""
    with found.recording("bad list", file):
        text = read_text(file)
        if not text.strip():
            raise InputError(f"{file}: lists no image; restore it")
    roots, lines = spellings(root), dict[str, Line]()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        path, label = [*line.rsplit(maxsplit=1), ""][:2]
        path, known = tidy(path.strip(), roots), number_of(label)
        if known is None:
            problem = f"{line[:200]!r} is not of the form `path label`"
            found.fault("bad list", f"{file}, line {number}", problem)
        elif path in lines:
            problem = f"repeats {path} of line {lines[path].number}; remove one of them"
            found.fault("listed twice", f"{file}, line {number}", problem)
        else:
            lines[path] = Line(number, path, known)
    return list(lines.values())


def spellings(root: Path) -> tuple[str, ...]:
    """Returns the prefixes that absolute paths inside `root` may have."""
    return tuple({f"{os.path.abspath(root)}/", f"{os.path.realpath(root)}/"})


def tidy(path: str, roots: tuple[str, ...]) -> str:
    """Normalizes a path: without `./`, and relative if it is inside `roots`.

    `..` stays: where it leads depends on links.
    """
    if path.startswith("/"):
        path = next((path[len(root) :] for root in roots if path.startswith(root)), path)
    if (path[:1] == "." or "/." in path or "//" in path) and ".." not in path.split("/"):
        path = os.path.normpath(path)
    return path


def is_image(name: str) -> bool:
    """Is this the name of an image? Archives made on a Mac add a `._0001.jpg` to 0001.jpg."""
    return name.lower().endswith(SUFFIXES) and not name.startswith("._")


def list_images(root: Path, folder: str, found: Findings) -> list[str]:
    """Returns the sorted paths, relative to `root`, of the images in `folder`, if it exists."""
    try:
        names = os.listdir(root / folder)
    except FileNotFoundError:
        if os.path.islink(root / folder):
            found.fault("missing folder", root / folder, "is a dangling link; restore it")
        return []  # this camera never saw this identity
    except OSError as error:
        text = f"cannot be read as a folder ({error.strerror}); restore it"
        found.fault("missing folder", root / folder, text)
        return []
    return [f"{folder}/{name}" for name in sorted(names) if is_image(name)]


def list_folders(root: Path, folder: str) -> list[str]:
    """Returns the sorted names of the folders in `folder`, linked ones too, if it exists."""
    try:
        with os.scandir(root / folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def rows_without_file(index: Index) -> Int64[ndarray, " k"]:
    """Returns the rows whose image is not on disk; lists each folder once."""
    if not len(index):
        return np.empty(0, np.int64)
    ids: dict[bytes, int] = {}
    folder_of = np.empty(len(index), np.int32)
    for row, path in enumerate(index.paths):
        folder_of[row] = ids.setdefault(os.path.dirname(path), len(ids))
    order = np.argsort(folder_of, kind="stable")
    ends = np.cumsum(np.bincount(folder_of, minlength=len(ids)))
    missing: list[int] = []
    for folder, rows in zip(ids, np.split(order, ends[:-1]), strict=True):
        missing += _not_in(os.path.join(os.fsencode(index.root), folder), index.paths, rows)
    return np.array(sorted(missing), np.int64)


def _not_in(folder: bytes, paths: Shaped[ndarray, " n"], rows: Int64[ndarray, " k"]) -> list[int]:
    """Returns those of `rows` whose file is not in `folder`."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        names = set()
    missing = []
    for row in rows.tolist():
        name = os.path.basename(bytes(paths[row]))
        # Asked again: the file system may be case-insensitive.
        if name not in names and not os.path.lexists(os.path.join(folder, name)):
            missing.append(row)
    return missing


def repeated(paths: Shaped[ndarray, " n"]) -> list[tuple[int, int]]:
    """Returns each row that repeats a path, with the first row that has it; ascending."""
    in_order = np.sort(paths)
    if not (in_order[1:] == in_order[:-1]).any():
        return []
    _, first, inverse = np.unique(paths, return_index=True, return_inverse=True)
    repeats = np.flatnonzero(first[inverse] != np.arange(len(paths)))
    return [(row, int(first[inverse[row]])) for row in repeats.tolist()]


def find_missing_files(found: Findings, index: Index, lists: Sequence[str]) -> None:
    """Records listed images that are not on disk; `lists` names each modality's list."""
    for row in rows_without_file(index).tolist():
        text = f"missing, but {lists[index.modality[row]]} names it; restore it"
        found.fault("missing file", index.path(row), text)


def find_missing_modality(
    found: Findings,
    index: Index,
    where: str,
    is_fault: bool,
    remedy: str = "restore one, or take the identity off its lists",
) -> None:
    """Records identities that are in only one modality; `where` formats a pid."""
    rgb, infrared = (set(np.unique(index.pids[index.modality == m]).tolist()) for m in Modality)
    for pid in sorted(rgb ^ infrared):
        lacking = "infrared" if pid in rgb else "RGB"
        text = f"has no {lacking} image; {remedy}"
        (found.fault if is_fault else found.warn)("one modality", where.format(pid), text)


def find_leaks(found: Findings, training: list[int], test: list[int], where: str) -> None:
    """Records test identities that are also trained on; `where` formats a pid."""
    for pid in sorted({*training} & {*test}):
        text = "is in training and in test; remove it from one of them"
        found.fault("in training and test", where.format(pid), text)
