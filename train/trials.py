"""Data sets whose protocol takes several trainings (RegDB: ten): runs all, averages results."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.datasets import regdb
from pipeline.datasets.kinds import KINDS, kind_of, original_kind, read_training
from pipeline.errors import InputError
from pipeline.options import Trial
from train import checkpoint, config, run_folder, schedule, start
from train.config import Device
from train.data import name_of_training, read_test
from train.distributed import find_world
from train.evaluation.options import PLAIN, EvalOptions
from train.evaluation.trained import disclosed_options, evaluate_run
from train.live.display import Display
from train.loop import train
from train.metrics import FIGURES

TRIALS = range(1, regdb.NUM_TRIALS + 1)  # the only protocol of several trainings


def train_trials(
    cfg: config.Config,
    run_dir: Path,
    display: Display,
    overwrite: bool = False,
    first_stage: Path | None = None,
) -> dict[str, Any]:
    """Trains and tests each trial in its own run folder under `run_dir`; returns the summary.

    `first_stage` holds ten runs, each the first stage of a trial, as in `train`. Raises
    `InputError` before touching `run_dir` if the data set has only one training, and as `train`
    does.
    """
    _check_alone()
    if cfg.data.root is None:
        raise InputError("--trial all: needs a folder with RegDB; pass --data.root")
    root, kind = cfg.data.root.absolute(), kind_of(cfg.data.root, cfg.data.kind)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, root=root, kind=kind))
    if KINDS[original_kind(root, kind)].num_trials == 1:
        raise InputError("--trial all: only RegDB's protocol has ten trials; leave --trial out")
    run_folder.check_free(run_dir, overwrite, start.files(cfg))
    for trial in TRIALS:  # find faults of the last trial before nine trainings
        of_trial = _of_trial(cfg, trial)
        read_training(of_trial.data, root)
        protocol = read_test(of_trial, root)
        tested_on = protocol.name if protocol else name_of_training(of_trial.data, root)
        if start.is_file(cfg.method.model):  # weights trained on one trial are invalid for others
            start.find(cfg.method.model, run_dir, False, tested_on)

    def create_folder() -> None:
        run_folder.create(run_dir, config.to_json(cfg), overwrite)

    first = first_stage and folder_of(first_stage, 1)
    of_trial = _of_trial(cfg, 1)
    folder = folder_of(run_dir, 1)
    train(of_trial, folder, display, overwrite, create_folder, first_stage=first)
    return continue_trials(run_dir, display, first_stage=first_stage)


def continue_trials(
    run_dir: Path,
    display: Display,
    device: Device | None = None,
    epochs: int | None = None,
    first_stage: Path | None = None,
) -> dict[str, Any]:
    """Trains the trials of `run_dir` that have no result yet; resumes one that was started.

    `device`, `epochs` and errors as in `resume`; `first_stage` as in `train_trials`.
    """
    _check_alone()
    cfg = _read(run_dir, device)
    if epochs is not None and epochs != cfg.epochs:
        if epochs < cfg.epochs:
            raise InputError(
                f"--epochs {epochs}: the trainings in {run_dir} have {cfg.epochs} epochs and can "
                f"only be extended; pass {cfg.epochs} or more"
            )
        for folder in filter(run_folder.is_run, (folder_of(run_dir, n) for n in TRIALS)):
            schedule.extended(_read(folder, device), checkpoint.epochs_trained(folder), epochs)
        cfg = dataclasses.replace(cfg, epochs=epochs)
        run_folder.set_epochs(run_dir, cfg)
    for trial in TRIALS:
        folder = folder_of(run_dir, trial)
        if not run_folder.is_run(folder):
            first = first_stage and folder_of(first_stage, trial)
            train(_of_trial(cfg, trial), folder, display, first_stage=first)
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
    """Resumes a run of one training or of ten; raises as `train` does.

    `device` moves the run there, possibly from another machine; `epochs` changes the total number.
    """
    cfg = _read(run_dir, device)
    if cfg.data.trial == "all":
        return continue_trials(run_dir, display, device, epochs)
    return train(cfg, run_dir, display, resume=True, epochs=epochs)


def _is_done(folder: Path, cfg: config.Config) -> bool:
    """Whether there is a result for the configured number of epochs."""
    result = run_folder.read_result(folder)
    if result is None or run_folder.UNFINISHED in result:
        return False
    expected = schedule.disclosure(cfg, cfg.epochs).get("training")
    return bool(result.get("training") == expected)


def _read(run_dir: Path, device: Device | None) -> config.Config:
    cfg = run_folder.read_config(run_dir)
    return cfg if device is None else config.on_other_hardware(cfg, device)


def evaluate_trials(
    run_dir: Path,
    display: Display,
    options: EvalOptions = PLAIN,
    device_name: str = "auto",
) -> dict[str, Any]:
    """Evaluates each trial's run like `evaluate_run` and averages; raises as that does."""
    if options.trial is not None:
        raise InputError(
            f"--trial {options.trial}: {run_dir} holds ten runs; evaluate {run_dir}/trial-NN"
        )
    for n in TRIALS:
        evaluate_run(folder_of(run_dir, n), display, options, device_name)
    return summarise(run_dir, display, disclosed_options(run_dir, options))


def summarise(run_dir: Path, display: Display, options: EvalOptions = PLAIN) -> dict[str, Any]:
    """Averages the trials' results into one in `run_dir` and shows it; `options` name the test."""
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
    for entry in (run_folder.UNFINISHED, "collapse"):
        of_trials = zip(TRIALS, results, strict=True)
        told = [f"trial {n}: {r[entry]}" for n, r in of_trials if entry in r]
        if told:
            result[entry] = "; ".join(told)
    run_folder.write_result(run_dir / name, result)
    display.result(result)
    if options != PLAIN:
        display.say(f"result    {run_dir / name}")
    return result


def _check_alone() -> None:
    if find_world().size > 1:
        raise InputError("--trial all: not supported under torchrun; run --trial 1 … 10 one by one")


def folder_of(run_dir: Path, trial: int) -> Path:
    """Returns the run folder of one trial."""
    return run_dir / f"trial-{trial:02d}"


def _of_trial(cfg: config.Config, trial: int) -> config.Config:
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, trial=cast(Trial, trial)))


def _mean(trials: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Returns one mode's mean figures and (population) standard deviation over trainings."""
    figures = (*FIGURES, "chance_rank1")
    return {
        **trials[0],
        "protocol": trials[0]["protocol"].replace(" trial 1", ""),
        **{name: float(np.mean([trial[name] for trial in trials])) for name in figures},
        "std": {name: float(np.std([trial[name] for trial in trials])) for name in FIGURES},
        "num_trials": len(trials),
    }
