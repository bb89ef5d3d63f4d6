"""A run's state on disk, `checkpoints/step-0000924.safetensors`: all that an exact resume needs.

Random draws are functions of (seed, epoch, step), so a file holds only tensors and `Progress`.
Files are written atomically, carry a checksum, and are loaded as plain data.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.backbone import ImageSize
from model.network import ReidNetwork
from pipeline.datasets.records import Index
from pipeline.errors import InputError, in_one_line, is_out_of_memory
from train import run_folder
from train.dhsm import Mining
from train.methods.base import Method, without_weights

FORMAT = "cdp-reid checkpoint 5"  # 5: losses have a column for the spread
NAME = re.compile(r"step-\d+\.safetensors")
KEPT = 2  # the older of the two is used if the newest is damaged
NETWORK = "network."
AFTER = " after "  # separates the data sets that fine-tuned weights saw, the latest first


@dataclass(slots=True)
class Progress:
    """How far a run has come, and whatever else, beside the tensors, the next step depends on."""

    epoch: int  # the current one, from 1
    step: int  # completed steps of the epoch; if all of them, its end has yet to be handled
    seconds: float = 0.0  # spent on the epoch so far
    waited: float = 0.0  # seconds of these spent waiting for data
    metrics_bytes: int = 0  # length of metrics.jsonl when the epoch began
    bad: dict[int, str] = field(default_factory=dict)  # row of a skipped image → reason
    first_spread: float = 0.0  # of the features at the run's first step; 0: not known yet
    collapsed_since: int = 0  # step of the run at which features collapsed; 0: they have not

    @property
    def trained(self) -> int:
        """How many epochs have been trained, of the last perhaps only a part."""
        return self.epoch - (self.step == 0)

    def next_epoch(self, metrics_bytes: int) -> "Progress":
        """Returns the progress at the start of the next epoch."""
        return dataclasses.replace(
            self, epoch=self.epoch + 1, step=0, seconds=0.0, waited=0.0, metrics_bytes=metrics_bytes
        )

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values, without rounding floats."""
        return dataclasses.asdict(self) | {"bad": sorted(self.bad.items())}

    @staticmethod
    def from_json(written: dict[str, Any]) -> "Progress":
        """The inverse of `to_json`."""
        return Progress(**written | {"bad": dict(written["bad"])})


@dataclass(frozen=True, slots=True)
class State:
    """The tensors that a step or the end of an epoch changes."""

    network: nn.Module
    num_classes: int
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    mining: Mining
    losses: Float32[Tensor, "steps names"]  # of the epoch's steps so far
    data: dict[str, Any] = field(default_factory=dict)  # identifies the training images

    def tensors(self) -> dict[str, Tensor]:
        """Returns all of them by name, with the state of torch's random generators (dropout)."""
        moments = {
            f"optimizer.{i}.{name}": value
            for i, of_weight in self.optimizer.state_dict()["state"].items()
            for name, value in of_weight.items()
            if value is not None
        }
        scale = {f"scaler.{name}": value for name, value in self.scaler.state_dict().items()}
        return {
            **{NETWORK + name: value for name, value in self.network.state_dict().items()},
            **moments,
            **{name: torch.tensor(value, dtype=torch.float64) for name, value in scale.items()},
            "mining.sums": self.mining.sums,
            "mining.counts": self.mining.counts,
            "mining.probability": torch.tensor(self.mining.probability),
            "mining.r": torch.tensor(self.mining.r),
            "losses": self.losses,
            "random.cpu": torch.get_rng_state(),
            **({"random.gpu": torch.cuda.get_rng_state()} if self.losses.is_cuda else {}),
        }

    def load(self, tensors: dict[str, Tensor], of_first_stage: bool = False) -> None:
        """Restores what `tensors()` returned, from any device.

        The run of a first stage may lack what the network learns in later ones; that stays new.
        """
        found = _named(tensors, NETWORK)
        if of_first_stage:
            found = self.network.state_dict() | found
        self.network.load_state_dict(found)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _named(tensors, "optimizer.").items():
            i, _, key = name.partition(".")
            if key != "step":  # fused Adam expects the memory layout of the weight
                value = torch.empty_like(weights[int(i)]).copy_(value)
            moments.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        scale = {name: value.item() for name, value in _named(tensors, "scaler.").items()}
        if scale:
            whole = {name: int(scale[name]) for name in ("growth_interval", "_growth_tracker")}
            self.scaler.load_state_dict(scale | whole)
        self.mining.sums.copy_(tensors["mining.sums"])
        self.mining.counts.copy_(tensors["mining.counts"])
        self.mining.probability = tensors["mining.probability"].numpy()
        self.mining.r = tensors["mining.r"].numpy()
        self.losses.copy_(tensors["losses"])
        torch.set_rng_state(tensors["random.cpu"])
        if "random.gpu" in tensors and self.losses.is_cuda:
            torch.cuda.set_rng_state(tensors["random.gpu"])


