"""Methods that train in several stages: which stage an epoch is in, and what that changes.

The stage is a function of the epoch, as the learning rate is, and what a stage does when it begins
stays in the weights. So a checkpoint need not know of stages, and a run resumes at any step.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray
from torch import nn

from model.network import ReidNetwork
from pipeline.errors import InputError
from train.distributed import World


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """The n training images that can be read, as the network embeds them now."""

    features: Float32[ndarray, "n d"]
    pids: Int64[ndarray, " n"]
    infrared: Bool[ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Offline:
    """What `Stage.finish` may call; every process must make the same calls."""

    embed: Callable[[], Embedded]  # without augmentation, in evaluation mode
    check: Callable[[], None]  # raises `Interrupted` after a signal; the stage's end is then redone


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the trainings that a method consists of.

    When it begins, the learning rate starts over, as in a training of the stage's own length, and
    the optimizer forgets its moments.
    """

    name: str = ""
    share: float = 1.0
    """Of the epochs, relative to the other stages' shares."""

    frozen: tuple[str, ...] = ()
    """Prefixes of the names of parameters that do not learn; batch norm still updates its
    statistics."""

    begin: Callable[[ReidNetwork], None] | None = None
    """Changes the network in place, without gradients, once, before the stage's first step."""

    finish: Callable[[ReidNetwork, Offline], str] | None = None
    """Changes the network in place, without gradients, after the stage's last step, and returns
    what it did, in words. It must do the same when called again, as a resumed run may do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an epoch is: in which stage, from 0, and in which epoch, from 1, of how many of it."""

    stage: int
    epoch: int
    epochs: int


def lengths(stages: tuple[Stage, ...], epochs: int) -> list[int]:
    """How many epochs each stage has: its share, rounded, and at least one.

    Raises `InputError` if there are fewer epochs than stages, or the stages are none.
    """
    if not stages or not all(0 < stage.share < math.inf for stage in stages):
        raise InputError("the method's stages: there must be one, and every share greater than 0")
    if epochs < len(stages):
        raise InputError(
            f"--epochs {epochs}: this method trains in {len(stages)} stages; pass at least "
            f"{len(stages)}"
        )
    total, share, ends = sum(stage.share for stage in stages), 0.0, [0]
    for i, stage in enumerate(stages, start=1):
        share += stage.share
        left = len(stages) - i  # stages that follow
        ends.append(max(ends[-1] + 1, min(round(share / total * epochs), epochs - left)))
    return [end - start for start, end in pairwise(ends)]


def place(stages: tuple[Stage, ...], epoch: int, epochs: int) -> Place:
    """The place of `epoch`, from 1, of `epochs`."""
    before = 0
    for i, length in enumerate(lengths(stages, epochs)):
        if epoch <= before + length:
            return Place(i, epoch - before, length)
        before += length
    raise ValueError(f"epoch {epoch} of {epochs}")


def learning(network: nn.Module, stages: Iterable[Stage]) -> frozenset[str]:
    """The names of a new network's parameters that learn, unless a stage freezes them.

    Raises `InputError` if a stage freezes what is not there, or all of them.
    """
    names = frozenset(name for name, weight in network.named_parameters() if weight.requires_grad)
    for stage in stages:
        for prefix in stage.frozen:
            if not any(name.startswith(prefix) for name in names):
                raise InputError(
                    f"the method's stage {stage.name!r} freezes {prefix!r}, with which no "
                    "parameter's name begins"
                )
        if all(name.startswith(stage.frozen) for name in names):
            raise InputError(f"the method's stage {stage.name!r} freezes all parameters")
    return names


def enter(
    stage: Stage,
    begins: bool,
    network: ReidNetwork,
    names: frozenset[str],
    optimizer: torch.optim.Optimizer,
    world: World,
) -> bool:
    """Freezes what the stage freezes, of all parameters that learn, and begins it if it begins now.

    Returns whether something changed that a recorded step (a CUDA graph) has fixed.
    """
    changed = begins
    for name, weight in network.named_parameters():
        learns = name in names and not name.startswith(stage.frozen)
        if weight.requires_grad != learns:
            weight.requires_grad_(learns)
            weight.grad = None  # optimizers pass over a weight that has none
            changed = True
    if begins:
        optimizer.state.clear()
        if stage.begin:
            with torch.no_grad():
                stage.begin(network)
            world.share_weights(network)
    return changed
