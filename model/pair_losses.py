"""Losses that compare images across modalities: pairs of an RGB and an infrared image.

Like those in losses.py, they are pure functions with fixed shapes, compute in float32 or wider, and
take any batch, even with identities of unequal size or seen in one modality only.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from model.losses import at_least_float32, hardest, pairwise_distance


def contrastive_loss(
    features: Float[Tensor, "n d"],
    pids: Int64[Tensor, " n"],
    modality: UInt8[Tensor, " n"],
    margin: float,
) -> Float[Tensor, ""]:
    """½ d² for pairs of the same identity, ½ max(0, margin - d)² for other pairs.

    Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006. d is the
    Euclidean distance of L2-normalised features. Takes all pairs of an RGB and an infrared image;
    the mean over pairs of the same identity and the mean over the others count half each.
    """
    distance = _normalised_distance(features)
    positive, negative = _across(pids, modality)
    attracted = _mean(distance.square(), positive)
    repelled = _mean(F.relu(margin - distance).square(), negative)
    return (attracted + repelled) / 4


def dual_constrained_ranking_losses(
    features: Float[Tensor, "n d"],
    pids: Int64[Tensor, " n"],
    modality: UInt8[Tensor, " n"],
    margin: float,
    intra_margin: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Bi-directional dual-constrained top-ranking loss: its cross- and intra-modality terms.

    Ye et al., "Visible Thermal Person Re-Identification via Dual-Constrained Top-Ranking", IJCAI
    2018. D is the Euclidean distance of L2-normalised features. For anchor i, p is the farthest
    image of its identity and n the nearest image of another identity, both in the other modality:
    max(0, margin + D(i, p) - D(i, n)) and, within that modality, max(0, intra_margin - D(p, n)).
    Each term is the mean over RGB anchors plus the mean over infrared anchors; anchors without a p
    or an n are left out.
    """
    distance = _normalised_distance(features)
    positive, negative = _across(pids, modality)
    p = distance.masked_fill(~positive, -1).argmax(dim=1, keepdim=True)
    n = distance.masked_fill(~negative, torch.inf).argmin(dim=1, keepdim=True)
    cross = F.relu(margin + distance.gather(1, p) - distance.gather(1, n))
    intra = F.relu(intra_margin - distance[p, n])
    usable = positive.any(dim=1) & negative.any(dim=1)

    def over_both(terms: Tensor) -> Tensor:
        of_rgb, of_infrared = (_mean(terms[:, 0], usable & (modality == m)) for m in (0, 1))
        return of_rgb + of_infrared

    return over_both(cross), over_both(intra)


def cross_modality_triplet_loss(
    features: Float[Tensor, "n d"],
    pids: Int64[Tensor, " n"],
    modality: UInt8[Tensor, " n"],
    margin: float,
) -> Float[Tensor, ""]:
    """Batch-hard triplet loss with positives and negatives from the other modality only.

    Dai et al., "Cross-Modality Person Re-Identification with Generative Adversarial Training"
    (cmGAN), IJCAI 2018. Euclidean distances, mean over the anchors that have both a positive and a
    negative in the other modality; 0 if none has.
    """
    positive, negative = _across(pids, modality)
    farthest, nearest = hardest(pairwise_distance(features), positive, negative)
    usable = positive.any(dim=1) & negative.any(dim=1)
    return _mean(F.relu(margin + farthest - nearest), usable)


def _normalised_distance(features: Tensor) -> Float[Tensor, "n n"]:
    """Returns Euclidean distances between L2-normalised features."""
    return pairwise_distance(F.normalize(at_least_float32(features), dim=1))


def _across(pids: Tensor, modality: Tensor) -> tuple[Bool[Tensor, "n n"], Bool[Tensor, "n n"]]:
    """Returns which pairs across modalities have the same identity, and which have not."""
    across = modality[:, None] != modality[None, :]
    same = pids[:, None] == pids[None, :]
    return across & same, across & ~same


def _mean(values: Tensor, mask: Tensor) -> Float[Tensor, ""]:
    """Returns the mean of the values that the mask keeps; 0 if it keeps none."""
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)
