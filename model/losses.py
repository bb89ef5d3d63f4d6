"""The losses, one pure function each. Sums and distances are taken in float32 or wider.

Every function has fixed shapes (masks instead of selections), so that a step can be compiled and
recorded, and takes any batch: identities of unequal size, or seen in one modality only.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from model.options import TripletKind

MAX_SQUARE = 88.0  # exp(88) is about the largest power of e that float32 holds


def classification_loss(
    logits: Float[Tensor, "b m"],
    targets: Int64[Tensor, " b"],
    divide_by_classes: bool = False,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """L_cls, Eq. 2: mean cross-entropy; `divide_by_classes` adds the equation's factor 1/M.

    The factor only shrinks the loss as M grows, against λ = 1 in Eq. 4, so it is off by default.
    `label_smoothing` ε gives every class ε/M of the target, and the right one 1 - ε more.
    """
    loss = F.cross_entropy(at_least_float32(logits), targets, label_smoothing=label_smoothing)
    return loss / logits.shape[1] if divide_by_classes else loss


def triplet_loss(
    features: Float[Tensor, "n d"], pids: Int64[Tensor, " n"], margin: float
) -> Float[Tensor, ""]:
    """L_tri, Eq. 3: batch-hard triplet loss, mean over the n anchors.

    Each anchor is compared with its farthest positive and its nearest negative in the batch, by
    Euclidean distance. An anchor without a positive other than itself has positive distance 0.
    """
    positive, negative = _hardest_of_identities(features, pids)
    return F.relu(margin + positive - negative).mean()


def soft_margin_triplet_loss(
    features: Float[Tensor, "n d"], pids: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Batch-hard triplet loss with log(1 + exp(d_ap - d_an)) in place of the hinge.

    Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017.
    """
    positive, negative = _hardest_of_identities(features, pids)
    return F.softplus(positive - negative).mean()


