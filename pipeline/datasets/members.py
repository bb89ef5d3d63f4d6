"""Images inside uncompressed tar files, read by offset from memory maps.

A mapped file must not be truncated: reading the missing part kills the process (SIGBUS).
"""

import errno
import mmap
import os
import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from numpy import ndarray

from pipeline.errors import InputError

SPARE_FILES = 256  # open files that a process needs besides its shards


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """Where the bytes of each row of an `Index` are stored."""

    files: tuple[Path, ...]
    maps: tuple[UInt8[ndarray, " _"], ...]  # of the whole files
    shard: Int32[ndarray, " n"]  # position in `files`
    offset: Int64[ndarray, " n"]  # bytes from the file's start
    length: Int64[ndarray, " n"]  # bytes

    def take(self, rows: Int64[ndarray, " k"]) -> "Members":
        """Returns the members of these rows."""
        columns = (self.shard, self.offset, self.length)
        return Members(self.files, self.maps, *(column[rows] for column in columns))

    def content(self, row: SupportsIndex) -> UInt8[ndarray, " _"]:
        """Returns the encoded image of `row`, a view of its file's map."""
        first = self.offset[row]
        return self.maps[self.shard[row]][first : first + self.length[row]]

    def path(self, row: SupportsIndex, path: str) -> Path:
        """Returns a name to show for the image of `row`, whose path in the data set was `path`."""
        return Path(f"{self.files[self.shard[row]]}:{member_name(path)}")


def member_name(path: str) -> str:
    """Returns the name in a tar file of an image whose path in its data set is `path`.

    It is that path, except for dots that others would misread: WebDataset takes what precedes a
    file name's first dot as the sample's key, and tar programs do not follow "..". Such dots become
    %2E, and a percent sign %25, so that no two paths share a name.
    """
    *folders, file = path.replace("%", "%25").split("/")
    stem, dot, suffix = file.rpartition(".")
    folders = [_escape(f) if re.fullmatch(r"\.+", f) else f for f in folders]
    return "/".join([*folders, _escape(stem) + dot + suffix])


def _escape(name: str) -> str:
    return name.replace(".", "%2E")


def map_files(files: Sequence[Path]) -> tuple[UInt8[ndarray, " _"], ...]:
    """Maps whole files, none of them empty, into memory, read-only.

    Python keeps them all open; raises `InputError` if the process may not open that many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(os.listdir("/proc/self/fd")) + len(files) + SPARE_FILES
    if soft < wanted <= hard or hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        return tuple(map(_map, files))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error
        raise InputError(
            f"{files[0].parent}: {len(files)} shards are more than a process may open here; "
            "raise the limit (ulimit -n), or pack again with a larger --shard-mib"
        ) from error


def _map(file: Path) -> UInt8[ndarray, " _"]:
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8)
