"""Reads the image files that DALI decodes."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from pipeline.datasets.records import Index
from pipeline.errors import BadImageError
from pipeline.guard import Flaw, Header, check_header, read
from pipeline.sixteen_bit import to_8_bit

NUM_THREADS = 16  # they wait for the disk, not for a core
GIVE_A_RANGE = (
    "train with --data.range-16bit LOW HIGH, the values that become black and white (`cdp data "
    "check` prints the range that a data set uses), or convert it to 8 bits"
)


def encode_paths(index: Index, rows: Int64[ndarray, " n"]) -> UInt8[ndarray, "n length"]:
    """Returns each row's absolute path as uint8 characters, as DALI's file reader expects it.

    Leading slashes pad all paths to one length: DALI takes one array faster than n of them.
    """
    prefix = os.fsencode(os.path.abspath(index.root)) + b"/"
    paths = [prefix + bytes(path) for path in index.paths[rows]]
    length = max(map(len, paths))
    return np.frombuffer(b"".join(path.rjust(length, b"/") for path in paths), np.uint8).reshape(
        len(paths), length
    )


class Reader:
    """Feeds an index's images to a graph; checks each header before DALI first sees the image.

    The graph gets paths and reads the files itself. For a packed data set it gets bytes, and for
    loose files too if `range_16bit` is given, which scales 16-bit images first (`sixteen_bit`).
    """

    def __init__(self, index: Index, range_16bit: tuple[int, int] | None) -> None:
        self.index = index
        self.range_16bit = range_16bit
        self.gives_bytes = index.is_packed or range_16bit is not None
        self._seen = np.zeros(len(index), bool)
        self._is_16_bit = np.zeros(len(index), bool)
        self._threads = ThreadPoolExecutor(NUM_THREADS)

    def __call__(self, rows: Int64[ndarray, " n"]) -> ndarray | list[ndarray]:
        """Returns graph input for `rows`; raises `BadImageError` at the first unusable image.

        Without a range, 16-bit images are unusable.
        """
        if self.gives_bytes:
            return self.contents(rows)
        self._check_headers(rows)
        return encode_paths(self.index, rows)

    def contents(self, rows: Int64[ndarray, " n"]) -> list[UInt8[ndarray, " _"]]:
        """Returns each image's bytes, scaled if it has 16 bits; raises like `__call__`."""
        self._check_headers(rows)
        if self.index.members and self.range_16bit is None:
            # DALI copies these. Without a copy the files would have to stay mapped until the last
            # batch in flight is decoded, and Python frees unused objects in no guaranteed order.
            return [self.index.members.content(row) for row in rows]
        return list(self._threads.map(self._content, rows))

    def _check_headers(self, rows: Int64[ndarray, " n"]) -> None:
        """Checks the headers of those of `rows` that it has not seen."""
        new = np.unique(rows[~self._seen[rows]])
        # A task costs more than a header, so each checks several.
        parts = np.array_split(new, min(NUM_THREADS, (len(new) + 1) // 2)) if len(new) else []
        checked = self._threads.map(self._headers, parts)
        for row, header in zip(new, chain.from_iterable(checked), strict=True):
            if header.flaw:
                raise self._bad(row, header.flaw.text)
            if header.is_16_bit and self.range_16bit is None:
                raise self._bad(row, "has 16 bits per channel", GIVE_A_RANGE)
            self._is_16_bit[row] = header.is_16_bit
            self._seen[row] = True

    def _headers(self, rows: Int64[ndarray, " n"]) -> list[Header]:
        return [check_header(self.index.image(row)) for row in rows]

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

    def _bad(self, row: np.int64, reason: str, *remedy: str) -> BadImageError:
        return BadImageError(self.index.path(row), int(row), reason, *remedy)
