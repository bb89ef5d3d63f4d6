"""BDTR: a branch for each modality, and bi-directional dual-constrained top-ranking loss.

Ye et al., "Visible Thermal Person Re-Identification via Dual-Constrained Top-Ranking", IJCAI 2018.
The ranking loss holds each image against the farthest image of its identity and the nearest of
another in the other modality, and holds those two apart as well.

Command: cdp train bdtr --data.root DIR. Hardware: one GPU; time: not measured.
Published (Tables I and II of the CDP paper), SYSU-MM01 all-search single-shot: R1 17.0, R10 55.4,
R20 72.0, mAP 19.7; RegDB visible to thermal: R1 33.5, R10 58.4, R20 67.5, mAP 31.8.

As in the authors' public code, for RegDB: cross-entropy + ranking loss of margin 0.5 + 0.1 x
intra-modality loss of margin 0.1, a shared layer of 1024 between branches and classifier, dropout
0.5 before each, ImageNet weights, SGD with a constant rate of 1e-3, one RGB and one infrared image
of each of 64 identities, no flips, cosine distance. Different: the branch is a ResNet-50 in place
of AlexNet's first six layers, without the batch norm after it; images are the data set's size with
padded crops in place of 227x227 crops of 256x256. Its 5000 batches are about 150 epochs of RegDB,
which is what every data set gets here.
"""

import dataclasses
from dataclasses import dataclass

from model.options import LossOptions
from model.outputs import Examples, Outputs
from model.pair_losses import dual_constrained_ranking_losses
from train.config import Config, with_data
from train.dhsm import DhsmOptions
from train.methods import tone
from train.methods.base import Gather, Losses, Method, of_global_batch, refuse_negative

PUBLISHED = {
    "sysu": (17.0, 55.4, 72.0, 19.7),
    "regdb": (33.5, 58.4, 67.5, 31.8),
    "regdb-thermal": (32.7, 58.0, 68.9, 31.1),
}


@dataclass(frozen=True)
class Bdtr(Method):
    """Dual-constrained ranking loss between RGB and infrared originals beside the base's losses."""

    ranking_weight: float = 1.0
    """Weight of the ranking loss across modalities."""

    ranking_margin: float = 0.5
    """Margin of the ranking loss, in distances of 0…2."""

    intra_weight: float = 0.1
    """Weight of the loss within a modality."""

    intra_margin: float = 0.1
    """Distance, 0…2, that the loss within a modality wants between two identities."""

    def __post_init__(self) -> None:
        refuse_negative(self, "ranking_weight", "ranking_margin", "intra_weight", "intra_margin")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The base's, and those of the two terms."""
        return super().loss_weights | {"ranking": self.ranking_weight, "intra": self.intra_weight}

    def losses(self, out: Outputs, batch: Examples, gather: Gather) -> Losses:
        """The base's, and the two terms over the global batch."""
        ranking, intra = dual_constrained_ranking_losses(
            *of_global_batch(out, batch, gather), self.ranking_margin, self.intra_margin
        )
        return super().losses(out, batch, gather) | {"ranking": ranking, "intra": intra}

    def at_one_point(self, num_classes: int) -> dict[str, float]:
        """The base's, and the two terms': the margins, once for each direction."""
        margins = {"ranking": 2 * self.ranking_margin, "intra": 2 * self.intra_margin}
        known = {name: value for name, value in margins.items() if value}
        return super().at_one_point(num_classes) | known


METHOD = Bdtr(
    model=dataclasses.replace(tone.NETWORK, fc_width=1024),
    loss=LossOptions(triplet=False),
    dhsm=DhsmOptions(enabled=False),
    optimizer=tone.OPTIMIZER,
)


def setting(config: Config) -> Config:
    """One RGB and one infrared image of each of 64 identities, 150 epochs, else as TONE."""
    return dataclasses.replace(with_data(tone.setting(config), p=64, k=2), epochs=150)
