"""The optimizer, its groups of weights, and its learning-rate schedule."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from train.runtime import StepOptions


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """adam (Kingma & Ba), adamw (decoupled weight decay), or sgd with momentum."""

    lr: float = 1e-3
    """Learning rate after the warm-up."""

    weight_decay: float = 0.0
    """L2 penalty; decoupled weight decay for adamw."""

    momentum: float = 0.9
    """Momentum of sgd."""

    nesterov: bool = False
    """Use Nesterov momentum with sgd."""

    head_scale: float = 1.0
    """Learning rate of the layers after the backbone (BNNeck, classifier), relative to the rest."""

    clip_norm: float = 0.0
    """Maximum norm of the gradients of all weights; larger ones are scaled down; 0: no clipping."""

    schedule: Literal["steps", "cosine"] = "steps"
    """steps: multiply the learning rate by `gamma` at each milestone; cosine: decay it to 0."""

    milestones: tuple[float, ...] = (0.4, 0.7)
    """Shares of the epochs after which the learning rate is multiplied by `gamma`."""

    gamma: float = 0.1
    """Factor at each milestone."""

    warmup_epochs: int = 0
    """Epochs during which the learning rate rises in equal steps to `lr`."""

    def __post_init__(self) -> None:
        for name in ("lr", "gamma", "head_scale"):
            if not 0 < getattr(self, name) < math.inf:  # nor NaN
                option = name.replace("_", "-")
                raise InputError(
                    f"--optimizer.{option} {getattr(self, name)}: must be greater than 0"
                )
        for name in ("weight_decay", "momentum", "warmup_epochs", "clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                option = name.replace("_", "-")
                raise InputError(f"--optimizer.{option} {getattr(self, name)}: must be 0 or more")
        if self.nesterov and not (self.name == "sgd" and self.momentum):
            raise InputError(
                f"--optimizer.nesterov: not possible for {self.name} with momentum {self.momentum};"
                " pass --optimizer.name sgd and a --optimizer.momentum above 0"
            )
        if any(not 0 < m <= 1 for m in self.milestones):
            raise InputError(
                f"--optimizer.milestones {self.milestones}: each must be a share of the epochs, 0…1"
            )


@dataclass(frozen=True, slots=True)
class Group:
    """Weights that share a learning rate: `scale` times the schedule's."""

    weights: Iterable[nn.Parameter]
    scale: float = 1.0
    beta1: float = 0.9  # of Adam; sgd has --optimizer.momentum


def learning_rate(options: OptimizerOptions, epoch: int, epochs: int) -> float:
    """Returns the learning rate of `epoch`, from 1, of `epochs`."""
    if epoch <= options.warmup_epochs:
        return options.lr * epoch / (options.warmup_epochs + 1)
    if options.schedule == "cosine":
        done = (epoch - 1 - options.warmup_epochs) / max(1, epochs - options.warmup_epochs)
        return options.lr * (1 + math.cos(math.pi * done)) / 2
    lr = options.lr
    for share in options.milestones:
        if epoch > round(share * epochs):
            lr *= options.gamma
    return lr


def build(
    groups: Iterable[Group], options: OptimizerOptions, step: StepOptions, device: torch.device
) -> torch.optim.Optimizer:
    """Builds the optimizer; a recorded step reads its learning rate from a tensor on the device."""
    recorded = step.cuda_graph == "on"

    def rate(scale: float) -> float | Tensor:
        lr = options.lr * scale
        return torch.tensor(lr, device=device) if recorded else lr

    of_weights: list[dict[str, Any]] = [
        {
            "params": list(group.weights),
            "lr": rate(group.scale),
            "scale": group.scale,
            **({} if options.name == "sgd" else {"betas": (group.beta1, 0.999)}),
        }
        for group in groups
    ]
    common: dict[str, Any] = {
        "weight_decay": options.weight_decay,
        "fused": step.fused_optimizer == "on",
    }
    if options.name == "sgd":
        common |= {"momentum": options.momentum, "nesterov": options.nesterov}
        return torch.optim.SGD(of_weights, lr=options.lr, **common)
    kind = torch.optim.AdamW if options.name == "adamw" else torch.optim.Adam
    return kind(of_weights, lr=options.lr, capturable=recorded, **common)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets each group's learning rate to its multiple of `lr`, also for a recorded step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * group["scale"])
        else:
            group["lr"] = lr * group["scale"]
