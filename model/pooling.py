"""From a feature map to a feature: average or generalized mean, of the whole or of its parts."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.options import ModelOptions

SMALLEST = 1e-4  # GeM's lower bound: the slope of a root is infinite at 0


def is_own(options: ModelOptions) -> bool:
    """Is the pooling done here, rather than by the backbone?"""
    return options.pooling != "avg" or options.parts > 1


def average(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """Returns the mean over a map's positions."""
    return maps.mean(dim=(2, 3))


def generalized_mean(
    maps: Float[Tensor, "b c h w"], p: float | Float[Tensor, ""]
) -> Float[Tensor, "b c"]:
    """GeM: the p-th root of the mean p-th power over a map's positions, in float32 or wider.

    Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019.
    Values below 1e-4, including negative ones, count as 1e-4. AGW's code adds 1e-12 under the root
    instead, which for p = 3 also turns 0 into 1e-4, but which ONNX optimizers treat as 0.
    """
    x = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp(min=SMALLEST)
    return x.pow(p).mean(dim=(2, 3)).pow(1 / p)


class Pooling(nn.Module):
    """Pools each horizontal stripe of a map and concatenates the features, top to bottom.

    Stripes are equally high, or the upper ones one row higher. Sun et al., "Beyond Part Models"
    (PCB), ECCV 2018, give each part a classifier of its own; here one classifies all parts.
    """

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.parts = options.parts
        self.kind = options.pooling
        self.p: float | Tensor = options.gem_p
        if options.gem_learned:
            self.p = nn.Parameter(torch.tensor(options.gem_p))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        stripes = maps.tensor_split(self.parts, dim=2)
        pooled = [
            average(s) if self.kind == "avg" else generalized_mean(s, self.p) for s in stripes
        ]
        return torch.cat(pooled, dim=1)
