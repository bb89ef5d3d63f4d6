"""Non-local blocks (Wang et al., "Non-local Neural Networks", CVPR 2018) where AGW puts them.

AGW: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from model.options import ModelOptions
from pipeline.errors import InputError

# At most this many blocks per stage get a non-local block: as in AGW's ResNet-50, where they are
# the last half of 4 and 6.
MAX_BLOCKS = {"layer2": 2, "layer3": 3}


class NonLocal(nn.Module):
    """x + BN(W y), y_i = 1/N Σ_j θ(x_i)·φ(x_j) g(x_j) over a map's N positions; θ, φ, g, W are 1x1.

    BN's weight and bias start at 0, so a new block returns x.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.w = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        theta, phi, g = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))
        # Without a softmax in between, the products can be ordered so that no N x N matrix is
        # needed: Σ_j φ_j g_j first.
        y = (g @ phi.transpose(1, 2)) @ theta / theta.shape[2]
        return x + self.norm(self.w(y.unflatten(2, x.shape[2:])))


def add_non_local(backbone: Any, options: ModelOptions) -> None:
    """Adds non-local blocks after blocks of a ResNet, whose own tensors keep their names.

    Raises `InputError` if the backbone is not a ResNet.
    """
    channels_of = {stage["module"]: stage["num_chs"] for stage in backbone.feature_info}
    for stage, most in MAX_BLOCKS.items():
        if not isinstance(getattr(backbone, stage, None), nn.Sequential):
            raise InputError(
                f"--model.non-local: {options.backbone} is not a ResNet (it has no {stage}); use a "
                "ResNet, or leave it off"
            )
        blocks, channels = getattr(backbone, stage), channels_of[stage]
        inner = 1 if options.non_local_inner == "one" else channels // 2
        for block in blocks[-min(most, max(1, len(blocks) // 2)) :]:
            block.non_local = NonLocal(channels, inner)
            block.register_forward_hook(_then_non_local)


def _then_non_local(block: Any, args: Any, maps: Tensor) -> Tensor:
    attended: Tensor = block.non_local(maps)
    return attended
