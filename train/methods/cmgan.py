"""cmGAN: cross-modality triplet loss, against a discriminator that tells the modalities apart.

Dai et al., "Cross-Modality Person Re-Identification with Generative Adversarial Training", IJCAI
2018: one ResNet-50 for both modalities; identity loss; a triplet loss with margin 1.4 whose
positives and negatives are of the other modality; a modality discriminator, 2048-1000-500-2, that
the features learn to fool, with weight 0.05.

Command: cdp train cmgan --data.root DIR. Hardware: one GPU; time: not measured.
Published, SYSU-MM01 all-search single-shot: R1 27.0, R10 67.5, R20 80.6, mAP 27.8.

The paper alternates between training features and discriminator. A public re-implementation does so
by turning the sign of the whole loss in every fifth epoch, which also un-trains what the features
have learned. Here a gradient reversal layer (Ganin & Lempitsky, ICML 2015) serves both sides in one
backward pass.

Not found, so chosen: the triplet loss compares pooled features as they are, not normalised, by
Euclidean distance, each anchor with its hardest positive and negative; the mean over anchors, not
the sum of the two directions; the identity classifier is one linear layer, where public code has
two; batches, epochs and optimizer are CDP's.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

from model.adversary import ModalityDiscriminator
from model.network import Network, ReidNetwork
from model.options import LossOptions, ModelOptions
from model.outputs import Examples, Outputs
from model.pair_losses import cross_modality_triplet_loss
from train.config import Config, with_data
from train.dhsm import DhsmOptions
from train.methods.base import Gather, Losses, Method, of_global_batch, refuse_negative

PUBLISHED = {"sysu": (27.0, 67.5, 80.6, 27.8)}
MODALITY = "modality"  # of Outputs.extras: the discriminator's logits [b, 2]


class AdversarialNetwork(Network):
    """CDP's network with a modality discriminator."""

    def __init__(
        self,
        options: ModelOptions,
        num_classes: int,
        image_size: tuple[int, int],
        centers: bool,
        scale: float,
    ) -> None:
        super().__init__(options, num_classes, image_size, centers)
        self.discriminator = ModalityDiscriminator(self.width, scale)

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> Outputs:
        out = super().forward(images, infrared)
        return out._replace(extras=out.extras | {MODALITY: self.discriminator(out.features)})


@dataclass(frozen=True)
class CmGan(Method):
    """A triplet loss across modalities, and a discriminator to fool."""

    adversarial_weight: float = 0.05
    """What the features unlearn of the modality, relative to the discriminator's own gradient."""

    def __post_init__(self) -> None:
        refuse_negative(self, "adversarial_weight")

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """CDP's network, and the discriminator."""
        centers = self.loss.center > 0
        return AdversarialNetwork(
            self.model, num_classes, image_size, centers, self.adversarial_weight
        )

    @property
    def loss_weights(self) -> dict[str, float]:
        """The base's, the triplet loss across modalities, and the discriminator's loss.

        The discriminator learns at full strength; the features get its gradient times
        `adversarial_weight`, reversed.
        """
        return super().loss_weights | {"cross_tri": self.loss.triplet_weight, "adv": 1.0}

    def losses(self, out: Outputs, batch: Examples, gather: Gather) -> Losses:
        """Both additional losses take the originals alone."""
        cross = cross_modality_triplet_loss(*of_global_batch(out, batch, gather), self.loss.margin)
        told = batch.originals(out.extras[MODALITY]).float()
        adversarial = F.cross_entropy(told, batch.modality.long())
        return super().losses(out, batch, gather) | {"cross_tri": cross, "adv": adversarial}

    def at_one_point(self, num_classes: int) -> dict[str, float]:
        """The base's, and the margin; the discriminator's loss depends on its bias."""
        across = {"cross_tri": self.loss.margin} if self.loss.margin else {}
        return super().at_one_point(num_classes) | across


METHOD = CmGan(
    loss=LossOptions(triplet=False, margin=1.4),  # the base's triplet loss is not restricted
    dhsm=DhsmOptions(enabled=False),
)


def setting(config: Config) -> Config:
    """Originals alone, in the data set's batches and epochs."""
    return with_data(config, spectra=())
