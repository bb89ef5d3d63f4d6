"""What `data check` finds in images."""

from threading import Lock

import numpy as np

from pipeline.guard import Encoded, Flaw, decode, look, read
from pipeline.jpeg import why_incomplete
from pipeline.sixteen_bit import MOST, describe, read_counts


class Examination:
    """Examines the images of a data set, in several threads, and adds up what 16-bit ones hold."""

    def __init__(self) -> None:
        self.num_16_bit = 0
        self.histogram = np.zeros(MOST + 1, np.int64)  # how often each count occurs
        self._lock = Lock()

    def flaw_of(self, image: Encoded) -> Flaw | None:
        """Decodes the image; what is wrong with it, or None."""
        content = read(image)
        if isinstance(content, Flaw):
            return content
        looked = look(content)
        if looked.flaw:
            return looked.flaw
        if looked.codec == "jpeg":
            return why_incomplete(bytes(content))
        decoded = decode(content)
        if isinstance(decoded, Flaw):
            return decoded
        return self._count(content) if looked.is_16_bit else None

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
        """What is to be known of the images, but need not be mended."""
        return [describe(self.num_16_bit, self.histogram)] if self.num_16_bit else []
