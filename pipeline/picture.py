"""What `data check` finds in one image."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt16
from numpy import ndarray

from pipeline.guard import Encoded, Flaw, decode, look, read
from pipeline.jpeg import why_incomplete
from pipeline.sixteen_bit import read_counts


class Examined(NamedTuple):
    """An image's flaw, if it has one; of a 16-bit image its values, and how often each occurs."""

    flaw: Flaw | None = None
    values: UInt16[ndarray, " v"] | None = None
    times: Int64[ndarray, " v"] | None = None


def examine(image: Encoded) -> Examined:
    """Decodes the image, and looks for what a decoder keeps to itself."""
    content = read(image)
    if isinstance(content, Flaw):
        return Examined(content)
    looked = look(content)
    if looked.flaw:
        return Examined(looked.flaw)
    if looked.codec == "jpeg":
        return Examined(why_incomplete(bytes(content)))
    decoded = decode(content)
    if isinstance(decoded, Flaw):
        return Examined(decoded)
    if not looked.is_16_bit:
        return Examined()
    try:
        return Examined(None, *np.unique(read_counts(content), return_counts=True))
    except RuntimeError as error:
        return Examined(Flaw("damaged pixels", f"cannot be decoded ({error})"))
