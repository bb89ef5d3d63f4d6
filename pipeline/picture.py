"""Examines images for `data check`."""

from threading import Lock

import numpy as np

from pipeline.guard import Encoded, Flaw, check_header, decode, read
from pipeline.jpeg import why_incomplete
from pipeline.sixteen_bit import MAX_COUNT, describe, read_counts


class Examination:
    """Examines a data set's images, from several threads, and counts the values in 16-bit ones."""

    def __init__(self) -> None:
        self.num_16_bit = 0
        self.histogram = np.zeros(MAX_COUNT + 1, np.int64)  # how often each count occurs
        self._lock = Lock()

    def flaw_of(self, image: Encoded) -> Flaw | None:
        """Decodes the image; returns what is wrong with it, or None."""
        content = read(image)
        if isinstance(content, Flaw):
            return content
        header = check_header(content)
        if header.flaw:
            return header.flaw
        if header.codec == "jpeg":
            return why_incomplete(bytes(content))
        decoded = decode(content)
        if isinstance(decoded, Flaw):
            return decoded
        return self._count(content) if header.is_16_bit else None

    def _count(self, content: np.ndarray) -> Flaw | None:
        try:
            counts, times = np.unique(read_counts(content), return_counts=True)
        except RuntimeError as error:
            return Flaw("damaged pixels", f"cannot be decoded ({error})")
        with self._lock:
            self.num_16_bit += 1
            self.histogram[counts] += times
        return None

    def notes(self) -> list[str]:
        """Returns remarks on the images that are not faults."""
        return [describe(self.num_16_bit, self.histogram)] if self.num_16_bit else []
