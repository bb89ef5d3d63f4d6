"""D2RL: images are translated into the spectrum that they lack, then compared in all four channels.

Wang et al., "Learning to Reduce Dual-level Discrepancy for Infrared-Visible Person
Re-identification", CVPR 2019: a translator between visible and infrared images, a VAE-GAN with a
cycle loss, reduces the discrepancy of the modalities; a ResNet-50 on four-channel unified images,
half of them generated, that of appearance. Both are then trained jointly, as a cascade.

Command: cdp train d2rl --data.root DIR. Hardware: one GPU; time: not measured.
Published (Tables I and II of the CDP paper), SYSU-MM01 all-search single-shot: R1 28.9, R10 70.6,
R20 82.4, mAP 29.2; RegDB visible to thermal: R1 43.4, R10 66.1, R20 76.3, mAP 44.1.

Different: generators and discriminators are usually updated in turn. Here one backward pass gives
each side the gradient of its own loss, at the same weights (the generators' loss sees the
discriminators' weights as constants), and one optimizer updates both.

Not found, so chosen: the translator is UNIT's, with its public code's sizes and weights (10 for
reconstruction and cycle, 0.01 for the mean square of latent codes, 1 for the least-squares GAN
loss), Adam with a first moment of 0.5 and a rate of 1e-4, without its weight decay and perceptual
loss; the innermost blocks are shared, as in UNIT's paper. Images less than 128 pixels high get a
small one that a CPU can train, with a higher rate. Of the epochs two fifths are the translator's,
two fifths the feature network's, one fifth joint; in each the rate starts over. The feature network
has CDP's two losses, batches, epochs, rate and Euclidean distance, on originals alone. Unified
images come from the latent codes' means, also in training.
"""

import dataclasses
from dataclasses import dataclass, field

from torch import nn

from model.generated_spectrum import TranslatingNetwork
from model.network import ReidNetwork
from model.options import ModelOptions, StructureName
from model.outputs import Examples, Outputs
from model.translator import TranslatorOptions
from pipeline.errors import InputError
from train.config import Config, with_data, with_method
from train.dhsm import DhsmOptions
from train.methods.base import Gather, Losses, Method
from train.optimizer import Group
from train.stages import Stage

PUBLISHED = {"sysu": (28.9, 70.6, 82.4, 29.2), "regdb": (43.4, 66.1, 76.3, 44.1)}
STRUCTURE: StructureName = "generated-spectrum"
SMALL_PX = 128  # images that are lower get the small translator
SMALL = TranslatorOptions(width=8, blocks=2, lr=1e-3)
TRANSLATOR = "enter.translator."  # how its parameters' names begin
BETA1 = 0.5


@dataclass(frozen=True)
class D2rl(Method):
    """CDP's losses on unified images, after and beside a translator's."""

    translator: TranslatorOptions = field(default_factory=TranslatorOptions)

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """The feature network behind the translator."""
        if self.model.structure != STRUCTURE:
            raise InputError(
                f"--model.structure {self.model.structure}: d2rl is the {STRUCTURE} structure; "
                "leave it there, or train another method"
            )
        centers = self.loss.center > 0
        return TranslatingNetwork(self.model, num_classes, image_size, centers, self.translator)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The base's and the translator's."""
        return super().loss_weights | self.translator.loss_weights

    def losses(self, out: Outputs, batch: Examples, gather: Gather) -> Losses:
        """The base's, and the translator's as the network gives them."""
        of_translator = {name: out.extras[name] for name in self.translator.loss_weights}
        return super().losses(out, batch, gather) | of_translator

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The translator learns; the feature network, on its images; then both."""
        return (
            Stage("translator", share=2.0, frozen=self._feature_network()),
            Stage("features", share=2.0, frozen=(TRANSLATOR,)),
            Stage("joint", share=1.0),
        )

    def _feature_network(self) -> tuple[str, ...]:
        """How the names of its parameters begin."""
        there = {
            "backbone.": True,
            "pool.": self.model.gem_learned,
            "project.": self.model.fc != "none",
            "neck.": self.model.bnneck,
            "classifier.": True,
            "centers": self.loss.center > 0,
        }
        return tuple(name for name, is_there in there.items() if is_there)

    def groups(self, network: nn.Module) -> list[Group]:
        """The base's, and the translator with a rate and a first moment of its own."""
        own = list(network.get_submodule(TRANSLATOR.removesuffix(".")).parameters())
        known = set(map(id, own))
        others = [
            dataclasses.replace(group, weights=[w for w in group.weights if id(w) not in known])
            for group in super().groups(network)
        ]
        return [*others, Group(own, self.translator.lr / self.optimizer.lr, BETA1)]


METHOD = D2rl(model=ModelOptions(structure=STRUCTURE), dhsm=DhsmOptions(enabled=False))


def setting(config: Config) -> Config:
    """Originals alone, in the data set's batches and epochs; a translator that fits the images."""
    return with_method(with_data(config, spectra=()), translator=fitting(config))


def fitting(config: Config) -> TranslatorOptions:
    """The translator for images of this size."""
    return SMALL if config.data.height_px < SMALL_PX else TranslatorOptions()
