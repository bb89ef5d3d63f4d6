"""A run's folder: never overwritten unless asked to, and every file is written atomically."""

import dataclasses
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from pipeline.datasets.records import Index
from pipeline.errors import InputError, in_one_line, naming
from train import config
from train.evaluation.options import disclosed
from train.metrics import FIGURES

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
OTHER_RESULT = re.compile(r"result(-on-[\w-]+)?(-flip-test)?(-re-rank)?\.json")
CHECKPOINTS = "checkpoints"
UNFINISHED = "unfinished"  # an entry of a result whose run has not trained to its end
REMARKS = ("remark", UNFINISHED, "collapse")  # entries of a result that go with its figures
BAD_IMAGES = "bad_images.tsv"
METHOD = "method.py"  # a copy that is never executed
PATIENCE_S = 0.2  # before a second try to lock a folder

HALF_WRITTEN = re.compile(r"\.(step-\d+\.safetensors|[\w-]+\.(jsonl?|tsv|py))\.\d+")  # see `write`


def is_run(run_dir: Path) -> bool:
    """Whether the folder holds a run that can be resumed."""
    return (run_dir / CONFIG).is_file()


def check_free(run_dir: Path, overwrite: bool, needed: Sequence[Path] = ()) -> None:
    """Raises `InputError` if `run_dir` holds something that must not be overwritten.

    That includes the files and folders that the new run `needed`.
    """
    check_name(run_dir)
    if not run_dir.exists() or (run_dir.is_dir() and _never_begun(run_dir)):
        return
    if not is_run(run_dir):
        raise InputError(f"--run-dir {run_dir}: exists and is not a run folder; choose another")
    if not _is_config((run_dir / CONFIG).read_bytes()):
        raise InputError(
            f"--run-dir {run_dir}: its {CONFIG} is not that of a run; choose another folder, or "
            "remove this one yourself"
        )
    if not overwrite:
        raise InputError(
            f"--run-dir {run_dir}: holds a run; choose another folder, or pass --overwrite to "
            "replace it"
        )
    for path in needed:
        if path.resolve().is_relative_to(run_dir.resolve()):
            raise InputError(
                f"--run-dir {run_dir}: --overwrite would delete {path}, which the new run needs; "
                "choose another folder"
            )


def check_name(run_dir: Path) -> None:
    """Raises `InputError` if safetensors could not read files there."""
    try:
        str(run_dir).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{run_dir}: the name of a run folder must be UTF-8, for safetensors; rename the folder"
        ) from None


def _is_config(content: bytes) -> bool:
    """Whether this is a run's configuration, of any version, and not another program's file."""
    try:
        written = json.loads(content)
        return bool({"data", "epochs", "seed"} <= written.keys())
    except Exception:  # not UTF-8, not JSON, nested too deeply, not an object
        return False


def _never_begun(run_dir: Path) -> bool:
    """Whether the folder holds nothing, or only what a killed `create` leaves behind."""
    for path in run_dir.iterdir():
        empty = path.name == CHECKPOINTS and path.is_dir() and not any(path.iterdir())
        if not (empty or HALF_WRITTEN.fullmatch(path.name)):
            return False
    return True


def create(
    run_dir: Path, config_json: str, overwrite: bool, method_source: bytes | None = None
) -> None:
    """Creates the folder with its configuration; `overwrite` removes an old run.

    Keeps `method_source`, the user's own method file, for the record; it is never executed. Raises
    as `check_free` does.
    """
    check_free(run_dir, overwrite)
    run_dir = run_dir.resolve()  # it may be a link, even to a folder that does not exist yet
    if is_run(run_dir):
        with lock(run_dir):
            _empty(run_dir)
    elif run_dir.exists():
        _empty(run_dir)
    (run_dir / CHECKPOINTS).mkdir(parents=True)
    if method_source is not None:
        write(run_dir / METHOD, method_source)
    write(run_dir / CONFIG, config_json.encode())


def _empty(folder: Path) -> None:
    """Removes what is in the folder, and last what makes it a run."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_config(run_dir: Path) -> config.Config:
    """Reads a run's configuration; `InputError` if it is missing or of another version."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise InputError(f"{run_dir}: is not a run folder ({CONFIG} is missing)")
    return config.from_json(_read(path), str(path))


