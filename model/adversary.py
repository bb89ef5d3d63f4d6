"""A modality discriminator that the features learn to fool, by gradient reversal."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _ReversedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


def reversed_gradient(x: Tensor, scale: float) -> Tensor:
    """`x` as it is; its gradient is multiplied by `-scale`.

    Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015.
    """
    reversed_: Tensor = _ReversedGradient.apply(x, scale)
    return reversed_


class ModalityDiscriminator(nn.Module):
    """Tells RGB features from infrared ones; what it learns from, the features unlearn.

    Its own weights get the plain gradient of its loss, the features `-scale` times theirs, so both
    sides of the game take their step in one backward pass.
    """

    HIDDEN = (1000, 500)  # cmGAN's; with ResNet-50's features: 2048-1000-500-2

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        first, second = self.HIDDEN
        self.layers = nn.Sequential(
            *(nn.Linear(width, first), nn.ReLU()),
            *(nn.Linear(first, second), nn.ReLU()),
            nn.Linear(second, 2),
        )

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b 2"]:
        """Logits of RGB (0) and infrared (1)."""
        logits: Tensor = self.layers(reversed_gradient(features, self.scale))
        return logits
