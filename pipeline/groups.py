"""Groups an index's images by identity and modality, once for the plans of all epochs.

Arrays only: 10 M images take some 300 MB, without a Python object per image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.records import Index, Modality
from pipeline.options import SamplingName


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A pool of images, grouped by identity, that batches draw from separately.

    `order` holds positions in `rows`, ascending within an identity; identity i has `count[i]` of
    them, starting at `first[i]`. Identities with equally many images are adjacent.
    """

    rows: Int64[ndarray, " r"]  # of the index, ascending
    order: Int64[ndarray, " r"]
    first: Int64[ndarray, " m"]
    count: Int64[ndarray, " m"]

    def equal_size_blocks(self) -> Iterator[Int64[ndarray, "identities size"]]:
        """Yields `order` in blocks of identities with equally many images."""
        sizes, identities = np.unique(self.count, return_counts=True)
        ends = np.cumsum(sizes * identities)
        for size, start, end in zip(sizes, ends - sizes * identities, ends, strict=True):
            yield self.order[start:end].reshape(-1, max(size, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The identities of an index and their images, one part per modality if `balanced`."""

    pids: Int64[ndarray, " m"]  # ascending
    labels: Int64[ndarray, " n"]  # of each row: the position of its pid in `pids`
    parts: tuple[Part, ...]

    def rows_like(self, index: Index, row: int) -> Int64[ndarray, " k"]:
        """Returns the rows of the same identity and modality as `row`, ascending."""
        modality = index.modality[row]
        part = self.parts[modality if len(self.parts) > 1 else 0]
        start = part.first[self.labels[row]]
        rows = part.rows[part.order[start : start + part.count[self.labels[row]]]]
        return rows[index.modality[rows] == modality]


def group(index: Index, sampling: SamplingName) -> Groups:
    """Groups an index for this kind of sampling."""
    pids, labels = np.unique(index.pids, return_inverse=True)
    members = (
        [np.flatnonzero(index.modality == modality) for modality in Modality]
        if sampling == "balanced"
        else [np.arange(len(index))]
    )
    return Groups(pids, labels, tuple(_part(rows, labels[rows], len(pids)) for rows in members))


def _part(rows: Int64[ndarray, " r"], labels: Int64[ndarray, " r"], num_identities: int) -> Part:
    count = np.bincount(labels, minlength=num_identities)
    by_size = np.argsort(count, kind="stable")
    rank = np.empty_like(by_size)
    rank[by_size] = np.arange(num_identities)
    end = np.cumsum(count[by_size])
    return Part(rows, np.argsort(rank[labels], kind="stable"), (end - count[by_size])[rank], count)
