"""Classifiers other than a linear layer."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class CosineClassifier(nn.Module):
    """Logits that are `scale` times the cosine of a feature and each class's weights; no bias.

    The sphere softmax of Fan et al., "SphereReID: Deep Hypersphere Manifold Embedding for Person
    Re-Identification", 2019.
    """

    def __init__(self, width: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, width))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Linear

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b m"]:
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))