def set_epochs(run_dir: Path, cfg: config.Config) -> None:
    """Updates the number of epochs and their history in the run's configuration from `cfg`."""
    saved = read_config(run_dir)
    saved = dataclasses.replace(saved, epochs=cfg.epochs, history=cfg.history)
    write(run_dir / CONFIG, config.to_json(saved).encode())


def _read(path: Path, fix: str = "") -> str:
    """Reads a text file; raises `InputError` naming it if it cannot be read or is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({in_one_line(error)}){fix}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path` and renames it to `path` if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path, temporary):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # of a read-only file system; the first error says more
            temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Replaces the file atomically: after a crash it holds either the old or the new content."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def check_new(file: Path, overwrite: bool) -> None:
    """Raises `InputError` if `file` is a folder, or exists without `overwrite`."""
    if file.is_dir():
        raise InputError(f"--out {file}: is a folder; name a file")
    if file.exists() and not overwrite:
        raise InputError(f"--out {file}: exists; name another, or pass --overwrite to replace it")


def make_parent(file: Path) -> None:
    """Creates the parent folder of `file`; raises `InputError` if that fails."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file}: cannot create its folder ({error.strerror})") from error


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes a result as indented JSON."""
    write(path, (json.dumps(result, indent=2) + "\n").encode())


def tested_early(epoch: int, epochs: int) -> dict[str, str]:
    """Returns the entry of a result that discloses that its run trains on."""
    return {UNFINISHED: f"tested before the training ended, in epoch {epoch} of {epochs}"}


def disclose_extension(run_dir: Path, epoch: int, epochs: int) -> None:
    """Makes `result.json`, if there is one, say that the run now trains on to `epochs`."""
    result = read_result(run_dir)
    if result is not None:
        write_result(run_dir / RESULT, result | tested_early(epoch, epochs))


def metrics_bytes(run_dir: Path) -> int:
    """Returns the size of `metrics.jsonl` in bytes."""
    path = run_dir / METRICS
    return path.stat().st_size if path.exists() else 0


def roll_back(run_dir: Path, length: int) -> bool:
    """Truncates `metrics.jsonl` to `length` bytes for a resume; removes half-written files.

    Returns whether the file was shorter, so that records are missing; it then ends with a whole
    one.
    """
    (run_dir / CHECKPOINTS).mkdir(exist_ok=True)
    for file in [*run_dir.iterdir(), *(run_dir / CHECKPOINTS).iterdir()]:
        if HALF_WRITTEN.fullmatch(file.name):
            file.unlink()
    before = metrics_bytes(run_dir)
    if before and before != length:
        kept = (run_dir / METRICS).read_bytes()[:length]
        write(run_dir / METRICS, kept[: kept.rfind(b"\n") + 1])
    return before < length


def write_bad_images(run_dir: Path, index: Index, bad: dict[int, str]) -> None:
    """Writes the list of skipped images, with reasons, if there are any."""
    if bad:
        lines = [f"{index.path(row)}\t{reason}\n" for row, reason in sorted(bad.items())]
        write(run_dir / BAD_IMAGES, "".join(lines).encode("utf-8", "surrogateescape"))


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Locks the folder for training; raises `InputError` if another process has locked it."""
    with (run_dir / CONFIG).open() as file:
        if not (_locked(file, fcntl.LOCK_EX) or _locked(file, fcntl.LOCK_EX, PATIENCE_S)):
            raise InputError(
                f"{run_dir}: another process trains in this run folder; wait for it to finish, or "
                "choose another folder"
            )
        yield


def is_locked(run_dir: Path) -> bool:
    """Does a process train in the folder? Holds its lock for a moment, which `lock` sits out."""
    with (run_dir / CONFIG).open() as file:
        return not _locked(file, fcntl.LOCK_SH)


def _locked(file: TextIO, kind: int, after_s: float = 0) -> bool:
    """Tries to lock the file; closing it unlocks it."""
    time.sleep(after_s)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def append_metrics(run_dir: Path, record: dict[str, Any]) -> None:
    """Appends one line to `metrics.jsonl`."""
    path = run_dir / METRICS
    with naming(path), path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())  # later checkpoints count on it


