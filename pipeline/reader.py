"""Reads images as files: what DALI decodes."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from pipeline.datasets.records import Index
from pipeline.errors import BadImageError
from pipeline.guard import Flaw, look, read
from pipeline.sixteen_bit import to_8_bit

GIVE_A_RANGE = (
    "train with --data.range-16bit LOW HIGH, the values that become black and white (`cdp data "
    "check` prints those that a data set uses), or convert it to 8 bits"
)


def encode_paths(index: Index, rows: Int64[ndarray, " n"]) -> UInt8[ndarray, "n length"]:
    """Each row's absolute path as uint8 characters, which is how DALI's file reader takes it.

    All of one length, with further slashes in front: DALI takes one array faster than n of them.
    """
    prefix = os.fsencode(os.path.abspath(index.root)) + b"/"
    paths = [prefix + bytes(path) for path in index.paths[rows]]
    length = max(map(len, paths))
    return np.frombuffer(b"".join(path.rjust(length, b"/") for path in paths), np.uint8).reshape(
        len(paths), length
    )


class Reader:
    """Reads an index's images for a graph; looks at each one's header before DALI first meets it.

    The graph is fed paths, which it reads itself. Of packed data sets it is fed bytes, and of loose
    files too if `range_16bit` is given: 16-bit images are scaled on the way (`sixteen_bit`).
    """

    def __init__(self, index: Index, range_16bit: tuple[int, int] | None) -> None:
        self.index = index
        self.range_16bit = range_16bit
        self.gives_bytes = index.is_packed or range_16bit is not None
        self._seen = np.zeros(len(index), bool)
        self._is_16_bit = np.zeros(len(index), bool)
        self._threads = ThreadPoolExecutor(16)  # they wait for the disk, not for a core

    def __call__(self, rows: Int64[ndarray, " n"]) -> ndarray | list[ndarray]:
        """What the graph reads of `rows`; raises `BadImageError` for the first that cannot serve.

        A 16-bit image cannot if no range is given.
        """
        if self.gives_bytes:
            return self.contents(rows)
        self._look(rows)
        return encode_paths(self.index, rows)

    def contents(self, rows: Int64[ndarray, " n"]) -> list[UInt8[ndarray, " _"]]:
        """The bytes of each image, scaled if it has 16 bits; raises as a call does."""
        self._look(rows)
        if self.index.members and self.range_16bit is None:
            # DALI copies those. Without a copy they would have to stay mapped until the last batch
            # in flight is decoded, and Python tells of no order in which what nobody holds goes.
            return [self.index.members.content(row) for row in rows]
        return list(self._threads.map(self._content, rows))

    def _look(self, rows: Int64[ndarray, " n"]) -> None:
        """Looks at those of `rows` that it has not seen."""
        new = np.unique(rows[~self._seen[rows]])
        images = [self.index.image(row) for row in new]
        for row, found in zip(new, self._threads.map(look, images), strict=True):
            if found.flaw:
                raise self._bad(row, found.flaw.text)
            if found.is_16_bit and self.range_16bit is None:
                raise self._bad(row, "has 16 bits a channel", GIVE_A_RANGE)
            self._is_16_bit[row] = found.is_16_bit
            self._seen[row] = True

    def _content(self, row: np.int64) -> UInt8[ndarray, " _"]:
        content = read(self.index.image(row))
        if isinstance(content, Flaw):
            raise self._bad(row, content.text)
        if self.range_16bit is None or not self._is_16_bit[row]:
            return content
        try:
            return to_8_bit(content, *self.range_16bit)
        except RuntimeError as error:
            raise self._bad(row, f"cannot be decoded ({' '.join(str(error).split())})") from error

    def _bad(self, row: np.int64, reason: str, *mend: str) -> BadImageError:
        return BadImageError(self.index.path(row), int(row), reason, *mend)
