"""An index's images by identity and modality, sorted once: what every epoch's plan starts from.

Arrays only: 10 M images take some 300 MB, and no Python object each.
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
    """Images that batches draw from on their own account, identity after identity.

    `order` holds positions in `rows`; those of identity i lie at `first[i]`, `count[i]` of them,
    ascending. Identities of equally many images are neighbours.
    """

    rows: Int64[ndarray, " r"]  # of the index, ascending
    order: Int64[ndarray, " r"]
    first: Int64[ndarray, " m"]
    count: Int64[ndarray, " m"]

    def of_equal_size(self) -> Iterator[Int64[ndarray, "identities size"]]:
        """`order` in blocks of identities that have equally many images."""
        sizes, identities = np.unique(self.count, return_counts=True)
        ends = np.cumsum(sizes * identities)
        for size, start, end in zip(sizes, ends - sizes * identities, ends, strict=True):
            yield self.order[start:end].reshape(-1, max(size, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Who is in an index, and his images: one part a modality (`balanced`), else one of all."""

    pids: Int64[ndarray, " m"]  # ascending
    labels: Int64[ndarray, " n"]  # of each row: its pid's number in `pids`
    parts: tuple[Part, ...]

    def alike(self, index: Index, row: int) -> Int64[ndarray, " k"]:
        """The rows of `row`'s identity and modality, ascending."""
        modality = index.modality[row]
        part = self.parts[modality if len(self.parts) > 1 else 0]
        start = part.first[self.labels[row]]
        rows = part.rows[part.order[start : start + part.count[self.labels[row]]]]
        return rows[index.modality[rows] == modality]


def group(index: Index, sampling: SamplingName) -> Groups:
    """Groups an index for plans of this sampling."""
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
    place = np.empty_like(by_size)
    place[by_size] = np.arange(num_identities)
    end = np.cumsum(count[by_size])
    return Part(
        rows, np.argsort(place[labels], kind="stable"), (end - count[by_size])[place], count
    )
