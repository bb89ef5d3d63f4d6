"""D-HSME: HSME, whose classifier is then decorrelated by SVD, held, and set free again.

Hao et al., "HSME: Hypersphere Manifold Embedding for Visible Thermal Person Re-identification",
AAAI 2019: of the trained classifier W = U S V^T, U S is kept, whose columns are orthogonal; the
rest of the network is fine-tuned while that is frozen, then all of it is.

Command: cdp train d-hsme --data.root DIR. Hardware: one GPU; time: not measured.
Published, SYSU-MM01 all-search single-shot: R1 20.7, R10 62.7, R20 78.0, mAP 23.1; RegDB visible
to thermal: R1 50.9, R10 73.4, R20 81.7, mAP 47.0; thermal to visible: R1 50.2, R10 72.4, R20 81.1,
mAP 46.2.

Not found, so chosen: the lengths, HSME's 140 epochs and half as many for each further stage, in
which the learning rate warms up and falls as in the first; and which column of U S becomes which
identity's. SVD leaves their order and signs open, so identities and columns are matched: the sum of
the cosines between old and new weights is as large as can be. Sphere softmax ignores S.
What else was not found is listed in hsme.py.
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model.network import ReidNetwork
from pipeline.errors import InputError
from train.config import Config
from train.methods import hsme
from train.stages import Stage

PUBLISHED = {
    "sysu": (20.7, 62.7, 78.0, 23.1),
    "regdb": (50.9, 73.4, 81.7, 47.0),
    "regdb-thermal": (50.2, 72.4, 81.1, 46.2),
}
FIRST_STAGE = "hsme"


def decorrelated(weight: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """U S of W = U S V^T, W being the transpose of `weight`; m is at most d.

    Rows of the result are orthogonal, and its W W^T, so also distances between images' products
    with W, are those of `weight`.
    """
    u, s, _ = torch.linalg.svd(weight.double().cpu().T, full_matrices=False)
    cosine = torch.nn.functional.normalize(weight.double().cpu()) @ u  # of row and column
    rows, columns = linear_sum_assignment(cosine.abs().numpy(), maximize=True)
    signs = torch.where(cosine[rows, columns] < 0, -1.0, 1.0)
    return ((u * s)[:, columns] * signs).T.to(weight)


def decorrelate(network: ReidNetwork) -> None:
    """Replaces the weights of the network's classifier by decorrelated ones."""
    classifier = network.get_submodule("classifier")
    assert isinstance(classifier.weight, Tensor)
    classifier.weight.copy_(decorrelated(classifier.weight))


@dataclass(frozen=True)
class DHsme(hsme.Hsme):
    """HSME in three stages."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """HSME; the features learn to fit a decorrelated classifier; both learn."""
        return (
            Stage("HSME", share=2.0),
            Stage("decorrelated", share=1.0, frozen=("classifier.",), begin=decorrelate),
            Stage("relaxed", share=1.0),
        )

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """HSME's; raises `InputError` if its features are narrower than identities are many."""
        network = super().network(num_classes, image_size)
        if network.width < num_classes:
            raise InputError(
                f"--model.fc {self.model.fc}: features have {network.width} dimensions, in which "
                f"the {num_classes} identities cannot all be orthogonal, as d-hsme has them; pass "
                f"--model.fc-width {num_classes} or more, or --model.fc none"
            )
        return network


METHOD = DHsme(**vars(hsme.METHOD))


def setting(config: Config) -> Config:
    """HSME's, with twice its epochs: half of them are HSME's, a quarter each further stage's."""
    return dataclasses.replace(hsme.setting(config), epochs=2 * hsme.EPOCHS)
