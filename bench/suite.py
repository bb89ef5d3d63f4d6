"""Runs the parts of the bench suite and saves their results."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench import plot, targets
from bench.session import Session
from pipeline.datasets.kinds import kind_of, read_training
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from train import run_folder, runtime
from train.config import Config, with_data, with_method
from train.data import locate
from train.environment import environment
from train.live.display import Display
from train.presets import PRESETS
from train.step import TrainingStep

if TYPE_CHECKING:  # imports DALI, which a step alone does not need
    from pipeline.loader import TrainingLoader

PARTS = ("stages", "loader", "peers", "augmented", "step", "end-to-end", "timm")
WITHOUT_A_MODEL = ("loader", "peers", "augmented")
ROUNDS, STEPS = 9, 20
QUICK_ROUNDS, QUICK_STEPS = 3, 8


def run_bench(
    parts: Sequence[str],
    preset: str | None,
    data_root: Path | None,
    device_name: str,
    quick: bool,
    json_file: Path | None,
    plot_file: Path | None,
    timm_script: Path | None = None,
    trace_dir: Path | None = None,
    sweep: bool = True,
    rounds: int | None = None,
) -> dict[str, Any]:
    """Measures these parts; prints tables and JSON lines, writes a JSON file and a picture.

    Without a `preset`, uses the paper's, but the demo's for steps on a CPU. Raises `InputError` if
    the data or the output files cannot be used.
    """
    if plot_file:
        plot.check(plot_file)
    for file in (json_file, plot_file):
        if file:
            run_folder.make_parent(file)
    display = Display()
    root = locate(data_root, display)
    device = runtime.resolve_device(device_name)
    runtime.set_up(device)
    rounds, steps = _rounds_and_steps(quick, rounds)
    display.say(f"device    {runtime.describe(device)}; {rounds} rounds of {steps} steps each")

    result: dict[str, Any] = environment() | {"quick": quick, "device": device.type}
    result["comparisons"], result["step_ms"] = [], {}
    ratios: dict[str, list[float]] = {}

    def keep() -> None:
        result["ratios"] = targets.judge(ratios, device.type == "cuda")
        if json_file:
            run_folder.write_result(json_file, result)

    for name in parts:
        chosen = preset or ("sysu" if device.type == "cuda" or name in WITHOUT_A_MODEL else "demo")
        session = make_session(chosen, root, device, display, quick, timm_script, rounds)
        session.comparisons, session.ratios, session.keep = result["comparisons"], ratios, keep
        if trace_dir:
            session.trace = partial(_trace, session, trace_dir)
        session.step_ms, session.sweep = result["step_ms"], sweep
        result["data"] = _describe(session.index)
        _part(name)(session)
        if session.waterfall:
            result["waterfall"] = {"preset": chosen, **session.waterfall}
    keep()
    if any(row["part"] in parts for row in result["ratios"].values()):
        display.console.print(targets.table(result["ratios"], parts))
    if json_file:
        display.say(f"wrote     {json_file}")
    if plot_file:
        plot.draw(result, plot_file)
        display.say(f"wrote     {plot_file}")
    return result


def _part(name: str) -> Callable[[Session], None]:
    """Imports and returns a part's function, as other parts' imports (DALI) may fail here."""
    match name:
        case "stages":
            from bench.stages import bench_stages as measure
        case "loader":
            from bench.loader import bench_loader as measure
        case "peers":
            from bench.peers import bench_peers as measure
        case "augmented":
            from bench.peers import bench_augmented as measure
        case "step":
            from bench.step import bench_step as measure
        case "end-to-end":
            from bench.end_to_end import bench_end_to_end as measure
        case _:
            from bench.timm_script import bench_timm as measure
    return measure


def _trace(session: Session, folder: Path, step: TrainingStep, loader: "TrainingLoader") -> None:
    from bench.trace import trace

    session.keep()  # the profiler may crash the process
    trace(session, folder, step, loader)


def make_session(
    preset: str,
    data_root: Path | None,
    device: torch.device,
    display: Display,
    quick: bool = False,
    timm_script: Path | None = None,
    rounds: int | None = None,
) -> Session:
    """Makes a session with the preset's batches and network on this data set.

    Raises `InputError` if the data cannot be used or is packed.
    """
    root = locate(data_root, display)
    config = _measurable(PRESETS[preset].config, root)
    index = read_training(config.data, root)
    if index.is_packed:
        raise InputError(f"--data-root {root}: is packed; name loose files, which peers can read")
    rounds, steps = _rounds_and_steps(quick, rounds)
    return Session(
        index=index,
        num_classes=len(np.unique(index.pids)),
        config=config,
        preset=preset,
        device=device,
        precision=runtime.resolve_precision(config.precision, device),
        rounds=rounds,
        steps=steps,
        quick=quick,
        display=display,
        timm_script=timm_script,
    )


def _rounds_and_steps(quick: bool, rounds: int | None) -> tuple[int, int]:
    usual, steps = (QUICK_ROUNDS, QUICK_STEPS) if quick else (ROUNDS, STEPS)
    return rounds or usual, steps


def _measurable(config: Config, root: Path) -> Config:
    """Returns the preset on this data set, without weights, which do not affect speed."""
    model = dataclasses.replace(config.method.model, weights="none")
    return with_data(with_method(config, model=model), root=root, kind=kind_of(root, "auto"))


def _describe(index: Index) -> dict[str, Any]:
    sizes = [index.path(row).stat().st_size for row in range(min(500, len(index)))]
    return {"num_images": len(index), "mean_file_bytes": sum(sizes) / len(sizes)}
