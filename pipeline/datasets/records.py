"""What other modules see of a data set: rows of images, and rows to rank against rows."""

import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64, Shaped, UInt8
from numpy import ndarray

from pipeline.datasets.members import Members
from pipeline.datasets.rules import Rule


class Modality(IntEnum):
    """The kind of camera that took an image; the value is `PairedBatch.modality`'s code."""

    RGB = 0
    IR = 1


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Images as a struct of arrays, one row per image: 10 M rows need no Python objects."""

    root: Path
    paths: Shaped[ndarray, " n"]  # bytes, relative to root
    pids: Int64[ndarray, " n"]  # as the data set numbers them
    camids: Int64[ndarray, " n"]
    modality: UInt8[ndarray, " n"]
    members: Members | None = None  # of a packed data set: where the images' bytes are
    source: Path | None = None  # what the user named, if not `root`: a CSV, or root is "/"

    def __len__(self) -> int:
        return len(self.pids)

    def take(self, rows: Int64[ndarray, " k"]) -> "Index":
        """Returns the index of these rows."""
        return Index(
            self.root,
            self.paths[rows],
            self.pids[rows],
            self.camids[rows],
            self.modality[rows],
            self.members.take(rows) if self.members else None,
            self.source,
        )

    @property
    def origin(self) -> Path:
        """The folder or CSV file that the user named, for messages about the whole data set."""
        return self.source or self.root

    @property
    def is_packed(self) -> bool:
        """Whether the images lie in tar files."""
        return self.members is not None

    def path(self, row: SupportsIndex) -> Path:
        """Returns the path of `row`'s image, or, if packed, `SHARD.tar:NAME`, for messages."""
        path = os.fsdecode(bytes(self.paths[row]))
        return self.members.path(row, path) if self.members else self.root / path

    def names(self) -> list[str]:
        """Returns the absolute path of each row's file; meaningless for a packed data set."""
        prefix = os.path.join(os.path.abspath(self.root), "")
        return [prefix + os.fsdecode(path) for path in self.paths.tolist()]

    def short_names(self) -> list[str]:
        """Returns each row's path relative to the root, or absolute if the root is /."""
        prefix = "/" if self.root == Path("/") else ""
        return [prefix + os.fsdecode(path) for path in self.paths.tolist()]

    def image(self, row: SupportsIndex) -> Path | UInt8[ndarray, " _"]:
        """Returns the file of `row`, or, in a packed data set, its bytes."""
        return self.members.content(row) if self.members else self.path(row)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One ranking task: each query row is ranked against all gallery rows of an `Index`."""

    query: Int64[ndarray, " q"]
    gallery: Int64[ndarray, " g"]


@dataclass(frozen=True, slots=True, eq=False)
class Mode:
    """One search setting of a protocol: trials whose results are averaged."""

    name: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """How a data set is tested: the images to embed, and which of their rows to rank."""

    name: str
    index: Index
    modes: tuple[Mode, ...]  # the first one is the data set's headline
    rule: Rule
    remark: str = ""  # must accompany every result of this protocol

    def num_matches(self, trial: Trial) -> Int64[ndarray, " q"]:
        """Returns for each query how many gallery images of its pid it may be matched with."""
        left_out = self.rule.exclusion(self.index.pids, self.index.camids)
        _, pid = np.unique(self.index.pids, return_inverse=True)
        _, code = np.unique(left_out, return_inverse=True)
        _, pair = np.unique(pid * (code.max() + 1) + code, return_inverse=True)
        matches = np.bincount(pid[trial.gallery], minlength=len(pid))[pid[trial.query]]
        excluded = np.bincount(pair[trial.gallery], minlength=len(pair))[pair[trial.query]]
        return (matches - excluded).astype(np.int64)


def make_index(root: Path, rows: list[tuple[str, int, int, Modality]]) -> Index:
    """Makes an index of (path, pid, camid, modality) rows, in that order.

    Paths are relative to `root`; if one is absolute, all are taken relative to "/".
    """
    source = root
    if any(path.startswith("/") for path, *_ in rows):
        folder, root = os.path.abspath(root), Path("/")
        rows = [(f"{folder}/{path}"[1:] if path[0] != "/" else path[1:], *of) for path, *of in rows]  # type: ignore[misc]
    paths, pids, camids, modality = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Index(
        root,
        np.array([os.fsencode(path) for path in paths], np.bytes_),
        np.array(pids, np.int64),
        np.array(camids, np.int64),
        np.array(modality, np.uint8),
        source=source,
    )
