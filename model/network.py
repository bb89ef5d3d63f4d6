"""The network: normalise → backbone → global average pool → dropout → linear.

RGB, infrared and counterpart images take the same path (Fig. 7b), but in the structures that the
paper compares with, which differ in how an image enters (structures.py). Normalisation is the
network's first operation, so that training, evaluation and export cannot differ in it.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from model import structures, weights
from model.backbone import ImageSize, build
from model.options import ModelOptions, OptionError


class Network(nn.Module):
    """A timm backbone with the paper's head; images in, (features, logits) out."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(
        self,
        options: ModelOptions,
        num_classes: int,
        image_size: ImageSize = (256, 128),
        load_weights: bool = True,
    ) -> None:
        """Builds the network; `load_weights=False` leaves out the pretrained weights.

        Raises `OptionError` for a backbone that is unknown or cannot take images of this height and
        width, in pixels, and for weights that cannot be had or do not fit.
        """
        super().__init__()
        file = _weights_file(options) if load_weights else None
        self.structure = options.structure
        self.backbone, self.width = build(options, image_size, load_weights)
        self.enter = structures.entry(options.structure, self.backbone)
        self.neck = nn.BatchNorm1d(self.width) if options.bnneck else nn.Identity()
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(self.width, num_classes)
        # Counterparts are selected and triplicated in pixel space, then normalised like any image.
        for name, value in (
            ("mean", [255 * m for m in IMAGENET_DEFAULT_MEAN]),
            ("inverse_std", [1 / (255 * s) for s in IMAGENET_DEFAULT_STD]),
        ):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.account = weights.load(self, options.backbone, file) if file else ""  # in words

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b m"]]:
        """Pixels 0…255 to (pooled features, class logits); the triplet loss takes the features.

        `infrared` tells the modality of each image; the one-stream network does without it.
        """
        pooled = self._pool(images, infrared)
        return pooled, self.classifier(self.dropout(self.neck(pooled)))

    def embed(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d"]:
        """The features that retrieval compares, float32."""
        return self.neck(self._pool(images, infrared)).float()

    def _pool(self, images: Tensor, infrared: Tensor | None) -> Tensor:
        # The pixels' layout, NCHW or channels_last, is that of what follows.
        pixels = (images.to(self.mean.dtype) - self.mean) * self.inverse_std
        return self.backbone(self.enter(pixels, infrared))


def _weights_file(options: ModelOptions) -> Path | None:
    if options.weights in ("none", "imagenet"):
        return None
    if not Path(options.weights).is_file():
        raise OptionError(
            f"--model.weights {options.weights}: no such file; pass a .safetensors or .pth file, a "
            "run folder, imagenet or none"
        )
    return Path(options.weights)
