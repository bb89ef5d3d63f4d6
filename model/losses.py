"""The losses, one pure function an equation. Sums and distances are taken in float32 or wider."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def classification_loss(
    logits: Float[Tensor, "b m"], targets: Int64[Tensor, " b"], divide_by_classes: bool = False
) -> Float[Tensor, ""]:
    """L_cls, Eq. 2: mean cross-entropy; `divide_by_classes` adds the equation's factor 1/M.

    The factor only shrinks the loss as M grows, against λ = 1 in Eq. 4, so it is off by default.
    """
    loss = F.cross_entropy(_at_least_float32(logits), targets)
    return loss / logits.shape[1] if divide_by_classes else loss


def triplet_loss(
    features: Float[Tensor, "n d"], pids: Int64[Tensor, " n"], margin: float
) -> Float[Tensor, ""]:
    """L_tri, Eq. 3: batch-hard triplet loss, mean over the n anchors.

    Each anchor is held against its farthest positive and its nearest negative in the batch, by
    Euclidean distance. An anchor without a positive other than itself has positive distance 0.
    """
    distance = pairwise_distance(features)
    same = pids[:, None] == pids[None, :]
    farthest_positive = distance.masked_fill(~same, 0).amax(dim=1)
    nearest_negative = distance.masked_fill(same, torch.inf).amin(dim=1)
    return F.relu(margin + farthest_positive - nearest_negative).mean()


def pairwise_distance(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Euclidean distances; equal features have distance 0 and gradient 0, never NaN."""
    x = _at_least_float32(features)
    # Differences instead of |a|² + |b|² - 2ab: the latter cancels badly for close pairs, which are
    # the ones that mining picks.
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
