"""The spectra of Eq. 1 as data: a spectrum is a row w, its image is w · (R, G, B), triplicated.

Adding a spectrum is adding a row. The order of the rows is the code that `PairedBatch.spectrum`
and the probabilities P̂ use.
"""

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

# BT.601 luma in 16-bit fixed point: rounded to uint8 it equals PIL's `convert("L")` to the bit.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

SPECTRA: dict[str, tuple[float, float, float]] = {
    "R": (1.0, 0.0, 0.0),
    "G": (0.0, 1.0, 0.0),
    "B": (0.0, 0.0, 1.0),
    "X": LUMA,
}
NAMES = tuple(SPECTRA)
ROWS: Float32[ndarray, "spectra 3"] = np.array(list(SPECTRA.values()), np.float32)

INFRARED = -1  # the spectrum code of an infrared original's counterpart


def uniform() -> Float64[ndarray, " spectra"]:
    """The first P̂: every spectrum as likely as any other."""
    return np.full(len(NAMES), 1 / len(NAMES))