def save(run_dir: Path, state: State, progress: Progress, trained_on: str) -> Path:
    """Saves the run's current state and the name of its training data; returns the file.

    Keeps the two newest files. Raises `OSError` if the disk is full; older files are then intact.
    """
    folder = run_dir / run_folder.CHECKPOINTS
    step = (progress.epoch - 1) * len(state.losses) + progress.step
    path = folder / f"step-{step:07d}.safetensors"
    tensors = {name: value.cpu().contiguous() for name, value in state.tensors().items()}
    about = {
        "format": FORMAT,
        "trained_on": trained_on,
        "num_classes": state.num_classes,
        "data": state.data,
        "progress": progress.to_json(),
        "sha256": _checksum(tensors),
    }
    # A single entry: safetensors writes several in random order, so equal runs would differ.
    run_folder.write(path, safetensors.torch.save(tensors, metadata={"about": json.dumps(about)}))
    for old in found(run_dir)[:-KEPT]:
        old.unlink()
    return path


def found(run_dir: Path) -> list[Path]:
    """Returns the run's checkpoint files, newest last; not copies that the user has renamed."""
    run_folder.check_name(run_dir)
    files = (run_dir / run_folder.CHECKPOINTS).glob("step-*.safetensors")
    return sorted(file for file in files if NAME.fullmatch(file.name))


def restore(
    run_dir: Path, state: State, say: Callable[[str], None], of_first_stage: bool = False
) -> Progress | None:
    """Loads the newest intact checkpoint into `state`; returns None if there are none.

    `of_first_stage`: see `State.load`. Reports each damaged file through `say`. Raises `InputError`
    if all are damaged, or one is of another version, other training images or options.
    """
    paths = found(run_dir)
    damage = ""
    for path in reversed(paths):
        try:
            tensors, about = _read(path)
        except DamagedError as error:
            damage = str(error)
            say(f"{error}; using the checkpoint before it")
            continue
        _check_data(path, about.get("data", state.data), state.data)
        try:
            state.load(tensors, of_first_stage)
        except Exception as error:  # torch, dicts and lists each raise their own
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"{path}: does not fit the run's {run_folder.CONFIG} and training images "
                f"({in_one_line(error)}); restore both as they were, or start a new run with "
                f"--model.weights {run_dir}"
            ) from error
        return Progress.from_json(about["progress"])
    if paths:
        raise InputError(f"{damage}; no intact checkpoint is left to resume from: train again")
    return None


def identify(images: Index) -> dict[str, Any]:
    """Returns what tells these training images from others: how many they are, and their labels."""
    labels = hashlib.sha256(images.pids.tobytes() + images.modality.tobytes())
    num_identities = len(np.unique(images.pids))
    return {"images": len(images), "identities": num_identities, "labels": labels.hexdigest()}


