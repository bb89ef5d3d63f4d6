"""The network: normalise → backbone → global average pool → dropout → linear.

RGB, infrared and counterpart images take the same path (Fig. 7b), but in the structures that the
paper compares with, which differ in how an image enters (structures.py). Normalisation is the
network's first operation, so that training, evaluation and export cannot differ in it.
"""

import logging
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Bool, Float, UInt8
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from model import structures
from model.options import ModelOptions, OptionError


class Network(nn.Module):
    """A timm backbone with the paper's head; images in, (features, logits) out."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, options: ModelOptions, num_classes: int, load_weights: bool = True) -> None:
        """Builds the network; `load_weights=False` leaves out the pretrained weights.

        Raises `OptionError` for an unknown backbone or weights that cannot be had.
        """
        super().__init__()
        self.structure = options.structure
        self.backbone = _backbone(options, load_weights)
        self.enter = structures.entry(options.structure, self.backbone)
        width = self.backbone.num_features
        self.neck = nn.BatchNorm1d(width) if options.bnneck else nn.Identity()
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(width, num_classes)
        # Counterparts are selected and triplicated in pixel space, then normalised like any image.
        for name, value in (
            ("mean", [255 * m for m in IMAGENET_DEFAULT_MEAN]),
            ("inverse_std", [1 / (255 * s) for s in IMAGENET_DEFAULT_STD]),
        ):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

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


def _backbone(options: ModelOptions, load_weights: bool) -> Any:
    """The timm model without its classifier: images to pooled features."""
    if not timm.is_model(options.backbone):
        close = ", ".join(timm.list_models(f"*{options.backbone.split('.')[0]}*")[:5])
        raise OptionError(
            f"--model.backbone {options.backbone}: timm has no such model"
            + (f"; close: {close}" if close else "; see timm.list_models()")
        )
    wanted = options.weights if load_weights else "none"
    # timm spreads pretrained weights of three input channels over more or fewer.
    source: dict[str, Any] = {
        "pretrained": wanted != "none",
        "in_chans": structures.CHANNELS[options.structure],
    }
    if wanted not in ("none", "imagenet"):
        if not Path(wanted).is_file():
            raise OptionError(
                f"--model.weights {wanted}: no such file; pass a .safetensors or .pth file, "
                "imagenet or none"
            )
        source["pretrained_cfg_overlay"] = {"file": wanted}
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.ERROR)  # its retries say nothing that the error below does not
    try:
        backbone = timm.create_model(options.backbone, num_classes=0, **source)
    except Exception as error:
        if wanted == "none":
            raise
        reason = str(error).strip().split("\n")[0][:200]
        raise OptionError(
            f"--model.weights {wanted}: could not load weights for {options.backbone} ({reason}); "
            "pass --model.weights FILE with weights you have, or --model.weights none to train "
            "from scratch"
        ) from error
    finally:
        hub_log.setLevel(level)
    if options.last_stride == 1:
        _unstride_last_stage(backbone, options.backbone)
    return backbone


def _unstride_last_stage(backbone: Any, name: str) -> None:
    """Sets the strides of a ResNet's last stage to 1 (its weights fit either way)."""
    if not hasattr(backbone, "layer4"):
        raise OptionError(f"--model.last-stride 1: {name} is no ResNet; leave it at 2")
    for parent in list(backbone.layer4.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                child.stride = (1, 1)
            elif isinstance(child, nn.AvgPool2d):  # the shortcut's, which only served the stride
                setattr(parent, child_name, nn.Identity())
