"""HCML: TONE, and then metrics of its features, learned offline within and across modalities.

Ye et al., "Hierarchical Discriminative Learning for Visible Thermal Person Re-Identification", AAAI
2018. The first stage is tone.py. The second changes no weight of that network: it learns a linear
map for each modality from the features of all training images, once the last epoch is over.

Command: cdp train hcml --data.root DIR. Hardware: one GPU; time: not measured.
Published (Tables I and II of the CDP paper), SYSU-MM01 all-search single-shot: R1 14.3, R10 53.2,
R20 69.2, mAP 16.2; RegDB visible to thermal: R1 24.4, R10 47.5, R20 56.8, mAP 20.1; thermal to
visible: R1 21.7, R10 45.0, R20 55.6, mAP 22.2.

As in the authors' public code: features of length 1, joint PCA to 600 dimensions (fewer where
features have fewer, or images are fewer), the objective of model/metric_learning.py with 0.2 for
the terms within a modality, at most 300 iterations, Euclidean distance of the mapped features.
Different: V and T follow the gradients of that objective, where that code symmetrises one of them
and takes V for T in another; a step for them that would raise the objective is halved, and M's
momentum is dropped where it overshoots; what counts as converged is the whole objective, not M's
part of it. The features are those of a ResNet-50; what else differs is listed in tone.py.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray
from torch import nn

from model.metric import ModalityMetric
from model.metric_learning import Objective, Side, learn, principal_axes, square_root
from model.network import Network, ReidNetwork
from pipeline.errors import InputError
from train.config import Config
from train.methods import tone
from train.methods.base import refuse_negative
from train.methods.tone import Tone
from train.stages import Offline, Stage

PUBLISHED = {
    "sysu": (14.3, 53.2, 69.2, 16.2),
    "regdb": (24.4, 47.5, 56.8, 20.1),
    "regdb-thermal": (21.7, 45.0, 55.6, 22.2),
}
FIRST_STAGE = "tone"


@dataclass(frozen=True)
class Hcml(Tone):
    """TONE, finished by learning a metric."""

    metric_dimensions: int = 600
    """Principal components in which the metric is learned, at most."""

    metric_iterations: int = 300
    """Iterations of metric learning, at most."""

    metric_within_weight: float = 0.2
    """Weight of the terms that pull images of an identity in one modality together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "metric_within_weight")
        for name in ("metric_dimensions", "metric_iterations"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} {getattr(self, name)}: must be at least 1")

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """TONE's, whose features pass a map for each modality before retrieval compares them."""
        centers = self.loss.center > 0
        return Network(self.model, num_classes, image_size, centers, metric=True)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """TONE's, at whose end the metric is learned."""
        return (Stage("TONE", finish=self.learn_metric),)

    def learn_metric(self, network: ReidNetwork, offline: Offline) -> str:
        """Learns the maps from the training features; in the full width, so distances are all."""
        metric = network.get_submodule("metric")
        assert isinstance(metric, ModalityMetric)
        metric.reset()  # so that the features are TONE's
        embedded = offline.embed()
        mean, axes = principal_axes(embedded.features, self.metric_dimensions)
        rgb, infrared = (
            Side.of((embedded.features[rows] - mean) @ axes, embedded.pids[rows])
            for rows in (~embedded.infrared, embedded.infrared)
        )
        objective = Objective.of(rgb, infrared, self.metric_within_weight)
        learned, values = learn(objective, self.metric_iterations, offline.check)
        root = square_root(learned.m)
        _set(metric.rgb, mean, axes @ learned.v @ root @ axes.T)
        _set(metric.infrared, mean, axes @ learned.t @ root @ axes.T)
        return (
            f"metric in {axes.shape[1]} of {axes.shape[0]} dimensions: objective {values[0]:.3f} "
            f"to {values[-1]:.3f} in {len(values) - 1} iterations"
        )


def _set(layer: nn.Linear, mean: Float64[ndarray, " d"], matrix: Float64[ndarray, "d d"]) -> None:
    """Makes the layer map x to (x - mean) matrix."""
    layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(matrix.T)))
    layer.bias.copy_(torch.from_numpy(-mean @ matrix))


METHOD = Hcml(**vars(tone.METHOD))


def setting(config: Config) -> Config:
    """TONE's, with the distance that the metric is of."""
    return dataclasses.replace(tone.setting(config), distance="euclidean")
