"""`cdp runs`: the run folders below a folder, how far each has come, and what to do next.

Folders are only read, and only a few fields of `config.json`, so that runs of other versions and
of users' own method files are listed too.
"""

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.datasets import regdb
from pipeline.errors import InputError, in_one_line
from train import run_folder
from train.divergence import COLLAPSED, MENDS
from train.replay import BATCH

State = Literal["finished", "running", "interrupted", "diverged", "collapsed", "damaged"]
DEPTH = 3  # DIR/experiments-DATA/ROW-seed-N, and one more
WRITTEN = (run_folder.CONFIG, run_folder.METRICS, run_folder.RESULT)  # and the checkpoints


@dataclass(frozen=True, slots=True)
class Run:
    """What is known about a run folder; None where nothing is."""

    folder: Path
    state: State
    note: str  # what to do next, or what is wrong
    modified: float  # when training last wrote there, in seconds since 1970
    num_bytes: int  # of all files in the folder
    method: str | None = None
    data: str | None = None
    epochs: int | None = None
    epochs_done: int = 0
    rank1: float | None = None  # percent, of the protocol's first mode
    mAP: float | None = None
    chance_rank1: float | None = None  # of a ranking at random
    protocol: str | None = None
    trials: tuple["Run", ...] = ()  # of a run that is several trainings


def find(folder: Path) -> list[Run]:
    """Returns all runs in and below `folder`; raises `InputError` if there is no such folder.

    The newest come first, but runs that share a folder below `folder` stay together.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    # A link and its target are one run; targets come later in the list and replace links.
    found = {path.resolve(): path for path in _folders(folder, DEPTH)}
    runs = [describe(path) for path in found.values()]
    newest: dict[str, float] = {}
    for run in runs:
        group = group_of(run, folder)
        newest[group] = max(newest.get(group, 0), run.modified)

    def place(run: Run) -> tuple[float, str, float]:
        group = group_of(run, folder)
        return -newest[group], group, -run.modified

    return sorted(runs, key=place)


def group_of(run: Run, folder: Path) -> str:
    """Returns the name of the entry of `folder` that is or holds the run."""
    return next(iter(run.folder.relative_to(folder).parts), "")


def _folders(folder: Path, depth: int) -> list[Path]:
    """Returns run folders, but not those inside others; links come first."""
    if looks_like_a_run(folder):
        return [folder]
    if not depth:
        return []
    try:
        inner = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    except OSError:  # no permission
        return []
    inner.sort(key=lambda path: not path.is_symlink())
    return [found for path in inner for found in _folders(path, depth - 1)]


def looks_like_a_run(folder: Path) -> bool:
    """Returns whether a training has written there, even if files are missing now."""
    return (
        run_folder.is_run(folder)
        or (folder / run_folder.METRICS).is_file()
        or (folder / run_folder.CHECKPOINTS).is_dir()
    )


def describe(folder: Path) -> Run:
    """Describes the run in the folder; raises nothing: a damaged folder is described as such."""
    known: dict[str, Any] = {"modified": _modified(folder), "num_bytes": _num_bytes(folder)}
    try:
        written = _configuration(folder)
        known |= {"method": _method(written), "data": _data(written), "epochs": written["epochs"]}
        if written["data"].get("trial") == "all":
            return _of_trials(folder, known)
        records = run_folder.read_metrics(folder)
        done = max((r["epoch"] for r in records if r["event"] == "epoch"), default=0)
        known["epochs_done"] = done
        result = run_folder.read_result(folder)
        is_finished = _is_final(result) and done >= written["epochs"]
        tests = [record for record in records if record["event"] == "eval"]
        known |= _figures(tests[-1] if tests and not is_finished else result)
        state, note = _state(folder, known["method"], is_finished, done)
    except (InputError, OSError) as error:
        return Run(folder, "damaged", in_one_line(error), **known)
    return Run(folder, state, note, **known)


def _is_final(result: dict[str, Any] | None) -> bool:
    """Whether there is a result, and not of a test before the training's end."""
    return result is not None and run_folder.UNFINISHED not in result


