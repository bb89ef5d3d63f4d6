"""Writes files into uncompressed tar files of a bounded size, and records where each begins."""

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """The shards, and where each member is."""

    files: dict[str, dict[str, Any]]  # name: bytes, sha256
    columns: dict[str, ndarray]  # shard int32 [n], offset int64 [n], length int64 [n]


def write_shards(
    folder: Path,
    members: Iterable[tuple[str, bytes]],
    num_members: int,
    limit: int,
    on_progress: Callable[[int, int], None],
) -> Written:
    """Writes (name, content) pairs to `shard-000000.tar`, … of at most `limit` bytes.

    A larger member gets a shard of its own.
    """
    files: dict[str, dict[str, Any]] = {}
    columns: dict[str, ndarray] = {
        "shard": np.empty(num_members, np.int32),
        "offset": np.empty(num_members, np.int64),
        "length": np.empty(num_members, np.int64),
    }
    shard = _Shard(folder / _name(0))
    for row, (name, content) in enumerate(members):
        header = _header(name, len(content))
        if shard.size and shard.size + len(header) + _padded(len(content)) + 2 * BLOCK > limit:
            files[shard.path.name] = shard.close()
            shard = _Shard(folder / _name(len(files)))
        shard.write(header)
        columns["shard"][row] = len(files)
        columns["offset"][row] = shard.size
        columns["length"][row] = len(content)
        shard.write(content)
        if (row + 1) % 64 == 0 or row + 1 == num_members:
            on_progress(row + 1, num_members)
    files[shard.path.name] = shard.close()
    return Written(files, columns)


def sha256(file: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _header(name: str, size: int) -> bytes:
    """Returns a tar header that does not depend on time or user."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class _Shard:
    """A tar file that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()

    def write(self, content: bytes) -> None:
        """Appends the content, padded with zeros to a whole block."""
        for part in (content, bytes(_padded(len(content)) - len(content))):
            self._file.write(part)
            self._sha256.update(part)
            self.size += len(part)

    def close(self) -> dict[str, Any]:
        """Finishes the tar file; returns its size and SHA-256."""
        self.write(bytes(2 * BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self.size, "sha256": self._sha256.hexdigest()}
