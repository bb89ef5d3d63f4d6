"""What is exported: the part of a network that retrieval uses, and its description."""

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from model.network import Network, ReidNetwork
from train import checkpoint
from train.config import Config, of_method

FORMAT = "cdp-reid export 2"
Inputs = tuple[Tensor, ...]  # one tensor per name in Retrieval.names, for n images

PREPROCESS = (
    "decode to 8-bit RGB (repeat an infrared image's one channel three times; do not apply EXIF "
    "rotation), resize to {height} x {width} (height x width), bilinear with antialiasing as in "
    "PIL; do not normalise, the network does"
)


class Retrieval(nn.Module):
    """`Network.embed` in eval mode, without the classifier: maps Inputs to features [n, d]."""

    def __init__(self, network: ReidNetwork) -> None:
        """Copies the network."""
        super().__init__()
        self.names = ("images", "infrared") if network.needs_modality else ("images",)
        self.network = without_classifier(copy.deepcopy(network).cpu())
        self.eval()

    def forward(
        self, images: UInt8[Tensor, "n 3 h w"], infrared: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n d"]:
        """Maps pixels 0…255 to float32 features."""
        return self.network.embed(images, infrared)

    def inputs(self, images: UInt8[Tensor, "n 3 h w"], infrared: Bool[Tensor, " n"]) -> Inputs:
        """Returns the arguments of `forward` for these images."""
        given = {"images": images.contiguous(), "infrared": infrared}
        return tuple(given[name] for name in self.names)


def without_classifier(network: ReidNetwork) -> ReidNetwork:
    """Removes what `embed` does not use, if the network is ours; changes it in place."""
    if type(network) is Network:
        for unused in ("dropout", "classifier"):
            setattr(network, unused, nn.Identity())
        network.centers = None
    return network


def random_images(num_images: int, cfg: Config) -> UInt8[Tensor, "n 3 h w"]:
    """Returns the same noise images every time, in the network's training size."""
    size = (num_images, 3, cfg.data.height_px, cfg.data.width_px)
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, size, dtype=torch.uint8, generator=rng)


def describe(
    retrieval: Retrieval, cfg: Config, run_dir: Path, weights: Path, format_name: str
) -> dict[str, Any]:
    """Returns the file's metadata as JSON values."""
    height, width = cfg.data.height_px, cfg.data.width_px
    network = retrieval.network
    inputs: dict[str, Any] = {
        "images": {
            "dtype": "uint8",
            "shape": ["n", 3, height, width],
            "layout": "NCHW",
            "colour": "RGB",
            "range": [0, 255],
        },
        "infrared": {"dtype": "bool", "shape": ["n"], "meaning": "taken by an infrared camera"},
    }
    return {
        "format": FORMAT,
        "file": format_name,
        "run": run_dir.absolute().name,
        "checkpoint": weights.name,
        "trained_on": checkpoint.trained_on(weights),
        "inputs": {name: inputs[name] for name in retrieval.names},
        "outputs": {"features": {"dtype": "float32", "shape": ["n", width_of(retrieval, cfg)]}},
        "preprocess": PREPROCESS.format(height=height, width=width),
        "normalisation_inside": _normalisation(network),
        "distance": cfg.distance,
        "method": of_method(cfg.method),
        "num_classes": checkpoint.num_classes(weights),
    }


def _normalisation(network: ReidNetwork) -> dict[str, Any] | None:
    """Returns the network's normalisation; None for a method's own network."""
    if not isinstance(network, Network):
        return None
    return {
        "formula": "(pixel - mean) * inverse_std",
        "mean": network.mean.flatten().tolist(),
        "inverse_std": network.inverse_std.flatten().tolist(),
    }


@torch.inference_mode()
def width_of(retrieval: Retrieval, cfg: Config) -> int:
    """Returns the length of a feature vector."""
    images = random_images(2, cfg)
    return retrieval(*retrieval.inputs(images, torch.tensor([False, True]))).shape[1]
