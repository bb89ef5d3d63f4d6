"""The root configuration: frozen, composed of options defined beside the code that uses them.

It holds everything that a run depends on; the resolved form is `config.json` in the run folder.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from pipeline.errors import InputError, in_one_line
from pipeline.options import CacheName, DataOptions, KindName
from train import stages
from train.methods import finding
from train.methods.base import Method
from train.metrics import Distance
from train.runtime import StepOptions

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["auto", "bf16", "fp16", "off"]
OnCollapse = Literal["warn", "stop"]

# Options that no longer exist; ignored in runs of earlier versions.
GONE: dict[Any, tuple[str, ...]] = {DataOptions: ("hw_decoder_load",)}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Epochs trained before a run was resumed with another total number (schedule.py)."""

    until: int  # the last of these epochs
    epochs: int  # total number of epochs at the time, which determined their learning rates


@dataclass(frozen=True, slots=True)
class Config:
    """One training run."""

    data: DataOptions = field(default_factory=DataOptions)
    method: Annotated[Method, tyro.conf.arg(name="")] = field(default_factory=Method)
    step: StepOptions = field(default_factory=StepOptions)

    epochs: int = 200
    """Passes over the training images."""

    seed: int = 0
    """Seed of all random numbers: batches, spectra, flips, jitter, initial weights, dropout."""

    device: Device = "auto"
    """auto: the GPU if there is one, else DALI's and torch's CPU backends."""

    precision: Precision = "auto"
    """Mixed precision (AMP) of the forward pass; fp16 scales the loss. auto: bf16 on a GPU that
    supports it, else off."""

    sync_batch_norm: bool = True
    """Under torchrun: batch norm uses statistics of the global batch, so losses equal those of a
    single process; off: statistics of each rank's share, with less communication."""

    distance: Distance = "euclidean"
    """Distance between features in the test."""

    eval_every: int = 0
    """Also evaluate after every n epochs; 0: after the last only. Never used to pick a model."""

    test: bool = True
    """Test on unseen identities; off: the data set needs no test images, and the result holds no
    figures."""

    checkpoint_every: int = 10
    """Save a checkpoint after every n epochs and after the last; 0: after the last only."""

    log_every: int = 20
    """Steps between checks of the losses; the next check after a NaN names its step."""

    on_collapse: OnCollapse = "stop"
    """When all features collapse into one point, which batch-hard triplet loss can cause: only
    warn, or also stop if the collapse lasts for a whole epoch."""

    tensorboard: bool = False
    """Also write TensorBoard event files to RUN_DIR/tensorboard."""

    history: Annotated[tuple[Stretch, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    """Written by `cdp train --resume RUN_DIR --epochs N`."""

    def __post_init__(self) -> None:
        if self.seed >= 2**63:
            raise InputError(f"--seed {self.seed}: must be less than 2**63")
        lowest = {"epochs": 1, "seed": 0, "eval_every": 0, "checkpoint_every": 0, "log_every": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}"
                )
        warmup = self.method.optimizer.warmup_epochs
        shortest = min(stages.lengths(self.method.stages, self.epochs))
        if warmup >= shortest:
            of = "" if shortest == self.epochs else f", of which the shortest stage has {shortest}"
            raise InputError(
                f"--optimizer.warmup-epochs {warmup}: must be less than --epochs {self.epochs}{of}"
            )
        if self.eval_every and not self.test:
            raise InputError(
                f"--eval-every {self.eval_every}: has no effect with --no-test; leave one of them "
                "out"
            )


def resolve(
    config: Config,
    root: Path,
    kind: KindName,
    cache: CacheName,
    device: torch.device,
    precision: str,
    step: StepOptions,
) -> Config:
    """Returns the configuration with every `auto` and default path replaced by the actual value."""
    data = dataclasses.replace(config.data, root=root.absolute(), kind=kind, cache=cache)
    return dataclasses.replace(
        config,
        data=data,
        step=step,
        device=typing.cast(Device, device.type),
        precision=typing.cast(Precision, precision),
    )


def on_other_hardware(config: Config, device: Device) -> Config:
    """Returns a resolved configuration with all hardware-dependent options reset to auto."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cache="auto"),
        step=StepOptions(),
        device=device,
        precision="auto" if config.precision == "bf16" else config.precision,
    )


def with_data(config: Config, **changes: Any) -> Config:
    """Returns the configuration with changed data options."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def with_method(config: Config, **changes: Any) -> Config:
    """Returns the configuration with changed method options."""
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **changes))


