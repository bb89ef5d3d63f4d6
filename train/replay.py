"""The batch at which a loss was no number: its place is kept, and it can be looked at again."""

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

PLACE = "not_finite.json"
PICTURE = "not_finite.png"


def keep(
    run_dir: Path, at: Progress, step: int, loader: TrainingLoader, p_hat: Float64[ndarray, " s"]
) -> None:
    """Writes where the batch of `step`, from 1, of the running epoch came from."""
    index, rows = loader.plan.index, loader.plan.rows_of_all(step - 1)
    place = {
        "epoch": at.epoch,
        "step": step,
        "probability": p_hat.tolist(),
        "bad": sorted(at.bad.items()),
        "files": [str(index.path(row)) for row in rows],
    }
    run_folder.write_result(run_dir / PLACE, place)


def _read(file: Path) -> dict[str, Any]:
    try:
        place = json.loads(file.read_text("utf-8"))
        epoch, step, probability = place["epoch"] + 0, place["step"] + 0, place["probability"]
        files, bad = list(place["files"]), [(int(row), str(why)) for row, why in place["bad"]]
    except Exception as error:
        raise InputError(f"{file}: is no batch to replay ({in_one_line(error)})") from error
    return {"epoch": epoch, "step": step, "probability": probability, "files": files, "bad": bad}


def show(run_dir: Path, display: Display) -> Path:
    """Makes that batch again, draws it, and lists its files; returns the picture's file.

    Raises `InputError` if no batch was kept, or its data set is no longer what it was.
    """
    run_folder.read_config(run_dir)
    places = (*run_dir.glob(PLACE), *run_dir.glob(f"trial-*/{PLACE}"))  # of ten, that which stopped
    file = next(iter(places), None)
    if file is None:
        raise InputError(f"{run_dir}: no loss of this run was NaN or infinite; nothing to replay")
    run_dir = file.parent
    cfg = run_folder.read_config(run_dir)
    place = _read(file)
    assert cfg.data.root, "a run's configuration is resolved"
    index = read_training(cfg.data, cfg.data.root)
    # The run's cache may lie on a GPU that is not here; batches do not depend on it.
    options = dataclasses.replace(cfg.data, cache="none")
    augmenting = partial(augment, cfg.method)
    loader = TrainingLoader(index, options, torch.device("cpu"), cfg.seed, augment=augmenting)
    loader.plan.bad = dict(place["bad"])
    batches = loader.epoch(place["epoch"], np.array(place["probability"]), place["step"] - 1)
    batch = next(iter(batches))
    files = [str(index.path(row)) for row in batch.rows]
    if files != place["files"]:
        raise InputError(f"{cfg.data.root}: is no longer the data set of this run; cannot replay")
    names = dict(enumerate(cfg.data.spectra))
    without = "jitter" if cfg.data.spectra else "-"
    for path, code in zip(files, batch.spectrum.tolist(), strict=True):
        display.say(f"{names.get(code, without):>6}  {path}")
    p, k, views = cfg.data.p, cfg.data.k, num_views(cfg.data)
    pids = batch.pids.numpy()
    # A row an identity, its RGB images first.
    order = np.arange(p * k) if cfg.data.sampling == "shuffle" else np.argsort(pids, kind="stable")
    pairs = batch.images.numpy()[order]
    columns = [pairs[i::k, j] for i in range(k) for j in range(views)]
    pids = loader.plan.pids[pids[order][::k]]
    file = run_dir / PICTURE
    preview.sheet(columns, ["original", "counterpart"][:views] * k, pids).save(file)
    display.say(f"epoch {place['epoch']}, step {place['step']}: {views * p * k} images: {file}")
    return file
