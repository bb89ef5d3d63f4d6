"""TONE: a branch for each modality, shared last layers, cross-entropy and contrastive loss.

Ye et al., "Hierarchical Discriminative Learning for Visible Thermal Person Re-Identification", AAAI
2018: the network of its first stage. HCML, its second stage, learns a metric on these features.

Command: cdp train tone --data.root DIR. Hardware: one GPU; time: not measured.
Published (Tables I and II of the CDP paper), SYSU-MM01 all-search single-shot: R1 12.5, R10 50.7,
R20 68.6, mAP 14.4; RegDB visible to thermal: R1 16.9, R10 34.0, R20 44.1, mAP 14.9.

As in the authors' public code, for RegDB: cross-entropy + 0.2 x contrastive loss of margin 0.5, a
shared layer of 2048 between branches and classifier, dropout 0.5 before each, ImageNet weights, SGD
with a constant rate of 1e-3, 64 RGB and 64 infrared images a batch, no flips, cosine distance.
Different: features are normalised one by one, where that code normalises over the batch; the branch
is a ResNet-50 in place of AlexNet's first six layers; images are the data set's size with padded
crops in place of 227x227 crops of 256x256. Its batches are runs of a list sorted by identity, where
half of the pairs, RGB and infrared, show one person; here they hold 16 identities, and the loss
takes every pair, those of one person and the others with half the weight each. Its 1500 batches are
about 45 epochs of RegDB; here it is 50, on any data set.
"""

import dataclasses
from dataclasses import dataclass

from model.options import LossOptions, ModelOptions
from model.outputs import Examples, Outputs
from model.pair_losses import contrastive_loss
from train.config import Config, with_data, with_padded_crop
from train.dhsm import DhsmOptions
from train.methods.base import Gather, Losses, Method, of_global_batch, refuse_negative
from train.optimizer import OptimizerOptions

PUBLISHED = {
    "sysu": (12.5, 50.7, 68.6, 14.4),
    "regdb": (16.9, 34.0, 44.1, 14.9),
    "regdb-thermal": (13.9, 30.1, 40.1, 17.0),
}


@dataclass(frozen=True)
class Tone(Method):
    """Contrastive loss between RGB and infrared originals beside the base's losses."""

    contrastive_weight: float = 0.2
    """Weight of the contrastive loss."""

    contrastive_margin: float = 0.5
    """Distance, 0…2, that the contrastive loss wants between features of two identities."""

    def __post_init__(self) -> None:
        refuse_negative(self, "contrastive_weight", "contrastive_margin")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The base's, and the contrastive loss's."""
        return super().loss_weights | {"contrastive": self.contrastive_weight}

    def losses(self, out: Outputs, batch: Examples, gather: Gather) -> Losses:
        """The base's, and the contrastive loss over the global batch."""
        originals = of_global_batch(out, batch, gather)
        contrastive = contrastive_loss(*originals, self.contrastive_margin)
        return super().losses(out, batch, gather) | {"contrastive": contrastive}

    def at_one_point(self, num_classes: int) -> dict[str, float]:
        """The base's, and the contrastive loss's: all distances are 0."""
        values = super().at_one_point(num_classes)
        if self.contrastive_margin:
            values["contrastive"] = self.contrastive_margin**2 / 4
        return values


NETWORK = ModelOptions(structure="two-stems", stem_depth=4, fc="shared", fc_width=2048)
OPTIMIZER = OptimizerOptions(name="sgd", lr=1e-3, momentum=0.9, milestones=())

METHOD = Tone(
    model=NETWORK,
    loss=LossOptions(triplet=False),
    dhsm=DhsmOptions(enabled=False),
    optimizer=OPTIMIZER,
)


def setting(config: Config) -> Config:
    """Batches of 16 identities, 4 RGB and 4 infrared images each; 50 epochs, cosine."""
    data = with_data(config, spectra=(), p=16, k=8, flip=0.0)
    return dataclasses.replace(with_padded_crop(data), epochs=50, distance="cosine")
