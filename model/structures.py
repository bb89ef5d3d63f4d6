"""How an image enters the network: the input types of Fig. 5, the structures of Fig. 7.

Each entry takes normalised pixels, float [b, 3, h, w], and the modality, bool [b] (true: infrared),
and returns the backbone's input. Only the one-stream entry works without the modality.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model.options import StructureName
from pipeline.errors import InputError

CHANNELS: dict[StructureName, int] = {
    "one-stream": 3,
    "zero-padding-2": 2,
    "zero-padding-4": 4,
    "two-stems": 3,
    "generated-spectrum": 4,
}
LUMA = (0.299, 0.587, 0.114)  # BT.601


def entry(structure: StructureName, backbone: Any, stem_depth: int = 0) -> nn.Module:
    """Returns a structure's entry; two stems take the first layers and `stem_depth` stages away.

    Raises `InputError` if two stems are to come from a backbone that is not a ResNet, and for the
    generated-spectrum structure, which needs a translator (generated_spectrum.py).
    """
    if structure == "generated-spectrum":
        raise InputError(
            "--model.structure generated-spectrum: this method trains no translator; use d2rl, or "
            "another structure"
        )
    if structure == "two-stems":
        return TwoStems(backbone, stem_depth)
    if structure == "one-stream":
        return OneStream()
    return ZeroPadding(CHANNELS[structure])


def into_both_stems(tensors: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Returns a network's tensors, those of stems in `wanted` under the names of both stems."""
    in_stems = {name.split(".")[2] for name in wanted if name.startswith("enter.rgb.")}
    shared = dict(tensors)
    for i, part in enumerate(TwoStems.PARTS + TwoStems.STAGES):
        start = f"backbone.{part}."
        for name in [name for name in tensors if name.startswith(start) and str(i) in in_stems]:
            tensor = shared.pop(name)
            for stem in ("rgb", "infrared"):
                shared[f"enter.{stem}.{i}.{name.removeprefix(start)}"] = tensor
    return shared


class OneStream(nn.Module):
    """Treats all images alike: three channels, equal in an infrared image (Fig. 5b)."""

    def forward(self, pixels: Tensor, infrared: Tensor | None) -> Tensor:
        return pixels


class ZeroPadding(nn.Module):
    """Puts infrared images in the last channel, others in those before it; the rest is zero.

    With two channels, others are gray (Fig. 5a); with four, they are RGB (Wu et al., "RGB-Infrared
    Cross-Modality Person Re-Identification", ICCV 2017).
    """

    luma: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gray = channels == 2
        self.register_buffer("luma", torch.tensor(LUMA).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor, infrared: Tensor) -> Tensor:
        is_infrared = infrared[:, None, None, None].to(pixels.dtype)
        gray = (pixels * self.luma).sum(dim=1, keepdim=True)
        visible = gray if self.gray else pixels
        return torch.cat([visible * (1 - is_infrared), gray * is_infrared], dim=1)


class TwoStems(nn.Module):
    """Gives each modality its own first stage, equal at first; the rest is shared (Fig. 7d).

    `depth` more of the ResNet's stages are separate too.
    """

    PARTS = ("conv1", "bn1", "act1", "maxpool")  # of a ResNet
    STAGES = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, backbone: Any, depth: int = 0) -> None:
        super().__init__()
        parts = self.PARTS + self.STAGES[:depth]
        missing = [name for name in parts if not hasattr(backbone, name)]
        if missing:
            raise InputError(
                f"--model.structure two-stems: the backbone is not a ResNet (it has no "
                f"{missing[0]}); use a ResNet, or another structure"
            )
        self.rgb = nn.Sequential(*(getattr(backbone, name) for name in parts))
        self.infrared = copy.deepcopy(self.rgb)
        for name in parts:
            setattr(backbone, name, nn.Identity())

    def forward(self, pixels: Tensor, infrared: Tensor) -> Tensor:
        if not self.training:  # fixed shapes, which can be exported
            of_both = self.infrared(pixels), self.rgb(pixels)
            return torch.where(infrared[:, None, None, None], *of_both)
        # Batch norm must see the images of its own modality only: a balanced batch's two halves.
        rgb, ir = pixels.chunk(2)
        return torch.cat([self.rgb(rgb), self.infrared(ir)])
