"""Records the batch at which the loss became NaN or infinite, and makes it again for inspection."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from pipeline import preview
from pipeline.datasets.kinds import read_training
from pipeline.errors import InputError, in_one_line
from pipeline.loader import TrainingLoader
from pipeline.options import num_views
from train import run_folder
from train.checkpoint import Progress
from train.live.display import Display
from train.methods.base import augment

BATCH = "not_finite.json"
PICTURE = "not_finite.png"


def save(
    run_dir: Path,
    progress: Progress,
    step: int,
    loader: TrainingLoader,
    p_hat: Float64[ndarray, " s"],
) -> None:
    """Writes what it takes to make the batch of `step`, from 1, of the current epoch again."""
    index, rows = loader.plan.index, loader.plan.rows_of_all(step - 1)
    about = {
        "epoch": progress.epoch,
        "step": step,
        "probability": p_hat.tolist(),
        "bad": sorted(progress.bad.items()),
        "files": [str(index.path(row)) for row in rows],
    }
    run_folder.write_result(run_dir / BATCH, about)


def _read(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text("utf-8"))
        epoch, step, probability = about["epoch"] + 0, about["step"] + 0, about["probability"]
        files, bad = list(about["files"]), [(int(row), str(why)) for row, why in about["bad"]]
    except Exception as error:
        raise InputError(
            f"{file}: does not describe a batch to replay ({in_one_line(error)})"
        ) from error
    return {"epoch": epoch, "step": step, "probability": probability, "files": files, "bad": bad}


def show(run_dir: Path, display: Display) -> Path:
    """Makes the recorded batch again, draws it and lists its files; returns the picture's path.

    Raises `InputError` if no batch was recorded or the data set has changed.
    """
    run_folder.read_config(run_dir)
    candidates = (*run_dir.glob(BATCH), *run_dir.glob(f"trial-*/{BATCH}"))
    file = next(iter(candidates), None)
    if file is None:
        raise InputError(f"{run_dir}: no loss of this run was NaN or infinite; nothing to replay")
    run_dir = file.parent
    cfg = run_folder.read_config(run_dir)
    recorded = _read(file)
    assert cfg.data.root, "a run's configuration is resolved"
    index = read_training(cfg.data, cfg.data.root)
    # The run may have cached pixels on a GPU that is missing here; batches do not depend on it.
    options = dataclasses.replace(cfg.data, cache="none")
    augmenting = partial(augment, cfg.method)
    loader = TrainingLoader(index, options, torch.device("cpu"), cfg.seed, augment=augmenting)
    loader.plan.bad = dict(recorded["bad"])
    p_hat = np.array(recorded["probability"])
    batches = loader.epoch(recorded["epoch"], p_hat, recorded["step"] - 1)
    batch = next(iter(batches))
    files = [str(index.path(row)) for row in batch.rows]
    if files != recorded["files"]:
        raise InputError(
            f"{cfg.data.root}: has changed since this run; the batch cannot be replayed"
        )
    names = dict(enumerate(cfg.data.spectra))
    without = "jitter" if cfg.data.spectra and cfg.data.jitter else "-"
    for path, code in zip(files, batch.spectrum.tolist(), strict=True):
        display.say(f"{names.get(code, without):>6}  {path}")
    p, k, views = cfg.data.p, cfg.data.k, num_views(cfg.data)
    pids = batch.pids.numpy()
    # One identity per row, its RGB images first.
    order = np.arange(p * k) if cfg.data.sampling == "shuffle" else np.argsort(pids, kind="stable")
    pairs = batch.images.numpy()[order]
    columns = [pairs[i::k, j] for i in range(k) for j in range(views)]
    pids = loader.plan.pids[pids[order][::k]]
    file = run_dir / PICTURE
    preview.sheet(columns, ["original", "counterpart"][:views] * k, pids).save(file)
    epoch, step = recorded["epoch"], recorded["step"]
    display.say(f"epoch {epoch}, step {step}: {views * p * k} images: {file}")
    return file