def weighted_triplet_loss(
    features: Float[Tensor, "n d"], pids: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Weighted regularized triplet loss: all positives and negatives, hard ones weighted most.

    Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (AGW), TPAMI 2021.
    As in the authors' code, an anchor is one of its own positives, at distance 0. Their code also
    adds 1e-6 to the sum of the softmax, so that negatives farther than about 14 lose their weight;
    the paper has no such term, and neither has this. An anchor without a negative counts as 0.
    """
    difference, usable = _weighted_difference(features, pids)
    return F.softplus(difference).masked_fill(~usable, 0).mean()


def squared_difference_triplet_loss(
    features: Float[Tensor, "n d"], pids: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """`weighted_triplet_loss` with the signed square of its difference d: log(1 + exp(±d²)).

    Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition" (CAJ), ICCV 2021.
    d² is at most 88, as in the authors' code: beyond |d| = 9.4 a triplet has no gradient.
    """
    difference, usable = _weighted_difference(features, pids)
    square = difference.square().clamp(max=MAX_SQUARE)
    loss = F.softplus(torch.where(difference > 0, square, -square))
    return loss.masked_fill(~usable, 0).mean()


TRIPLETS: dict[TripletKind, Callable[[Tensor, Tensor, float], Tensor]] = {
    "hard": triplet_loss,
    "soft-margin": lambda features, pids, _: soft_margin_triplet_loss(features, pids),
    "weighted": lambda features, pids, _: weighted_triplet_loss(features, pids),
    "squared-difference": lambda features, pids, _: squared_difference_triplet_loss(features, pids),
}


def hetero_center_loss(
    features: Float[Tensor, "n d"], pids: Int64[Tensor, " n"], modality: UInt8[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Squared distance between an identity's RGB and infrared centers, summed over identities.

    Zhu et al., "Hetero-Center Loss for Cross-Modality Person Re-Identification", 2020. Identities
    that are in the batch in one modality only add nothing.
    """
    centers, present = _centers(features, pids, modality)
    squared = (centers[0] - centers[1]).square().sum(dim=1)
    return squared.masked_fill(~present.all(dim=0), 0).sum()


def hetero_center_triplet_loss(
    features: Float[Tensor, "n d"],
    pids: Int64[Tensor, " n"],
    modality: UInt8[Tensor, " n"],
    margin: float,
) -> Float[Tensor, ""]:
    """Batch-hard triplet loss over the RGB and infrared centers of identities, mean over centers.

    Liu et al., "Parameter Sharing Exploration and Hetero-Center Triplet Loss for Visible-Thermal
    Person Re-Identification", 2020. A center's positive is its identity's center in the other
    modality, its negative the nearest center of another identity in either modality. The paper
    sums over centers; the mean, as in the authors' code, does not depend on P.
    """
    centers, present = _centers(features, pids, modality)
    usable = present.flatten()
    distance = pairwise_distance(centers.flatten(0, 1))
    same = _same(pids.repeat(2))
    # Masked centers are neither positives nor negatives.
    positive, negative = hardest(distance, same & usable, ~same & usable)
    hinge = F.relu(margin + positive - negative).masked_fill(~usable, 0)
    return hinge.sum() / usable.sum()


def center_loss(
    features: Float[Tensor, "b d"], targets: Int64[Tensor, " b"], centers: Float[Tensor, "m d"]
) -> Float[Tensor, ""]:
    """Half the squared distance of each feature from the center of its class, mean over images.

    Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016,
    who sum over the batch and move the centers by a rule of their own; here they are ordinary
    weights of the network, and the mean does not depend on the batch size.
    """
    difference = at_least_float32(features) - at_least_float32(centers)[targets]
    return difference.square().sum(dim=1).mean() / 2


def pairwise_distance(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Euclidean distances; equal features have distance 0 and gradient 0, never NaN."""
    x = at_least_float32(features)
    # Differences instead of |a|² + |b|² - 2ab: the latter cancels badly for close pairs, which are
    # what mining picks.
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or wider if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def hardest(
    distance: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], negative: Bool[Tensor, "n n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Each anchor's distance to its farthest positive (or 0) and nearest negative (or infinity)."""
    farthest_positive = distance.masked_fill(~positive, 0).amax(dim=1)
    nearest_negative = distance.masked_fill(~negative, torch.inf).amin(dim=1)
    return farthest_positive, nearest_negative


def _hardest_of_identities(features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
    """`hardest` with the images of an anchor's identity, itself included, as positives."""
    same = _same(pids)
    return hardest(pairwise_distance(features), same, ~same)


def _weighted_difference(features: Tensor, pids: Tensor) -> tuple[Tensor, Bool[Tensor, " n"]]:
    """Returns each anchor's softmax-weighted positive minus negative distance; has it negatives?"""
    distance, same = pairwise_distance(features), _same(pids)
    lowest = torch.finfo(distance.dtype).min  # infinity would turn an empty row into NaN
    positive = distance.masked_fill(~same, lowest).softmax(dim=1) * distance
    negative = (-distance).masked_fill(same, lowest).softmax(dim=1) * distance
    return positive.sum(dim=1) - negative.sum(dim=1), ~same.all(dim=1)


def _centers(
    features: Tensor, pids: Tensor, modality: Tensor
) -> tuple[Float[Tensor, "2 n d"], Bool[Tensor, "2 n"]]:
    """Returns for each image the mean of its identity's RGB and of its infrared features.

    The mask selects the means that exist, each once: at the identity's first image.
    """
    x = at_least_float32(features)
    same = _same(pids)
    first = ~same.tril(diagonal=-1).any(dim=1)
    of_modality = torch.stack([modality == 0, modality == 1])
    members = (same & of_modality[:, None]).to(x.dtype)
    count = members.sum(dim=2, keepdim=True)
    return members @ x / count.clamp(min=1), first & (count[..., 0] > 0)


def _same(pids: Tensor) -> Bool[Tensor, "n n"]:
    return pids[:, None] == pids[None, :]
