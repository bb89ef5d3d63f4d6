"""Reads 16-bit PNG files, as thermal cameras write them, and turns their counts into 8-bit pixels.

A decoder scales 0…65535 to 0…255, which leaves a thermal image only a few levels. So one range of
counts, `DataOptions.range_16bit`, is stretched to 0…255, the same for all images of a run.
"""

from io import BytesIO

import numpy as np
from jaxtyping import Int64, UInt8, UInt16
from numpy import ndarray
from PIL import Image

MAX_COUNT = 65535
INNER = 0.998  # share of all counts in a suggested range; dead pixels fall outside


def read_counts(png: UInt8[ndarray, " _"]) -> UInt16[ndarray, "h w 3"]:
    """Returns the image's counts, gray repeated three times; raises `RuntimeError` if damaged."""
    import torch  # takes seconds to import, and few data sets need it
    from torchvision.io import ImageReadMode, decode_png

    counts = decode_png(torch.from_numpy(np.array(png)), ImageReadMode.RGB)
    return counts.permute(1, 2, 0).numpy()


def to_8_bit(png: UInt8[ndarray, " _"], low: int, high: int) -> UInt8[ndarray, " _"]:
    """Converts the image to an 8-bit BMP file: 0 at `low` and below, 255 at `high` and above.

    Raises `RuntimeError` if it is damaged.
    """
    scaled = (np.arange(MAX_COUNT + 1) - low) * 255 / (high - low)
    pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)[read_counts(png)]
    file = BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return np.frombuffer(file.getbuffer(), np.uint8)


def suggested_range(histogram: Int64[ndarray, " counts"]) -> tuple[int, int]:
    """Returns the range that holds `INNER` of all counts, with half of the rest on either side."""
    share = np.cumsum(histogram) / histogram.sum()
    low, high = (int(np.searchsorted(share, s)) for s in ((1 - INNER) / 2, (1 + INNER) / 2))
    low = min(low, MAX_COUNT - 1)
    return low, max(high, low + 1)


def describe(num_images: int, histogram: Int64[ndarray, " counts"]) -> str:
    """Returns a line saying what range a data set's 16-bit images use, and what option to pass."""
    used = np.flatnonzero(histogram)
    low, high = suggested_range(histogram)
    return (
        f"{num_images} images have 16 bits per channel and values from {used[0]} to {used[-1]}, "
        f"{INNER:.1%} of them from {low} to {high}; train with --data.range-16bit {low} {high}, "
        "which become black and white"
    )
