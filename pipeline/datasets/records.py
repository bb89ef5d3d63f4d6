"""What a data set is to everything downstream: rows of images, and rows to rank against rows."""

import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import SupportsIndex

from jaxtyping import Bool, Int64, Shaped, UInt8
from numpy import ndarray


class Modality(IntEnum):
    """The kind of camera that took an image; the value is `PairedBatch.modality`'s code."""

    RGB = 0
    IR = 1


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """Images as a struct of arrays, one row an image: 10 M rows need no Python object each."""

    root: Path
    paths: Shaped[ndarray, " n"]  # bytes, relative to root
    pids: Int64[ndarray, " n"]  # as the data set numbers them
    camids: Int64[ndarray, " n"]
    modality: UInt8[ndarray, " n"]

    def __len__(self) -> int:
        return len(self.pids)

    def path(self, row: SupportsIndex) -> Path:
        """Where the image of `row` is."""
        return self.root / os.fsdecode(bytes(self.paths[row]))


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One ranking task: each query row is ranked against all gallery rows of an `Index`.

    A gallery row whose place equals the query's place is ignored for that query, whatever its pid.
    """

    query: Int64[ndarray, " q"]
    gallery: Int64[ndarray, " g"]
    query_place: Int64[ndarray, " q"]
    gallery_place: Int64[ndarray, " g"]

    def ignored(self) -> Bool[ndarray, "q g"]:
        """The pairs that are taken out before anything is counted: those of one place."""
        return self.query_place[:, None] == self.gallery_place

    def has_match(self, index: Index) -> bool:
        """Whether any query has a gallery image of its pid that it may be matched with."""
        same_pid = index.pids[self.query][:, None] == index.pids[self.gallery]
        return bool((same_pid & ~self.ignored()).any())


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """A data set's way of testing: the images to embed, and trials over their rows to average."""

    name: str
    index: Index
    trials: tuple[Trial, ...]
    cmc_unique_pids: bool  # CMC counts each gallery pid once, at its best rank
