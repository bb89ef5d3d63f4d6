"""Tests a trained run again from its folder alone."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from model.network import Network
from pipeline.datasets.kinds import read_protocol
from pipeline.datasets.records import Protocol
from pipeline.loader import EvaluationLoader
from pipeline.options import DataOptions, Trial
from train import checkpoint, run_folder, runtime
from train.data import locate
from train.evaluation.evaluate import evaluate, extract_features
from train.reporting.display import Display


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """A run's newest weights and what they make of the images of a test."""

    weights: Path
    network: Network
    data: DataOptions
    protocol: Protocol
    features: Float[Tensor, "n d"]  # of the protocol's index, row by row, float32, on the device


def evaluate_run(
    run_dir: Path,
    display: Display,
    data_root: Path | None = None,
    trial: Trial | None = None,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Evaluates the last checkpoint in every mode, shows the table and writes `result.json`.

    Raises as `embed_run` does.
    """
    run = embed_run(run_dir, display, data_root, trial, device_name)
    result = evaluate(run.features, run.protocol, run_folder.read_config(run_dir).distance)
    run_folder.write_result(run_dir / run_folder.RESULT, result)
    display.result(result)
    return result


def embed_run(
    run_dir: Path,
    display: Display,
    data_root: Path | None = None,
    trial: Trial | None = None,
    device_name: str = "auto",
) -> Embedded:
    """Embeds the test images with the last checkpoint.

    Another `data_root` may hold another data set. Raises `InputError` if the folder is no run, has
    no checkpoint, its data set is gone, or the weights have seen the identities of the test.
    """
    cfg = run_folder.read_config(run_dir)
    data = cfg.data
    if data_root is not None:
        data = dataclasses.replace(data, root=data_root, kind="auto")
    if trial is not None:
        data = dataclasses.replace(data, trial=trial)
    device = runtime.resolve_device(device_name)
    weights = checkpoint.latest(run_dir)
    network = checkpoint.load(weights, cfg.model).to(device)
    protocol = read_protocol(data, locate(data.root, display))
    checkpoint.check_leak(weights, protocol.name)
    loader = EvaluationLoader(protocol.index, data, device)
    display.say(f"device    {runtime.describe(device)}")
    display.say(f"weights   {weights}")
    with display.progress("evaluating") as progress:
        features = extract_features(network, loader, progress)
    return Embedded(weights, network, data, protocol, features)
