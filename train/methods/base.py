"""What a method is. The defaults are CDP+DHSM's; a method overrides what differs, nothing else.

A method is one file that ends in `METHOD = …`, an instance of `Method` or of a subclass. Its fields
are its options, and so its flags. A function `setting(config) -> config` beside it, if there is
one, sets what the method needs of the other options: counterparts or none, epochs, distance.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from model.losses import classification_loss, triplet_loss
from model.network import Network, ReidNetwork
from model.options import LossOptions, ModelOptions
from model.outputs import Examples, Outputs
from pipeline.augment import augmented
from pipeline.options import AugmentationOptions
from train.dhsm import DhsmOptions
from train.optimizer import Group, OptimizerOptions, learning_rate

Gather = Callable[[Tensor], Tensor]  # [n, …] of this process → [N, …] of the global batch
Losses = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Method:
    """CDP+DHSM, and the base of every other method."""

    model: ModelOptions = field(default_factory=ModelOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    dhsm: DhsmOptions = field(default_factory=DhsmOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)

    def augment(self, image: Any, draw: Any) -> Any:
        """Changes the resized and flipped image, a DALI node, while the graph is built.

        `draw(name, count)` gives `count` uniform numbers in [0, 1) per original, and
        `draw(name, count, host)` what `host(uniforms [n, count], originals)` makes of them in
        NumPy: a box, a row, a flag. Returns the image, or two: the original, and the image that its
        counterpart is made of. A method that overrides this and does not call it has no use for
        `--augmentation` flags.
        """
        return augmented(image, draw, self.augmentation)

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """The network for so many training identities and images of (height, width) in pixels."""
        return Network(self.model, num_classes, image_size)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss, by the names that `losses` uses (λ of Eq. 4)."""
        weights = {"cls": 1.0} if self.loss.classification else {}
        return weights | ({"tri": self.loss.triplet_weight} if self.loss.triplet else {})

    def losses(self, out: Outputs, batch: Examples, gather: Gather) -> Losses:
        """The losses of a batch, scalars in float32, by name.

        Under torchrun each process has its share of the batch, and the global loss is the mean of
        the processes'. A loss over the whole batch takes `gather(tensor)`, whose gradient is exact.
        """
        losses = {}
        if self.loss.classification:
            losses["cls"] = classification_loss(
                out.logits, batch.labels, self.loss.divide_by_classes
            )
        if self.loss.triplet:
            features = gather(batch.originals(out.features))
            losses["tri"] = triplet_loss(features, gather(batch.pids), self.loss.margin)
        return losses

    def groups(self, network: nn.Module) -> list[Group]:
        """The network's weights, in groups that each have a learning rate of their own."""
        return [Group(network.parameters())]

    def lr_at(self, epoch: int, epochs: int) -> float:
        """The learning rate of `epoch`, from 1; a group's is its scale times that."""
        return learning_rate(self.optimizer, epoch, epochs)


def without_weights(method: Method) -> Method:
    """The method with a network that starts from random weights, for others to take their place."""
    return dataclasses.replace(method, model=dataclasses.replace(method.model, weights="none"))
