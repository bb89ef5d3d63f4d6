"""What passes between a network and its losses."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float, Int8, Int64, UInt8
from torch import Tensor


class Outputs(NamedTuple):
    """A network's outputs for b images.

    `extras` holds whatever else the losses need: class centres, a discriminator's logits. A loss's
    own parameters belong to the network, so that they are trained, saved and resumed with it.
    """

    features: Float[Tensor, "b d"]  # pooled; with a fully connected layer, its output
    embedding: Float[Tensor, "b e"]  # what retrieval compares
    logits: Float[Tensor, "b m"]  # of the training identities; DHSM takes its confidence from them
    extras: dict[str, Tensor] = {}  # noqa: RUF012 - never mutated


@dataclass(frozen=True)
class Examples:
    """The n originals behind b = n · views images, each followed by its counterpart, if any.

    In a balanced batch the RGB originals come first: n/2 of them, then the infrared ones.
    """

    pids: Int64[Tensor, " n"]  # class index
    modality: UInt8[Tensor, " n"]  # 0 RGB, 1 infrared
    spectrum: Int8[Tensor, " n"]  # of the counterpart; -1: none, or an infrared original
    views: int

    @property
    def labels(self) -> Int64[Tensor, " b"]:
        """Each image's class index."""
        return self.pids.repeat_interleave(self.views)

    @property
    def infrared(self) -> Bool[Tensor, " b"]:
        """Is each image, or the original of a counterpart, infrared?"""
        return self.modality.bool().repeat_interleave(self.views)

    def originals(self, of_images: Tensor) -> Tensor:
        """Returns the originals' rows of [b, …]: [n, …]."""
        return of_images[:: self.views]

    def counterparts(self, of_images: Tensor) -> Tensor:
        """Returns the counterparts' rows of [b, …]: [n, …]; only if there are two views."""
        return of_images[1 :: self.views]
