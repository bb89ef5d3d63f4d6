"""A map for each modality between features and retrieval, learned by other means than SGD."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class ModalityMetric(nn.Module):
    """Features of length 1, mapped by one affine map for RGB and another for infrared images.

    Both begin as the identity. They are saved like other parameters, but get no gradient; nor does
    making them draw random numbers, so a network with them starts like one without.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rgb = nn.utils.skip_init(nn.Linear, width, width)
        self.infrared = nn.utils.skip_init(nn.Linear, width, width)
        self.reset()
        self.requires_grad_(False)

    @torch.no_grad()
    def reset(self) -> None:
        """Makes both maps the identity again."""
        for layer in (self.rgb, self.infrared):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Float[Tensor, "b d"], infrared: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b d"]:
        x = F.normalize(x)
        # Both maps see every image, so shapes do not depend on how many are infrared.
        return torch.where(infrared[:, None], self.infrared(x), self.rgb(x))
