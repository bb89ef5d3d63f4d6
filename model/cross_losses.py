"""Losses that compare images across modalities only, one pure function each; see losses.py."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from model.losses import pairwise_distance


def cross_modality_triplet_loss(
    features: Float[Tensor, "n d"],
    pids: Int64[Tensor, " n"],
    modality: UInt8[Tensor, " n"],
    margin: float,
) -> Float[Tensor, ""]:
    """Batch-hard triplet loss whose positives and negatives are all of the anchor's other modality.

    Dai et al., "Cross-Modality Person Re-Identification with Generative Adversarial Training"
    (cmGAN), IJCAI 2018. Euclidean distances, mean over the anchors that have both a positive and a
    negative in the other modality; 0 if none has.
    """
    distance = pairwise_distance(features)
    same_pid = pids[:, None] == pids[None, :]
    across = modality[:, None] != modality[None, :]
    positives, negatives = same_pid & across, ~same_pid & across
    farthest_positive = distance.masked_fill(~positives, 0).amax(dim=1)
    nearest_negative = distance.masked_fill(~negatives, torch.inf).amin(dim=1)
    usable = positives.any(dim=1) & negatives.any(dim=1)
    hinge = F.relu(margin + farthest_positive - nearest_negative).masked_fill(~usable, 0)
    return hinge.sum() / usable.sum().clamp(min=1)
