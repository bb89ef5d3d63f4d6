"""A data set whose protocol is several trainings (RegDB: ten): all of them, and their mean."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.datasets import regdb
from pipeline.datasets.kinds import KINDS, kind_of, original_kind, read_training
from pipeline.errors import InputError
from pipeline.options import Trial
from train import config, run_folder, schedule, start
from train.config import Device
from train.data import name_of_training, read_test
from train.distributed import find_world
from train.evaluation.options import PLAIN, EvalOptions
from train.evaluation.trained import evaluate_run, options_for
from train.live.display import Display
from train.loop import train
from train.metrics import FIGURES

TRIALS = range(1, regdb.NUM_TRIALS + 1)  # the only protocol of several trainings


def train_trials(
    cfg: config.Config, run_dir: Path, display: Display, overwrite: bool = False
) -> dict[str, Any]:
    """Trains and tests each trial in a run folder of its own under `run_dir`; returns the summary.

    Raises `InputError` before `run_dir` is touched if the data set has one training only, and as
    `train` does.
    """
    _check_alone()
    if cfg.data.root is None:
        raise InputError("--trial all: needs a folder of RegDB; pass --data.root")
    root, kind = cfg.data.root.absolute(), kind_of(cfg.data.root, cfg.data.kind)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, root=root, kind=kind))
    if KINDS[original_kind(root, kind)].num_trials == 1:
        raise InputError("--trial all: only RegDB's protocol is ten trainings; leave --trial out")
    run_folder.check_free(run_dir, overwrite)
    for trial in TRIALS:  # a fault of the last one must not wait for nine trainings
        of_trial = _of_trial(cfg, trial)
        read_training(of_trial.data, root)
        protocol = read_test(of_trial, root)
        tested_on = protocol.name if protocol else name_of_training(of_trial.data, root)
        if start.is_file(cfg.method.model):  # weights that saw one trial do for no other
            start.find(cfg.method.model, run_dir, False, tested_on)

    def begin() -> None:
        run_folder.create(run_dir, config.to_json(cfg), overwrite)

    train(_of_trial(cfg, 1), folder_of(run_dir, 1), display, overwrite, begin)
    return continue_trials(run_dir, display)


def continue_trials(
    run_dir: Path, display: Display, device: Device | None = None, epochs: int | None = None
) -> dict[str, Any]:
    """Trains the trials of `run_dir` that have no result yet; one that had begun goes on.

    `device`, `epochs` and errors as in `resume`.
    """
    _check_alone()
    cfg = _read(run_dir, device)
    if epochs is not None and epochs != cfg.epochs:
        if epochs < cfg.epochs:
            raise InputError(
                f"--epochs {epochs}: {run_dir} holds trainings of {cfg.epochs}, which can only be "
                "made longer"
            )
        cfg = dataclasses.replace(cfg, epochs=epochs)
        run_folder.set_epochs(run_dir, cfg)
    for trial in TRIALS:
        folder = folder_of(run_dir, trial)
        if not run_folder.is_run(folder):
            train(_of_trial(cfg, trial), folder, display)
            continue
        of_trial = _read(folder, device)
        if of_trial.epochs == cfg.epochs and _is_done(folder, of_trial):
            display.say(f"trial {trial} is done: {folder}")
        else:
            train(of_trial, folder, display, resume=True, epochs=cfg.epochs)
    return summarise(run_dir, display)


def resume(
    run_dir: Path, display: Display, device: Device | None = None, epochs: int | None = None
) -> dict[str, Any]:
    """Goes on with a run, of one training or of ten; raises as `train` does.

    With a `device` the run goes on there, and may come from another machine; with `epochs` it is
    trained for that many.
    """
    cfg = _read(run_dir, device)
    if cfg.data.trial == "all":
        return continue_trials(run_dir, display, device, epochs)
    return train(cfg, run_dir, display, resume=True, epochs=epochs)


def _is_done(folder: Path, cfg: config.Config) -> bool:
    """Is there a result, of a run as long as the configuration says?"""
    result = run_folder.read_result(folder)
    said = schedule.said(cfg, cfg.epochs).get("training")
    return result is not None and result.get("training") == said


def _read(run_dir: Path, device: Device | None) -> config.Config:
    cfg = run_folder.read_config(run_dir)
    return cfg if device is None else config.on_other_hardware(cfg, device)


def evaluate_trials(
    run_dir: Path,
    display: Display,
    data_root: Path | None = None,
    trial: Trial | None = None,
    device_name: str = "auto",
    options: EvalOptions = PLAIN,
) -> dict[str, Any]:
    """Evaluates each trial's run as `evaluate_run` does, and averages; raises as that does."""
    if trial is not None:
        raise InputError(f"--trial {trial}: {run_dir} holds ten; evaluate {run_dir}/trial-NN")
    for n in TRIALS:
        evaluate_run(folder_of(run_dir, n), display, data_root, None, device_name, options)
    return summarise(run_dir, display, options_for(run_dir, options, data_root))


def summarise(run_dir: Path, display: Display, options: EvalOptions = PLAIN) -> dict[str, Any]:
    """Averages the trials' results of such a test into that of `run_dir`, and shows it."""
    name = options.file_name()
    files = [folder_of(run_dir, n) / name for n in TRIALS]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{missing[0]}: missing; `cdp train --resume {run_dir}` trains the trials that have "
            "no result yet"
        )
    results = [run_folder.read_result(file.parent, name) or {} for file in files]
    untested = [result for result in results if "modes" not in result]
    if untested:
        result = untested[0]
    else:
        of_modes = zip(*(r["modes"] for r in results), strict=False)
        modes = [_mean(of_trials) for of_trials in of_modes]
        result = modes[0] | {"modes": modes}
    trainings = sorted({r["training"] for r in results if "training" in r})
    if trainings:
        result["training"] = "; ".join(trainings)
    lost = [
        f"trial {n}: {r['collapse']}"
        for n, r in zip(TRIALS, results, strict=True)
        if "collapse" in r
    ]
    if lost:
        result["collapse"] = "; ".join(lost)
    run_folder.write_result(run_dir / name, result)
    display.result(result)
    if options != PLAIN:
        display.say(f"result    {run_dir / name}")
    return result


def _check_alone() -> None:
    if find_world().size > 1:
        raise InputError("--trial all: not under torchrun; start --trial 1 … 10 one by one")


def folder_of(run_dir: Path, trial: int) -> Path:
    """The run folder of one trial."""
    return run_dir / f"trial-{trial:02d}"


def _of_trial(cfg: config.Config, trial: int) -> config.Config:
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, trial=cast(Trial, trial)))


def _mean(trials: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """One mode's figures over trainings: mean, and standard deviation (of the population)."""
    figures = (*FIGURES, "chance_rank1")
    return {
        **trials[0],
        "protocol": trials[0]["protocol"].replace(" trial 1", ""),
        **{name: float(np.mean([trial[name] for trial in trials])) for name in figures},
        "std": {name: float(np.std([trial[name] for trial in trials])) for name in FIGURES},
        "num_trials": len(trials),
    }
