"""A fully connected layer between pooled features and classifier: one for all images, or two.

Each layer takes pooled features, float [b, d], and the modality, bool [b] (true: infrared), and
returns [b, e]: the features that losses and retrieval then use.
"""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model.options import ModelOptions


def make(options: ModelOptions, width: int) -> nn.Module:
    """The layer that the options ask for, on features of this width."""
    if options.fc == "none":
        return NoLayer()
    layer = nn.Linear(width, options.fc_width or width)
    dropout = nn.Dropout(options.dropout)
    return Shared(dropout, layer) if options.fc == "shared" else PerModality(dropout, layer)


class NoLayer(nn.Module):
    """Features as they are."""

    def forward(self, features: Tensor, infrared: Tensor | None) -> Tensor:
        return features


class Shared(nn.Module):
    """Dropout and one layer for both modalities."""

    def __init__(self, dropout: nn.Module, layer: nn.Linear) -> None:
        super().__init__()
        self.dropout = dropout
        self.layer = layer

    def forward(self, pooled: Float[Tensor, "b d"], infrared: Tensor | None) -> Tensor:
        projected: Float[Tensor, "b e"] = self.layer(self.dropout(pooled))
        return projected


class PerModality(nn.Module):
    """Dropout and a layer for each modality; both layers are equal when training begins."""

    def __init__(self, dropout: nn.Module, layer: nn.Linear) -> None:
        super().__init__()
        self.dropout = dropout
        self.rgb = layer
        self.infrared = copy.deepcopy(layer)

    def forward(self, pooled: Float[Tensor, "b d"], infrared: Bool[Tensor, " b"]) -> Tensor:
        x = self.dropout(pooled)
        # Both layers see every image, so shapes do not depend on how many are infrared.
        return torch.where(infrared[:, None], self.infrared(x), self.rgb(x))
