"""What several data sets are made of: text files, lists of images or identities, folders."""

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
LARGEST = 2**63 - 1  # that an int64 holds
BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Line(NamedTuple):
    """A line of a list of images."""

    number: int
    path: str  # relative to the data set's folder, or absolute if it lies elsewhere
    label: int


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns whatever goes wrong while a user's file is read into one line that names it."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{file}: missing; restore it") from error
    except UnicodeDecodeError as error:
        with file.open("rb") as opened:
            start = opened.read(2)
        looks = (
            f"looks like {BYTE_ORDER_MARKS[start]}"
            if start in BYTE_ORDER_MARKS
            else (f"byte 0x{error.object[error.start]:02x}; perhaps GBK or Latin-1")
        )
        raise InputError(f"{file}: is not UTF-8 text ({looks}); save it as UTF-8") from error
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or error or type(error).__name__
        raise InputError(f"{file}: cannot be read ({reason}); restore it") from error


def read_text(file: Path) -> str:
    """A UTF-8 file's text without its byte order mark; `InputError` names what is none."""
    with reading(file):
        text = file.read_text(encoding="utf-8-sig")
    refuse_nul(file, text)
    return text


def refuse_nul(file: Path, text: str) -> None:
    """Raises `InputError` for a character that no path holds, and much of UTF-16 consists of."""
    if "\0" in text:
        raise InputError(f"{file}: holds NUL characters, so it is not UTF-8 text; save it as UTF-8")


def number_of(text: str) -> int | None:
    """A decimal number that an int64 holds, or None."""
    if not text.isdecimal() or len(text) > len(str(LARGEST)):
        return None
    number = int(text)
    return number if number <= LARGEST else None


def read_ids(root: Path, name: str, found: Findings) -> list[int]:
    """The comma-separated identities of `root/NAME`, each once, ascending; notes what is wrong."""
    file = root / name
    if not file.is_file():
        found.fault("missing list", file, "missing; --data.root must be the data set's folder")
        return []
    text, ids = "", set[int]()
    with found.noting("bad list", file):
        text = read_text(file)
        if not text.strip(" ,\r\n"):
            raise InputError(f"{file}: lists no identity; expected integers as 1,2")
    for part in filter(None, map(str.strip, text.replace("\n", ",").split(","))):
        number = number_of(part)
        if number is None:
            found.fault("bad list", file, f"{part[:40]!r} is no identity; expected integers as 1,2")
        elif number in ids:
            found.fault("listed twice", f"{file}, identity {number}", "is listed twice; remove one")
        else:
            ids.add(number)
    return sorted(ids)


def read_list(root: Path, name: str, found: Findings) -> list[Line]:
    """The `path label` lines of `root/idx/NAME`, as RegDB and LLCM have them; notes bad ones."""
    file = root / "idx" / name
    if not file.is_file():
        found.fault("missing list", file, "missing; --data.root must be the folder that holds idx/")
        return []
    text = ""
    with found.noting("bad list", file):
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
            words = f"{line[:200]!r} is not of the form `path label`"
            found.fault("bad list", f"{file}, line {number}", words)
        elif path in lines:
            words = f"names {path} again, as line {lines[path].number} does; remove one of them"
            found.fault("listed twice", f"{file}, line {number}", words)
        else:
            lines[path] = Line(number, path, known)
    return list(lines.values())


def spellings(root: Path) -> tuple[str, ...]:
    """How absolute paths inside `root` may begin."""
    return tuple({f"{os.path.abspath(root)}/", f"{os.path.realpath(root)}/"})


def tidy(path: str, roots: tuple[str, ...]) -> str:
    """`path` in the spelling that folders are listed in: no `./`, and relative if inside `roots`.

    `..` stays: what it leads to depends on links.
    """
    if path.startswith("/"):
        path = next((path[len(root) :] for root in roots if path.startswith(root)), path)
    if (path[:1] == "." or "/." in path or "//" in path) and ".." not in path.split("/"):
        path = os.path.normpath(path)
    return path


def is_image(name: str) -> bool:
    """Is it an image by its name? `._0001.jpg` is what a Mac's archive adds to 0001.jpg."""
    return name.lower().endswith(SUFFIXES) and not name.startswith("._")


def list_images(root: Path, folder: str, found: Findings) -> list[str]:
    """Paths, relative to `root`, of the images in `folder`, sorted; none if there is no folder."""
    try:
        names = os.listdir(root / folder)
    except FileNotFoundError:
        if os.path.islink(root / folder):
            found.fault("missing folder", root / folder, "is a link to nothing; restore it")
        return []  # this camera never saw this identity
    except OSError as error:
        text = f"cannot be read as a folder ({error.strerror}); restore it"
        found.fault("missing folder", root / folder, text)
        return []
    return [f"{folder}/{name}" for name in sorted(names) if is_image(name)]


def list_folders(root: Path, folder: str) -> list[str]:
    """Names of the folders in `folder`, linked ones too, sorted; none if it is not there."""
    try:
        with os.scandir(root / folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def rows_without_file(index: Index) -> Int64[ndarray, " k"]:
    """Rows whose image is not on disk, told by listing each folder once."""
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


def _not_in(
    folder: bytes, paths: Shaped[ndarray, " n"], rows: Int64[ndarray, " k"]
) -> Iterator[int]:
    """Those of `rows` whose file is not in `folder`."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        names = set()
    for row in rows.tolist():
        name = os.path.basename(bytes(paths[row]))
        # Asked again: a file system may not tell capitals from small letters.
        if name not in names and not os.path.lexists(os.path.join(folder, name)):
            yield row


def repeated(paths: Shaped[ndarray, " n"]) -> list[tuple[int, int]]:
    """Rows whose path stands in an earlier row too, with that row; ascending."""
    in_order = np.sort(paths)
    if not (in_order[1:] == in_order[:-1]).any():
        return []
    _, first, inverse = np.unique(paths, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(paths)))
    return [(row, int(first[inverse[row]])) for row in again.tolist()]


def find_missing_files(found: Findings, index: Index, lists: Sequence[str]) -> None:
    """Notes listed images that are not on disk; `lists` names the list of each modality."""
    for row in rows_without_file(index).tolist():
        text = f"missing, but {lists[index.modality[row]]} names it; restore it"
        found.fault("missing file", index.path(row), text)


def find_missing_modality(found: Findings, index: Index, where: str, stops: bool) -> None:
    """Notes identities that only one modality shows; `where` formats a pid."""
    rgb, infrared = (set(np.unique(index.pids[index.modality == m]).tolist()) for m in Modality)
    for pid in sorted(rgb ^ infrared):
        lacking = "infrared" if pid in rgb else "RGB"
        text = f"has no {lacking} image; restore one, or take the identity off its lists"
        (found.fault if stops else found.warn)("one modality", where.format(pid), text)


def find_leaks(found: Findings, training: list[int], test: list[int], where: str) -> None:
    """Notes identities of the test that are trained on, too; `where` formats a pid."""
    for pid in sorted({*training} & {*test}):
        text = "is in training and in test: take it out of one of them"
        found.fault("in training and test", where.format(pid), text)
