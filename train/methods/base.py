"""What a method is. The defaults are CDP+DHSM's; a method overrides what differs, nothing else.

A method is one file that ends in `METHOD = …`, an instance of a subclass of `Method`, whose file is
the method's name. Its fields are its options, and so its flags. A function `setting(config) ->
config` beside it, if there is one, sets what the method needs of the other options: counterparts or
none, epochs, distance.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from model import losses
from model.network import Network, ReidNetwork
from model.options import LossOptions, ModelOptions
from model.outputs import Examples, Outputs
from pipeline.augment import augmented
from pipeline.errors import InputError
from pipeline.options import AugmentationOptions
from train.dhsm import DhsmOptions
from train.optimizer import Group, OptimizerOptions, learning_rate
from train.stages import Stage

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
        counterpart is made of. If a method overrides this and does not call it, `--augmentation`
        flags are refused.
        """
        return augmented(image, draw, self.augmentation)

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """The network for so many training identities and images of (height, width) in pixels."""
        return Network(self.model, num_classes, image_size, centers=self.loss.center > 0)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each loss, by the names that `losses` uses (λ of Eq. 4)."""
        return self.loss.weights

    def losses(self, out: Outputs, batch: Examples, gather: Gather) -> Losses:
        """The losses of a batch, scalars in float32, by name.

        Under torchrun each process has its share of the batch, and the global loss is the mean of
        the processes'. A loss over the whole batch takes `gather(tensor)`, whose gradient is exact.
        """
        names = self.loss.weights
        own = {
            "features": batch.originals(out.features),
            "pids": batch.pids,
            "modality": batch.modality,
        }
        needed = [name for name in own if any(name in OVER_BATCH.get(loss, ()) for loss in names)]
        of_all = {name: gather(own[name]) for name in needed}
        return {name: LOSSES[name](self.loss, out, batch, of_all) for name in names}

    def groups(self, network: nn.Module) -> list[Group]:
        """The network's weights, in groups that each have a learning rate of their own.

        Raises `InputError` if the head is to have one and everything would be head.
        """
        scale = self.optimizer.head_scale
        if scale == 1:
            return [Group(network.parameters())]
        trunk: list[nn.Parameter] = []
        head: list[nn.Parameter] = []
        for name, weight in network.named_parameters():
            (trunk if name.startswith(("backbone.", "enter.")) else head).append(weight)
        if not trunk:
            raise InputError(
                f"--optimizer.head-scale {scale:g}: the method's network has no parameters named "
                "backbone.…, to which a head could be compared; leave it at 1, or give the method "
                "a groups() of its own"
            )
        return [Group(trunk), Group(head, scale)]

    def at_one_point(self, num_classes: int) -> dict[str, float]:
        """What losses are when all features are the same, by their names: signs of a collapse.

        A loss of which that is not known is left out.
        """
        values = {}
        if self.loss.classification:
            by = num_classes if self.loss.divide_by_classes else 1
            values["cls"] = math.log(num_classes) / by
        if self.loss.triplet and self.loss.triplet_kind != "hard":
            values["tri"] = math.log(2)
        elif self.loss.triplet and self.loss.margin:
            values["tri"] = self.loss.margin
        return values

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The trainings that follow one another; most methods have one."""
        return (Stage(),)

    def lr_at(self, epoch: int, epochs: int) -> float:
        """The learning rate of a stage's `epoch`, from 1; a group's is its scale times that."""
        return learning_rate(self.optimizer, epoch, epochs)


# Every loss, by its name in metrics: what makes it of the options, the outputs, the batch, and the
# originals of the global batch.
LOSSES: dict[str, Callable[[LossOptions, Outputs, Examples, dict[str, Tensor]], Tensor]] = {
    "cls": lambda options, out, batch, _: losses.classification_loss(
        out.logits, batch.labels, options.divide_by_classes, options.label_smoothing
    ),
    "tri": lambda options, out, batch, of_all: losses.TRIPLETS[options.triplet_kind](
        of_all["features"], of_all["pids"], options.margin
    ),
    "hc": lambda options, out, batch, of_all: losses.hetero_center_loss(**of_all),
    "hc_tri": lambda options, out, batch, of_all: losses.hetero_center_triplet_loss(
        **of_all, margin=options.margin
    ),
    "center": lambda options, out, batch, _: losses.center_loss(
        out.features, batch.labels, _centers(out)
    ),
}
# What a loss over the whole batch needs of the originals; the others are means over images.
OVER_BATCH = {
    "tri": ("features", "pids"),
    "hc": ("features", "pids", "modality"),
    "hc_tri": ("features", "pids", "modality"),
}


def _centers(out: Outputs) -> Tensor:
    if "centers" not in out.extras:
        raise InputError(
            "--loss.center: the method's network makes no centers; give its outputs "
            'extras["centers"], one row an identity, or leave --loss.center at 0'
        )
    return out.extras["centers"]


def augment(method: Method, image: Any, draw: Any) -> Any:
    """Calls the method's `augment`; raises `InputError` if it ignores options that are on."""
    made = method.augment(image, draw)
    if method.augmentation.changes_images and not any(
        name.startswith("augmentation.") for name in draw.names
    ):
        raise InputError(
            "--augmentation: the method's augment() ignores these options; leave them "
            "out, or let it change what super().augment(image, draw) returns"
        )
    return made


def of_global_batch(
    out: Outputs, batch: Examples, gather: Gather
) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"], UInt8[Tensor, " n"]]:
    """Features, pids and modality of the global batch's originals."""
    return gather(batch.originals(out.features)), gather(batch.pids), gather(batch.modality)


def refuse_negative(method: Method, *options: str) -> None:
    """Raises `InputError` if one of these options of the method is negative, infinite or NaN."""
    for name in options:
        value = getattr(method, name)
        if not 0 <= value < math.inf:  # nor NaN
            raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 0")


def without_weights(method: Method) -> Method:
    """The method with a network that starts from random weights, for others to take their place."""
    return dataclasses.replace(method, model=dataclasses.replace(method.model, weights="none"))