def _state(folder: Path, method: str | None, is_finished: bool, done: int) -> tuple[State, str]:
    if run_folder.is_locked(folder):
        return "running", ""
    if is_finished:
        return "finished", ""
    if method is None:
        return "interrupted", "only the version of cdp that wrote it can resume it"
    if _epoch_in(folder / BATCH) > done:  # otherwise the run was resumed and passed it
        show = _command("train --replay-batch", folder, method)
        return "diverged", f"the loss became NaN or infinite; `{show}` shows the batch"
    if _epoch_in(folder / COLLAPSED) >= max(done, 1):
        return (
            "collapsed",
            f"all features became one point, so figures are chance; train again with {MENDS}",
        )
    return "interrupted", f"resume with `{_command('train --resume', folder, method)}`"


def _command(words: str, folder: Path, method: str | None) -> str:
    """Returns a command for the run, which must name a user's own method file."""
    own = ["--method", method] if method and method.endswith(".py") else []
    return f"cdp {words} {shlex.join([str(folder), *own])}"


def _epoch_in(file: Path) -> int:
    """Returns the epoch named in a file about the end of a run; 0 without the file."""
    if not file.is_file():
        return 0
    try:
        return int(json.loads(file.read_text("utf-8"))["epoch"])
    except Exception as error:
        raise InputError(f"{file}: cannot be read ({in_one_line(error)})") from error


def _of_trials(folder: Path, known: dict[str, Any]) -> Run:
    """Describes a run of several trainings: their epochs together, and their mean result."""
    trials = tuple(describe(path) for path in sorted(folder.glob("trial-*")) if path.is_dir())
    result = run_folder.read_result(folder)
    known |= _figures(result) | {
        "modified": max(known["modified"], *(trial.modified for trial in trials), 0),
        "epochs": regdb.NUM_TRIALS * known["epochs"],
        "epochs_done": sum(trial.epochs_done for trial in trials),
        "trials": trials,
    }
    states = [trial.state for trial in trials]
    num_finished = states.count("finished")
    if "running" in states:
        return Run(folder, "running", "", **known)
    if num_finished == regdb.NUM_TRIALS and known["rank1"] is not None and _is_final(result):
        return Run(folder, "finished", "", **known)
    for trial in trials:
        if trial.state not in ("finished", "interrupted"):
            return Run(folder, trial.state, f"{trial.folder.name}: {trial.note}", **known)
    count = f"{num_finished} of {regdb.NUM_TRIALS} trials are finished"
    again = _command("train --resume", folder, known["method"])
    return Run(folder, "interrupted", f"{count}; resume with `{again}`", **known)


def _configuration(folder: Path) -> dict[str, Any]:
    """Reads `config.json`; raises `InputError` naming the file unless it holds what we need."""
    file = folder / run_folder.CONFIG
    try:
        written = json.loads(file.read_text("utf-8"))
        if type(written["epochs"]) is not int:
            raise ValueError(f"epochs is {written['epochs']!r}")
        _method(written), _data(written)
    except FileNotFoundError:
        raise InputError(f"{file}: is missing") from None
    except KeyError as error:
        raise InputError(f"{file}: not a configuration of a run ({error} is missing)") from None
    except Exception as error:
        raise InputError(f"{file}: not a configuration of a run ({in_one_line(error)})") from error
    return dict(written)


def _method(written: dict[str, Any]) -> str | None:
    """Returns the method's name, for CDP which parts it uses; None if another version wrote it."""
    if "method" not in written:
        return None
    method, spectra = written["method"], written["data"]["spectra"]
    name, is_own = str(method["from"]["name"]), method["from"].get("sha256") is not None
    if is_own:
        return f"{name}.py"
    if name != "base":
        return name.replace("_", "-")
    if not spectra:
        return "baseline"
    return "cdp-dhsm" if method["dhsm"]["enabled"] else "cdp"


def _data(written: dict[str, Any]) -> str:
    root = written["data"]["root"]
    return Path(root).name if root else str(written["data"]["kind"])


def _figures(result: dict[str, Any] | None) -> dict[str, Any]:
    figures = {} if result is None or "test" in result else result  # which `read_result` checked
    return {name: figures.get(name) for name in ("rank1", "mAP", "chance_rank1", "protocol")}


def _modified(folder: Path) -> float:
    checkpoints = folder / run_folder.CHECKPOINTS
    files = [*(folder / name for name in WRITTEN), *_files(checkpoints)]
    return max(filter(None, map(_time, files)), default=_time(folder))


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _num_bytes(folder: Path) -> int:
    total = 0
    for file in _files(folder):
        try:
            total += file.lstat().st_size
        except OSError:  # just removed
            continue
    return total


def _files(folder: Path) -> Iterable[Path]:
    return (Path(at, name) for at, _, names in os.walk(folder) for name in names)
