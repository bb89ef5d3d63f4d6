"""One training batch, as it reaches the network."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int8, Int64, UInt8
from numpy import ndarray
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PairedBatch:
    """N = P·K originals on the device, with their counterparts if the options name spectra."""

    images: UInt8[Tensor, "n views h w 3"]  # [:, 0] the original, [:, 1] its counterpart, if any
    pids: Int64[Tensor, " n"]  # class index, 0…M-1
    modality: UInt8[Tensor, " n"]  # pipeline.datasets.records.Modality
    spectrum: Int8[Tensor, " n"]  # position in DataOptions.spectra; -1: an infrared original
    rows: Int64[ndarray, " n"]  # on the host: the originals' rows in the index
    # On the host: the P̂ that this batch was drawn from.
    probability: Float32[ndarray, " spectra"] = field(
        default_factory=lambda: np.empty(0, np.float32)
    )

    @property
    def num_views(self) -> int:
        """Images per original: 2 with its counterpart, else 1."""
        return self.images.shape[1]

    def flat(self) -> UInt8[Tensor, "images 3 h w"]:
        """Returns all images, 0…255, each original before its counterpart: a channels_last view."""
        return self.images.flatten(0, 1).permute(0, 3, 1, 2)
