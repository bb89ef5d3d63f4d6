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

from model import structures, weights
from model.options import ModelOptions, OptionError

ImageSize = tuple[int, int]  # height, width


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
        self.backbone = _backbone(options, image_size, load_weights)
        self.width = _width(self.backbone, options, image_size)  # of the features
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


def _backbone(options: ModelOptions, image_size: ImageSize, load_weights: bool) -> Any:
    """The timm model without its classifier, images to pooled features, as the options want it.

    Weights from a file are loaded later, by weights.py.
    """
    name = options.backbone
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('.')[0]}*")[:5])
        raise OptionError(
            f"--model.backbone {name}: timm has no such model"
            + (f"; close: {close}" if close else "; see timm.list_models()")
        )
    # timm spreads pretrained weights of three input channels over more or fewer.
    arguments: dict[str, Any] = {"in_chans": structures.CHANNELS[options.structure]}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        arguments |= _size_argument(options, arguments, image_size)
    if load_weights and options.weights == "imagenet":
        backbone = _pretrained(name, arguments)
    else:
        backbone = _created(name, arguments)
    if options.last_stride == 1:
        _unstride_last_stage(backbone, name)
    return backbone


def _created(name: str, arguments: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, num_classes=0, **arguments)
    except Exception as error:
        raise OptionError(
            f"--model.backbone {name}: timm cannot build it with "
            f"{', '.join(f'{key} {value}' for key, value in arguments.items())} "
            f"({_first_line(error)}); take another"
        ) from error


def _pretrained(name: str, arguments: dict[str, Any]) -> Any:
    """The model with the weights that timm has for it, downloaded once."""
    hub_log = logging.getLogger("huggingface_hub")
    level = hub_log.level
    hub_log.setLevel(logging.ERROR)  # its retries say nothing that the error below does not
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, **arguments)
    except Exception as error:
        raise OptionError(
            f"--model.weights imagenet: could not load weights for {name} ({_first_line(error)}); "
            "pass --model.weights FILE with weights you have, or --model.weights none to train "
            "from scratch"
        ) from error
    finally:
        hub_log.setLevel(level)


def _size_argument(
    options: ModelOptions, arguments: dict[str, Any], image_size: ImageSize
) -> dict[str, ImageSize]:
    """`img_size` for a model that has to know it; nothing for those that do better without.

    Of the models that timm marks as fixed in size, a few resize what they get.
    """
    for_this_size = {"img_size": image_size}
    with torch.random.fork_rng(devices=[]):
        for size in (for_this_size, {}):
            try:
                _width(_created(options.backbone, arguments | size), options, image_size)
                return size
            except OptionError:
                continue
    return for_this_size  # building it again says why it cannot work


@torch.no_grad()
def _width(backbone: Any, options: ModelOptions, image_size: ImageSize) -> int:
    """Length of the features that a new backbone makes of images of this size.

    timm's `num_features` is that of an earlier layer in some families. Raises `OptionError` if the
    backbone cannot take such images, or returns anything but a vector for each.
    """
    height, width = image_size
    images = torch.zeros(1, structures.CHANNELS[options.structure], height, width)
    backbone.eval()  # batch norm's statistics stay as they are
    try:
        with torch.random.fork_rng(devices=[]):
            features = backbone(images)
        reason = "" if _is_row(features) else "it does not return a vector for each image"
    except Exception as error:
        reason = _first_line(error)
    backbone.train()
    if reason:
        own = backbone.pretrained_cfg["input_size"]
        raise OptionError(
            f"--model.backbone {options.backbone}: cannot take {height}x{width} images ({reason}); "
            f"take another backbone, or the size it is made for: --data.height-px {own[1]} "
            f"--data.width-px {own[2]}"
        )
    return int(features.shape[1])


def _is_row(features: Any) -> bool:
    return isinstance(features, Tensor) and features.ndim == 2 and len(features) == 1


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


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
