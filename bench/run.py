"""Runs the parts of the bench suite on the embedded crops and keeps what they measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.loader import bench_loader
from bench.measure import environment
from bench.peers import bench_peers
from pipeline.datasets.kinds import read_training
from pipeline.options import DataOptions
from train import run_folder, runtime
from train.data import locate
from train.reporting.display import Display

PARTS: dict[str, Callable[..., Any]] = {"loader": bench_loader, "peers": bench_peers}


def run_bench(
    part: str, data_root: Path | None, device_name: str, quick: bool, json_file: Path | None
) -> dict[str, Any]:
    """Measures `part`, prints tables and JSON lines, and writes all of it to `json_file`.

    Raises `InputError` if the data or the file's folder cannot be used.
    """
    run_folder.check_json(json_file)
    root = locate(data_root, Display())
    options = DataOptions(root=root)
    index = read_training(options, root)
    device = runtime.resolve_device(device_name)
    console = Console()
    about = environment() | {"data": _describe(index, options)}
    rounds, steps = (3, 8) if quick else (9, 20)
    console.print(f"device    {runtime.describe(device)}; {rounds} rounds of {steps} steps each")
    measured = PARTS[part](index, options, device, rounds, steps, console)
    result = about | {"quick": quick, part: measured}
    if json_file is not None:
        run_folder.write_result(json_file, result)
    return result


def _describe(index: Any, options: DataOptions) -> dict[str, Any]:
    sizes = [index.path(row).stat().st_size for row in range(min(500, len(index)))]
    return {
        "num_images": len(index),
        "mean_file_bytes": sum(sizes) / len(sizes),
        "resized_px": [options.height_px, options.width_px],
    }
