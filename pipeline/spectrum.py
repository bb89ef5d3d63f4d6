"""The spectra of Eq. 1 as data: a spectrum is a row w, its image w · pixel + offset, triplicated.

To add a spectrum, add a row. A run draws from the names in `DataOptions.spectra`; their order gives
the codes in `PairedBatch.spectrum` and the order of the probabilities P̂.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One channel made of three: row · pixel + offset, of pixels 0…255 in a color space."""

    row: tuple[float, float, float]
    offset: float = 0.0
    space: Literal["rgb", "hsv"] = "rgb"


# BT.601 luma in 16-bit fixed point: rounded to uint8 it equals PIL's `convert("L")` to the bit.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

SPECTRA: dict[str, Spectrum] = {
    "R": Spectrum((1.0, 0.0, 0.0)),
    "G": Spectrum((0.0, 1.0, 0.0)),
    "B": Spectrum((0.0, 0.0, 1.0)),
    "X": Spectrum(LUMA),  # also the Y of YUV
    # The paper's section IV-D tried YUV and HSV; it found that training does not converge.
    "U": Spectrum((-0.168736, -0.331264, 0.5), offset=128.0),  # BT.601, as JPEG's Cb
    "V": Spectrum((0.5, -0.418688, -0.081312), offset=128.0),  # Cr
    "hue": Spectrum((1.0, 0.0, 0.0), space="hsv"),  # 256 to a turn
    "saturation": Spectrum((0.0, 1.0, 0.0), space="hsv"),
    "value": Spectrum((0.0, 0.0, 1.0), space="hsv"),
}
DEFAULT = ("R", "G", "B", "X")

INFRARED = -1  # the spectrum code of an image without one: infrared, or without counterpart


def rows(names: Sequence[str]) -> Float32[ndarray, "spectra 3"]:
    """Returns the row of each named spectrum."""
    return np.array([SPECTRA[name].row for name in names], np.float32).reshape(-1, 3)


def uniform(names: Sequence[str] = DEFAULT) -> Float64[ndarray, " spectra"]:
    """Returns the initial P̂: all spectra equally likely."""
    return np.full(len(names), 1 / max(1, len(names)))


def choose(
    u: Float32[ndarray, " n"], probability: Float32[ndarray, " spectra"]
) -> Int64[ndarray, " n"]:
    """Returns the spectrum drawn by each uniform in [0, 1): inverts P̂'s cumulative sum."""
    return (u[:, None] >= np.cumsum(probability, dtype=np.float32)).sum(axis=1)