def _check_data(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `InputError` unless the run resumes on the images that it has been trained on."""
    if saved == now:
        return
    before, after = (f"{d['images']} images of {d['identities']} identities" for d in (saved, now))
    how = "others, or in another order" if before == after else after
    raise InputError(
        f"{path}: was trained on {before}, but the data set's are now {how}; restore the data "
        f"set, or start a new run with --model.weights {path.parent.parent}"
    )


def latest(run_dir: Path) -> Path:
    """Returns the newest checkpoint; raises `InputError` if the run has none."""
    paths = found(run_dir)
    if not paths:
        raise InputError(f"{run_dir}: has no checkpoint yet; `cdp train` saves one at its end")
    return paths[-1]


def load(path: Path, method: Method, image_size: ImageSize) -> ReidNetwork:
    """Returns the method's network with the file's weights.

    Raises `InputError` if they are damaged or do not fit.
    """
    tensors, about = _read(path)
    tensors = _named(tensors, NETWORK)
    network = without_weights(method).network(about["num_classes"], image_size)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{path}: does not fit the network ({_first_line(error)})") from error
    return network


def trained_on(path: Path) -> str:
    """Returns the name of the data that the checkpoint's weights saw."""
    return str(_about(path).get("trained_on", ""))


def progress_of(path: Path) -> Progress:
    """Returns the run's progress when the checkpoint was saved."""
    return Progress.from_json(_about(path)["progress"])


def epochs_trained(run_dir: Path) -> int:
    """Returns how many epochs its newest readable checkpoint has trained; 0 without one."""
    for path in reversed(found(run_dir)):
        try:
            return progress_of(path).trained
        except (SafetensorError, OSError, KeyError):
            continue
    return 0


def num_classes(path: Path) -> int:
    """Returns the number of training identities."""
    return int(_about(path)["num_classes"])


def checksum(path: Path) -> str:
    """Returns the SHA-256 of the checkpoint's tensors that its file states."""
    return str(_about(path).get("sha256", ""))


def history(path: Path) -> list[str]:
    """Returns the names of all data that a file's weights saw, latest first; [] if unknown.

    Fine-tuned weights have also seen the data of the weights they started from.
    """
    try:
        return trained_on(path).split(AFTER) if trained_on(path) else []
    except (SafetensorError, OSError):
        return []


def check_leak(path: Path, tested_on: str) -> None:
    """Raises `InputError` if the weights saw identities of the test, according to `leak`."""
    if seen := leak(history(path), tested_on):
        raise InputError(
            f"{path}: was trained on {seen}; {tested_on} tests with some of the same identities: "
            f"test it on {seen}, or test another run's checkpoint on {tested_on}"
        )


def leak(history: list[str], tested_on: str) -> str | None:
    """Returns another trial of the test's data set that the weights were trained on, if any.

    RegDB's ten trials split the same people differently, so half of one trial's test identities are
    training identities of another.
    """
    data_set, is_trial, _ = tested_on.partition(" trial ")
    others = (s for s in history if s.partition(" trial ")[:2] == (data_set, " trial "))
    return next((seen for seen in others if is_trial and seen != tested_on), None)


def check_intact(path: Path) -> None:
    """Raises `InputError` if the file is a damaged checkpoint."""
    try:
        ours = _about(path).get("format") == FORMAT
    except (SafetensorError, OSError):
        return
    if ours:
        _read(path)


class DamagedError(InputError):
    """A checkpoint whose content is not what was written."""


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns tensors and metadata; raises `DamagedError`, or `InputError` for another version."""
    try:
        about = _about(path)
        if about.get("format") != FORMAT:
            known = about.get("format") or "of unknown format"
            raise InputError(f"{path}: is {known}, not {FORMAT!r}; use the version that wrote it")
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path}: cannot be loaded ({_first_line(error)})") from error
    if _checksum(tensors) != about.get("sha256"):
        raise DamagedError(f"{path}: cannot be loaded (its checksum is wrong)")
    try:
        Progress.from_json(about["progress"])
    except Exception as error:  # a damaged header may hold anything
        raise DamagedError(f"{path}: cannot be loaded ({in_one_line(error)})") from error
    return tensors, about


def _about(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        written = (file.metadata() or {}).get("about", "{}")
    try:
        about = json.loads(written)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        if tensors[name].numel():  # an empty tensor may have no bytes to view
            digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names start with `prefix`, which is removed."""
    chosen = {name: value for name, value in tensors.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in chosen.items()}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
