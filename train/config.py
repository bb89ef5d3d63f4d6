"""The root configuration: composed of the options that live beside their owners, frozen, on disk.

Everything that a run depends on is here; `config.json` in the run folder holds it, resolved.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from model.options import LossOptions, ModelOptions
from pipeline.errors import InputError
from pipeline.options import CacheName, DataOptions, KindName
from train.dhsm import DhsmOptions
from train.evaluation.metrics import Distance
from train.runtime import StepOptions

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["auto", "bf16", "fp16", "off"]


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """Adam (Kingma & Ba) and its steps down."""

    lr: float = 1e-3
    """Initial learning rate."""

    weight_decay: float = 0.0
    """L2 penalty."""

    milestones: tuple[float, ...] = (0.4, 0.7)
    """Shares of the epochs after which the learning rate is multiplied by `gamma`."""

    gamma: float = 0.1
    """Factor at each milestone."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise InputError(f"--optimizer.lr {self.lr}: must be greater than 0")
        if any(not 0 < m <= 1 for m in self.milestones):
            raise InputError(
                f"--optimizer.milestones {self.milestones}: each must be a share of the epochs, 0…1"
            )


@dataclass(frozen=True, slots=True)
class Config:
    """One training run."""

    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    dhsm: DhsmOptions = field(default_factory=DhsmOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    step: StepOptions = field(default_factory=StepOptions)

    epochs: int = 200
    """Passes over the training images."""

    seed: int = 0
    """Of every draw: batches, spectra, flips, jitter, initial weights, dropout."""

    device: Device = "auto"
    """auto: the GPU if there is one, else DALI's and torch's CPU backends."""

    precision: Precision = "auto"
    """Mixed precision (AMP) of the forward pass; fp16 scales the loss. auto: bf16 on a GPU that
    computes in it, else off."""

    sync_batch_norm: bool = True
    """Under torchrun: batch norm's statistics are those of the global batch, and losses those of
    one process; off: those of each rank's part: less to send, other losses."""

    distance: Distance = "euclidean"
    """Distance between features at test."""

    eval_every: int = 0
    """Evaluate after every n epochs too; 0: after the last only. Never used to pick a model."""

    checkpoint_every: int = 10
    """Save the weights after every n epochs, and after the last; 0: after the last only."""

    log_every: int = 20
    """Steps between two looks at the losses; the next look finds a NaN and names its step."""

    tensorboard: bool = False
    """Also write TensorBoard event files to RUN_DIR/tensorboard."""

    def __post_init__(self) -> None:
        if self.seed >= 2**63:
            raise InputError(f"--seed {self.seed}: must be less than 2**63")
        lowest = {"epochs": 1, "seed": 0, "eval_every": 0, "checkpoint_every": 0, "log_every": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}"
                )


def resolve(
    config: Config,
    root: Path,
    kind: KindName,
    cache: CacheName,
    device: torch.device,
    precision: str,
    how: StepOptions,
) -> Config:
    """The configuration with every `auto` and default place replaced by what it became."""
    data = dataclasses.replace(config.data, root=root.absolute(), kind=kind, cache=cache)
    return dataclasses.replace(
        config,
        data=data,
        step=how,
        device=typing.cast(Device, device.type),
        precision=typing.cast(Precision, precision),
    )


def on_other_hardware(config: Config, device: Device) -> Config:
    """A resolved configuration in which everything that hardware decides is chosen anew."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cache="auto"),
        step=StepOptions(),
        device=device,
        precision="auto" if config.precision == "bf16" else config.precision,
    )


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The configuration with options, named as on the command line, set to other values."""
    for name, value in changes.items():
        group, _, option = name.rpartition(".")
        if group:
            part = dataclasses.replace(getattr(config, group), **{option: value})
            config = dataclasses.replace(config, **{group: part})
        else:
            config = dataclasses.replace(config, **{option: value})
    return config


def flat(config: Config) -> dict[str, Any]:
    """Every option by its name on the command line."""
    options: dict[str, Any] = {}
    for field_ in dataclasses.fields(config):
        value = getattr(config, field_.name)
        if dataclasses.is_dataclass(value):
            part = {
                f"{field_.name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)
            }
        else:
            part = {field_.name: value}
        options |= {name.replace("_", "-"): option for name, option in part.items()}
    return options


def to_json(config: Config) -> str:
    """The configuration as indented JSON, paths as strings."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=str) + "\n"


def from_json(text: str, source: str) -> Config:
    """The inverse of `to_json`; raises `InputError` naming `source` and the field that is wrong."""
    try:
        return typing.cast(Config, _build(Config, json.loads(text)))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{source}: not a configuration of this version ({error})") from error


def _build(kind: Any, value: Any) -> Any:
    """`value`, as JSON gave it, as the annotated type `kind`."""
    if dataclasses.is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        unknown = set(value) - set(kinds)
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
        return kind(**{name: _build(kinds[name], item) for name, item in value.items()})  # type: ignore[operator]
    if isinstance(kind, types.UnionType):
        options = [k for k in kind.__args__ if k is not type(None)]
        return None if value is None else _build(options[0], value)
    if kind is Path:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
