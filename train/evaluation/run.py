"""Tests a trained run again from its folder alone."""

from pathlib import Path
from typing import Any

from pipeline.datasets import sysu
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from train import checkpoint, config, run_folder, runtime
from train.data import locate
from train.evaluation.evaluate import evaluate, extract_features
from train.reporting.display import Display


def evaluate_run(
    run_dir: Path, data_root: Path | None, device_name: str, display: Display
) -> dict[str, Any]:
    """Evaluates the last checkpoint, shows the table and writes `result.json`.

    Raises `InputError` if the folder is no run, has no checkpoint, or its data set is gone.
    """
    path = run_dir / run_folder.CONFIG
    if not path.is_file():
        raise InputError(f"{run_dir}: no run folder ({run_folder.CONFIG} is missing)")
    cfg = config.from_json(path.read_text(), str(path))
    device = runtime.resolve_device(device_name)
    weights = checkpoint.latest(run_dir)
    network = checkpoint.load(weights, cfg.model).to(device)
    protocol = sysu.read_protocol(locate(data_root or cfg.data.root, display))
    loader = EvaluationLoader(protocol.index, cfg.data, device)
    display.say(f"device    {runtime.describe(device)}")
    display.say(f"weights   {weights}")
    with display.progress("evaluating") as progress:
        features = extract_features(network, loader, progress)
    result = evaluate(features, protocol, cfg.distance)
    run_folder.write_result(run_dir / run_folder.RESULT, result)
    display.result(result)
    return result
