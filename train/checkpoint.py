"""Weights on disk, `checkpoints/epoch-0012.safetensors`: written atomically, loaded as data."""

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError
from train import run_folder

FORMAT = "cdp-reid weights 2"


def save(run_dir: Path, network: Network, epoch: int, trained_on: str) -> Path:
    """Saves the weights after `epoch`, with the name of what they saw; returns the file."""
    path = run_dir / run_folder.CHECKPOINTS / f"epoch-{epoch:04d}.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    # One entry: safetensors writes several in random order, and equal runs should give equal files.
    metadata = {"about": json.dumps({"format": FORMAT, "trained_on": trained_on})}
    run_folder.write(path, safetensors.torch.save(tensors, metadata=metadata))
    return path


def latest(run_dir: Path) -> Path:
    """The checkpoint of the highest epoch; `InputError` if the run has none."""
    found = sorted((run_dir / run_folder.CHECKPOINTS).glob("epoch-*.safetensors"))
    if not found:
        raise InputError(f"{run_dir}: has no checkpoint yet; `cdp train` saves one at its end")
    return found[-1]


def load(path: Path, options: ModelOptions) -> Network:
    """The network with the file's weights; `InputError` if they are damaged or do not fit."""
    try:
        written_as = _about(path).get("format")
        if written_as != FORMAT:
            raise InputError(f"{path}: is {written_as or 'of no known format'}, not {FORMAT!r}")
        tensors = safetensors.torch.load_file(path)
        network = Network(options, len(tensors["classifier.bias"]), load_weights=False)
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise InputError(
            f"{path}: cannot be loaded ({str(error).splitlines()[0]}); evaluate another checkpoint "
            "or train again"
        ) from error
    return network


def check_leak(path: Path, tested_on: str) -> None:
    """Raises `InputError` if the weights saw identities of the test: another trial of one data set.

    RegDB's ten trials split the same people, so half of one trial's test identities were trained on
    in another.
    """
    trained_on = _about(path).get("trained_on", "")
    same_data_set = trained_on.partition(" trial ")[:2] == tested_on.partition(" trial ")[:2]
    if " trial " in trained_on and same_data_set and tested_on != trained_on:
        raise InputError(
            f"{path}: was trained on {trained_on}; on {tested_on} it would meet identities it was "
            f"trained on: test it on {trained_on}, or another run's checkpoint here"
        )


def _about(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        written = (file.metadata() or {}).get("about", "{}")
    try:
        about = json.loads(written)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
