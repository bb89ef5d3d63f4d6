"""The folder of a run: created once, never overwritten unasked, every file whole or absent."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.datasets.records import Index
from pipeline.errors import InputError
from train import config

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
BAD_IMAGES = "bad_images.tsv"

HALF_WRITTEN = re.compile(r"\.(step-\d+\.safetensors|[a-z_]+\.(jsonl?|tsv))\.\d+")  # see `write`


def check_free(run_dir: Path, overwrite: bool) -> None:
    """Raises `InputError` if `run_dir` holds something that a run must not touch."""
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return
    if not (run_dir / CONFIG).is_file():
        raise InputError(f"--run-dir {run_dir}: exists and is no run folder; choose another")
    if not overwrite:
        raise InputError(
            f"--run-dir {run_dir}: holds a run; choose another folder, or pass --overwrite to "
            "replace that run"
        )


def create(run_dir: Path, config_json: str, overwrite: bool) -> None:
    """Makes the folder with its configuration; with `overwrite` an old run there is removed.

    Raises as `check_free` does.
    """
    check_free(run_dir, overwrite)
    if (run_dir / CONFIG).is_file():
        with lock(run_dir):
            shutil.rmtree(run_dir)
    elif run_dir.exists():
        shutil.rmtree(run_dir)
    (run_dir / CHECKPOINTS).mkdir(parents=True)
    write(run_dir / CONFIG, config_json.encode())


def read_config(run_dir: Path) -> config.Config:
    """The run's configuration; `InputError` if the folder is no run or holds another version's."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise InputError(f"{run_dir}: no run folder ({CONFIG} is missing)")
    return config.from_json(path.read_text(), str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`; it takes that name, whole, if the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Replaces the file atomically: after a crash it holds the old content or the new, whole."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def check_new(file: Path, overwrite: bool) -> None:
    """Raises `InputError` if `file` is there and must not be replaced, or is a folder."""
    if file.is_dir():
        raise InputError(f"--out {file}: is a folder; name a file")
    if file.exists() and not overwrite:
        raise InputError(f"--out {file}: exists; name another, or pass --overwrite to replace it")


def make_parent(file: Path) -> None:
    """Makes the folder that `file` is to be written to; `InputError` if it cannot be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file}: cannot make its folder ({error.strerror})") from error


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes figures as JSON."""
    write(path, (json.dumps(result, indent=2) + "\n").encode())


def metrics_bytes(run_dir: Path) -> int:
    """Length of `metrics.jsonl`."""
    path = run_dir / METRICS
    return path.stat().st_size if path.exists() else 0


def take_back(run_dir: Path, length: int) -> None:
    """Cuts `metrics.jsonl` to what a resumed run keeps; removes half-written files."""
    for file in [*run_dir.iterdir(), *(run_dir / CHECKPOINTS).iterdir()]:
        if HALF_WRITTEN.fullmatch(file.name):
            file.unlink()
    if metrics_bytes(run_dir) > length:
        write(run_dir / METRICS, (run_dir / METRICS).read_bytes()[:length])


def write_bad_images(run_dir: Path, index: Index, bad: dict[int, str]) -> None:
    """Lists the images that were skipped, and why, if there are any."""
    if bad:
        lines = [f"{index.path(row)}\t{reason}\n" for row, reason in sorted(bad.items())]
        write(run_dir / BAD_IMAGES, "".join(lines).encode("utf-8", "surrogateescape"))


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from training in the folder; `InputError` if one does."""
    with (run_dir / CONFIG).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{run_dir}: another process trains in this run folder; wait for it, or choose "
                "another folder"
            ) from None
        yield


def append_metrics(run_dir: Path, record: dict[str, Any]) -> None:
    """Adds one line to `metrics.jsonl`."""
    with (run_dir / METRICS).open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`, without a last line that is still being written.

    Raises `InputError` naming a line that is no record.
    """
    path = run_dir / METRICS
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text().split("\n")[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no JSON ({error})") from error
    return records


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """What `result.json` holds; None while there is none; `InputError` if it is damaged."""
    path = run_dir / RESULT
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path}: is no JSON ({error}); `cdp eval {run_dir}` writes it again"
        ) from error
    return result
