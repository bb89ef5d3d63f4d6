"""Tests a trained run again, given only its folder."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from model.network import ReidNetwork
from pipeline.datasets.kinds import read_protocol, read_training
from pipeline.datasets.records import Index, Protocol
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from pipeline.options import DataOptions, Trial, image_size
from train import checkpoint, divergence, run_folder, runtime, schedule
from train.config import Config
from train.data import locate
from train.evaluation.evaluate import check_re_ranking, evaluate, extract_features
from train.evaluation.options import PLAIN, EvalOptions
from train.live.display import Display


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run's network with its newest weights, on a device."""

    cfg: Config
    data: DataOptions  # of the run, with the data set's current location
    weights: Path
    network: ReidNetwork
    device: torch.device


@dataclass(frozen=True, slots=True, eq=False)
class TestedRun:
    """A run and its features of the test images."""

    trained: TrainedRun
    protocol: Protocol
    features: Float32[Tensor, "n d"]  # one row per row of the protocol's index, on the device


def evaluate_run(
    run_dir: Path,
    display: Display,
    options: EvalOptions = PLAIN,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Evaluates the last checkpoint in every mode, shows the table and writes it as JSON.

    `result.json` is for the plain test on the run's own data set; other tests are written to
    `options.file_name()` and disclose their options. Raises as `open_run` and `embed_test` do, and
    if the file holds figures of yet another data set.
    """
    data_root, trial = options.data, options.trial
    options = disclosed_options(run_dir, options)
    file = run_dir / options.file_name()
    run_folder.check_same_data(file, options.data)
    run = open_run(run_dir, display, data_root, trial, device_name)
    tested = embed_test(run, display, options)
    with display.progress("ranking") as progress:
        result = evaluate(tested.features, tested.protocol, run.cfg.distance, options, progress)
    progress_made = checkpoint.progress_of(run.weights)
    result |= schedule.disclosure(run.cfg, progress_made.epoch)
    result |= _too_early(run_dir, run.cfg, progress_made.epoch)
    result |= divergence.said(progress_made.collapsed_since)
    if options != PLAIN:
        result["checkpoint"] = run.weights.name
    display.result(result)  # first: the folder may be read-only
    run_folder.write_result(file, result)
    if options != PLAIN:
        display.say(f"result    {file}")
    return result


def _too_early(run_dir: Path, cfg: Config, epoch: int) -> dict[str, str]:
    """Returns the entry that discloses a test before the training's end; {} after it.

    `epoch` is that of the weights. The last epoch has ended once it has a record, which follows its
    last checkpoint.
    """
    ended = run_folder.epochs_recorded(run_dir)
    if epoch >= cfg.epochs and (ended is None or ended >= cfg.epochs):
        return {}
    return run_folder.tested_early(epoch, cfg.epochs)


def disclosed_options(run_dir: Path, options: EvalOptions) -> EvalOptions:
    """Returns what a result discloses: names no data set if it is the run's own path.

    A copy of the run's data set elsewhere counts as another one.
    """
    own = run_folder.read_config(run_dir).data.root
    if options.data is None or (own and own.resolve() == options.data.resolve()):
        return dataclasses.replace(options, data=None, trial=None)
    return dataclasses.replace(options, data=options.data.resolve())


def open_run(
    run_dir: Path,
    display: Display,
    data_root: Path | None = None,
    trial: Trial | None = None,
    device_name: str = "auto",
) -> TrainedRun:
    """Loads the last checkpoint; `InputError` if the folder is not a run or has no checkpoint."""
    cfg = run_folder.read_config(run_dir)
    if cfg.data.trial == "all":
        raise InputError(f"{run_dir}: holds ten runs; name one, such as {run_dir}/trial-01")
    data = cfg.data
    if data_root is not None:
        data = dataclasses.replace(data, root=data_root, kind="auto")
    if trial is not None:
        data = dataclasses.replace(data, trial=trial)
    device = runtime.resolve_device(device_name)
    runtime.set_up(device)
    weights = checkpoint.latest(run_dir)
    network = checkpoint.load(weights, cfg.method, image_size(data)).to(device).eval()
    display.say(f"device    {runtime.describe(device)}")
    display.say(f"weights   {weights}")
    return TrainedRun(cfg, data, weights, network, device)


def embed_test(run: TrainedRun, display: Display, options: EvalOptions = PLAIN) -> TestedRun:
    """Embeds the data set's test images.

    Raises `InputError` if the data set is gone, an image cannot be read, the weights have seen
    identities of the test, or there are too many images to re-rank.
    """
    root = locate(run.data.root, display)
    try:
        protocol = read_protocol(run.data, root, display.note)
    except InputError as error:
        if run.cfg.test:
            raise
        raise InputError(
            f"{error} (the run was trained with --no-test; --data-root may name another data set)"
        ) from error
    checkpoint.check_leak(run.weights, protocol.name)
    if options.re_ranking:
        check_re_ranking(protocol)
    return TestedRun(run, protocol, features_of(run, protocol.index, display, options.flip_test))


def features_of(
    run: TrainedRun, index: Index, display: Display, flip_test: bool = False
) -> Float32[Tensor, "n d"]:
    """Embeds every image, decoded and resized as in training; raises naming a bad one."""
    loader = EvaluationLoader(index, run.data, run.device)
    with display.progress("embedding") as progress:
        return extract_features(run.network, loader, progress, flip_test)


def images_of(run: TrainedRun, display: Display) -> list[Index]:
    """Returns the training and test images of the run's data set; [] if it is gone."""
    readers: tuple[Callable[[DataOptions, Path], Index], ...] = (
        read_training,
        lambda options, root: read_protocol(options, root).index,
    )
    known, reasons = [], set()
    for read in readers:
        try:
            known.append(read(run.data, locate(run.data.root, display)))
        except InputError as error:
            reasons.add(str(error))
    for reason in sorted(reasons):
        display.note(f"cannot look images up in the run's data set: {reason}")
    return known