def copy_metrics(source: Path, run_dir: Path, length: int) -> None:
    """Makes the first `length` bytes of the `metrics.jsonl` in `source` those in `run_dir`."""
    write(run_dir / METRICS, (source / METRICS).read_bytes()[:length])


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the records of `metrics.jsonl`, except an incomplete last line.

    Raises `InputError` naming an invalid line.
    """
    path = run_dir / METRICS
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(_read(path).split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            _check_record(record)
        except Exception as error:
            raise InputError(
                f"{path}: line {number} is not a valid record ({in_one_line(error)})"
            ) from error
        records.append(record)
    return records


def epochs_recorded(run_dir: Path) -> int | None:
    """Returns the last epoch in `metrics.jsonl`, 0 if it has none; None if there is no such file.

    Raises `InputError` as `read_metrics` does.
    """
    if not (run_dir / METRICS).exists():
        return None
    return max((r["epoch"] for r in read_metrics(run_dir) if r["event"] == "epoch"), default=0)


def read_result(run_dir: Path, name: str = RESULT) -> dict[str, Any] | None:
    """Returns the content of `result.json`, or None if missing; `InputError` if damaged.

    `name` may be the result file of a test with other options. Also raises if `result.json` holds
    figures of such a test, as tables use it for the plain test. A run without a test has a result
    without figures: `{"test": null, …}`.
    """
    path = run_dir / name
    if not path.exists():
        return None
    fix = f"; `cdp eval {run_dir}` writes it again" if name == RESULT else "; remove it"
    try:
        result = json.loads(_read(path, fix))
        if (made_with := disclosed(result)) and name == RESULT:
            raise InputError(
                f"{path}: holds figures of another test, {', '.join(made_with)}, not of the plain "
                f"one{fix}"
            )
        if "test" not in result:
            for figures in (result, *result["modes"]):
                _check_figures(figures)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: is not a valid result ({in_one_line(error)}){fix}") from error
    return cast(dict[str, Any], result)


def other_results(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Returns results of tests with other options, by file name; raises as `read_result` does."""
    paths = run_dir.glob("result-*.json")
    names = sorted(path.name for path in paths if OTHER_RESULT.fullmatch(path.name))
    results = {name: read_result(run_dir, name) for name in names}
    return {name: result for name, result in results.items() if result and disclosed(result)}


def check_same_data(path: Path, data: Path | None) -> None:
    """Raises `InputError` if `path` holds figures of a data set other than `data`."""
    existing = read_result(path.parent, path.name) if data else None
    if existing and existing.get("data") != str(data):
        raise InputError(
            f"{path}: holds figures of {existing.get('data')} and would be overwritten with those "
            f"of {data}; move it away first"
        )


EPOCH_NUMBERS = (
    *("epoch", "step", "loss", "lr", "images_per_second", "data_wait", "seconds"),
    "num_bad_images",
)


def _check_record(record: dict[str, Any]) -> None:
    """Raises if a record of `metrics.jsonl` lacks a required field."""
    if not isinstance(record, dict):
        raise ValueError(f"it is {str(record)[:40]}")
    match record.get("event"):
        case "epoch":
            _check_numbers(record, EPOCH_NUMBERS)
            for name in ("confidence", "probability"):
                _check_numbers(record[name], record["probability"])
        case "eval":
            _check_numbers(record, ("epoch",))
            _check_figures(record)
        case event:
            raise ValueError(f"event is {event!r}")


def _check_figures(figures: dict[str, Any]) -> None:
    """Raises if a mode of a result lacks a required field."""
    _check_numbers(figures, (*FIGURES, "chance_rank1", "num_trials", "num_query", "num_gallery"))
    _check_numbers(figures["std"], FIGURES)
    for name in ("protocol", "distance"):
        if not isinstance(figures[name], str):
            raise ValueError(f"{name} is {figures[name]!r}")


def _check_numbers(record: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if type(record.get(name)) not in (int, float):
            raise ValueError(f"{name} is {record.get(name)!r}")