def with_padded_crop(config: Config) -> Config:
    """Random crops, out of 10 pixels of padding at a height of 256 and in proportion at others."""
    padding = max(1, round(10 / 256 * config.data.height_px))
    augmentation = dataclasses.replace(config.method.augmentation, crop_padding_px=padding)
    return with_method(config, augmentation=augmentation)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every option by its command-line name."""
    options: dict[str, Any] = {}
    for field_ in dataclasses.fields(config):
        value = getattr(config, field_.name)
        name = prefix + field_.name.replace("_", "-")
        if isinstance(value, Method):
            options |= flat(value)
        elif dataclasses.is_dataclass(value):
            options |= flat(value, f"{name}.")
        else:
            options[name] = value
    return options


def to_json(config: Config) -> str:
    """Returns the configuration as indented JSON, including where the method is defined."""
    written = dataclasses.asdict(config) | {"method": of_method(config.method)}
    return json.dumps(written, indent=2, default=str) + "\n"


def of_method(method: Method) -> dict[str, Any]:
    """Returns a method as JSON values: its options, and under "from" where its class is defined."""
    origin = dataclasses.asdict(finding.origin(method))
    written = {"from": origin} | dataclasses.asdict(method)
    return typing.cast(dict[str, Any], json.loads(json.dumps(written, default=str)))


def to_method(written: dict[str, Any], source: str) -> Method:
    """The inverse of `of_method`; a user's own method must be loaded already (`finding.own`).

    Raises `InputError` naming `source` and what is wrong.
    """
    try:
        origin = finding.Origin(**written["from"])
    except Exception as error:
        raise _of_another_version(source, error) from error
    kind = finding.class_of(origin, source)
    try:
        options = {name: value for name, value in written.items() if name != "from"}
        return typing.cast(Method, _build(kind, options, "method"))
    except Exception as error:
        raise _of_another_version(source, error) from error


def from_json(text: str, source: str) -> Config:
    """The inverse of `to_json`; raises `InputError` naming `source` and the field that is wrong."""
    try:
        written = json.loads(text)
        of_its_method = written["method"]
    except Exception as error:  # not JSON, nested too deeply, or of other types
        raise _of_another_version(source, error) from error
    method = to_method(of_its_method, source)
    try:
        return typing.cast(Config, _build(Config, written | {"method": method}, ""))
    except Exception as error:
        raise _of_another_version(source, error) from error


def _of_another_version(source: str, error: Exception) -> InputError:
    return InputError(f"{source}: not a configuration of this version ({in_one_line(error)})")


def _build(kind: Any, value: Any, name: str) -> Any:
    """Converts the JSON value to the annotated type `kind`; `ValueError` if it does not fit."""
    of = typing.get_args(kind)
    if isinstance(value, Method):
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        kinds = typing.get_type_hints(kind)
        value = {key: item for key, item in value.items() if key not in GONE.get(kind, ())}
        unknown = set(value) - set(kinds)
        if unknown:
            raise ValueError(f"unknown field {min(unknown)!r}")
        return kind(**{key: _build(kinds[key], item, key) for key, item in value.items()})  # type: ignore[operator]
    if isinstance(kind, types.UnionType):
        options = [k for k in of if k is not type(None)]
        return None if value is None else _build(options[0], value, name)
    if typing.get_origin(kind) is Literal and any(
        value == one and type(value) is type(one) for one in of
    ):
        return value
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_build(of[0], item, name) for item in value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (bool, int, str) and type(value) is kind:
        return value
    raise ValueError(f"{name or 'everything'} is {json.dumps(value)[:60]}")
