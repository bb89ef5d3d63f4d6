"""HSME: two streams whose features are classified by their direction alone (sphere softmax).

Hao et al., "HSME: Hypersphere Manifold Embedding for Visible Thermal Person Re-identification",
AAAI 2019: a ResNet-50 for each modality, and sphere softmax: logits are the cosine of feature and
class weights times 14, without a bias; the learning rate warms up.

Command: cdp train hsme --data.root DIR. Hardware: one GPU; time: not measured.
Published, RegDB visible to thermal: R1 41.3, R10 65.2, R20 75.1, mAP 38.3; thermal to visible: R1
40.7, R10 65.4, R20 75.3, mAP 37.5.

Not found, so chosen: the streams share nothing but the classifier; dropout, optimizer and schedule
are those of SphereReID (Fan et al., 2019), where sphere softmax comes from: Adam, 140 epochs,
warm-up in the first 20, a tenth of the rate after 80 and after 100; batches are CDP's. The paper
also speaks of an "identification constraint", whose form was not found either, so there is none
here. Its further stages are those of d_hsme.py. A small backbone, whose features have fewer
dimensions than identities are many, gets a shared layer that has as many: d_hsme.py needs them.
"""

import dataclasses

from model.network import Network, ReidNetwork
from model.options import LossOptions, ModelOptions
from train.config import Config, with_data
from train.dhsm import DhsmOptions
from train.methods.base import Method
from train.optimizer import OptimizerOptions

PUBLISHED = {
    "regdb": (41.3, 65.2, 75.1, 38.3),
    "regdb-thermal": (40.7, 65.4, 75.3, 37.5),
}
EPOCHS = 140


class Hsme(Method):
    """The base with two streams and sphere softmax."""

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """The base's; if its features are too narrow, with a layer as wide as identities are many.

        A layer chosen with --model.fc is left as it is.
        """
        network = super().network(num_classes, image_size)
        if network.width >= num_classes or self.model.fc != "none":
            return network
        wide = dataclasses.replace(self.model, fc="shared", fc_width=num_classes)
        return Network(wide, num_classes, image_size, self.loss.center > 0)


METHOD = Hsme(
    model=ModelOptions(structure="two-stems", stem_depth=4, cosine_scale=14.0),
    loss=LossOptions(triplet=False),
    dhsm=DhsmOptions(enabled=False),
    optimizer=OptimizerOptions(warmup_epochs=20, milestones=(80 / EPOCHS, 100 / EPOCHS)),
)


def setting(config: Config) -> Config:
    """Originals alone, in the data set's batches; 140 epochs, cosine distance."""
    data = with_data(config, spectra=())
    return dataclasses.replace(data, epochs=EPOCHS, distance="cosine")
