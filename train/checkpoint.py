"""Weights on disk, `checkpoints/epoch-0012.safetensors`: written atomically, loaded as data."""

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError
from train import run_folder

FORMAT = "cdp-reid weights 1"


def save(run_dir: Path, network: Network, epoch: int) -> Path:
    """Saves the weights after `epoch`; returns the file."""
    path = run_dir / run_folder.CHECKPOINTS / f"epoch-{epoch:04d}.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    run_folder.write(path, safetensors.torch.save(tensors, metadata={"format": FORMAT}))
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
        with safe_open(path, framework="pt") as file:
            written_as = (file.metadata() or {}).get("format")
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
