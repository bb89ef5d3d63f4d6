"""Packs a data set: writes tar shards that WebDataset can read, and the index for `packed.py`."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from pipeline.datasets import synthetic
from pipeline.datasets.findings import FaultError
from pipeline.datasets.kinds import KINDS, kind_of, read_protocol, read_training
from pipeline.datasets.members import member_name
from pipeline.datasets.packed import ABOUT, FORMAT, array_name, view_name
from pipeline.datasets.records import Index, Protocol
from pipeline.datasets.rules import name_of
from pipeline.datasets.shards import sha256, write_shards
from pipeline.errors import InputError
from pipeline.options import DataOptions, KindName, Trial

T = TypeVar("T")

COLUMNS = ("paths", "pids", "camids", "modality")  # of an Index
COPIED = (synthetic.ABOUT,)  # says that the people are synthetic
# Faults due to missing files or rows: a pack may leave out a view that has one.
ABSENT = ("missing list", "no permutations", "no training", "no test")
READ_AHEAD = 256  # images, by threads that mostly wait for the disk


@dataclass(frozen=True, slots=True)
class Packed:
    """What `pack` wrote."""

    kind: KindName
    num_images: int
    num_shards: int
    num_bytes: int
    left_out: dict[str, str]  # view: why the data set's reader refused it


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """All results of the data set's reader, by the name of the view."""

    training: dict[str, Index]
    protocols: dict[str, Protocol]
    left_out: dict[str, str]

    def indices(self) -> dict[str, Index]:
        """Returns the images of each view."""
        return self.training | {name: p.index for name, p in self.protocols.items()}


def pack(
    root: Path,
    out: Path,
    kind: KindName = "auto",
    shard_mib: int = 256,
    stand_in_galleries: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Packed:
    """Writes the data set at `root` to the new folder `out`, completely or not at all.

    Images are copied byte for byte, once each, in order of path. Raises `InputError` like the data
    set's reader, and if an image cannot be read or `out` cannot be written.
    """
    kind = kind_of(root, kind)
    if kind == "packed":
        raise InputError(f"{root}: is already packed; name the data set that it was made from")
    if shard_mib < 1:
        raise InputError(f"--shard-mib {shard_mib}: must be at least 1")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out {out}: exists; name another folder")
    views = read_views(root, kind, stand_in_galleries)
    indices = views.indices()
    paths, rows = np.unique(
        np.concatenate([index.paths for index in indices.values()]), return_inverse=True
    )
    with _new_folder(out) as folder:
        images = _read_all(next(iter(indices.values())).root, paths)
        written = write_shards(folder, images, len(paths), shard_mib * 2**20, on_progress)
        files = dict(written.files)
        bounds = np.cumsum([0, *map(len, indices.values())])
        for i, (view, index) in enumerate(indices.items()):
            view_rows = rows[bounds[i] : bounds[i + 1]]
            columns = {name: getattr(index, name) for name in COLUMNS}
            columns |= {name: column[view_rows] for name, column in written.columns.items()}
            files |= _write_arrays(folder, view, columns)
        protocols: dict[str, Any] = {}
        for view, protocol in views.protocols.items():
            protocols[view], trials = _trials_of(protocol)
            files |= _write_arrays(folder, view, trials)
        for name in COPIED:
            if (root / name).is_file():
                shutil.copy(root / name, folder / name)
                files[name] = _describe(folder / name)
        about = {
            "format": FORMAT,
            "kind": kind,
            "num_images": len(paths),
            "splits": KINDS[kind].splits,
            "num_trials": KINDS[kind].num_trials,
            "shards": list(written.files),
            "left_out": views.left_out,
            "protocols": protocols,
            "files": files,
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        _sync(folder / ABOUT)
    num_bytes = sum(file["bytes"] for file in files.values())
    return Packed(kind, len(paths), len(written.files), num_bytes, views.left_out)


def read_views(root: Path, kind: KindName, stand_in_galleries: bool) -> Views:
    """Reads every split and trial; leaves out those whose lists are missing, unless all are.

    Raises the reader's `InputError` if there is nothing to train on or to test on, or a fault.
    """
    splits, num_trials = KINDS[kind].splits, KINDS[kind].num_trials
    trials = range(1, num_trials + 1)

    def options(split: str, trial: int) -> DataOptions:
        return DataOptions(
            kind=kind,
            split=cast(Any, split),
            trial=cast(Trial, trial),
            stand_in_galleries=stand_in_galleries,
        )

    training = {
        view_name(split, trial, num_trials): options(split, trial)
        for split, trial in product(splits, trials)
    }
    testing = {view_name("test", t, num_trials): options(splits[-1], t) for t in trials}
    indices, no_training = _read_available(root, training, read_training)
    protocols, no_test = _read_available(root, testing, read_protocol)
    return Views(indices, protocols, no_training | no_test)


def _read_available(
    root: Path, wanted: dict[str, DataOptions], read: Callable[[DataOptions, Path], T]
) -> tuple[dict[str, T], dict[str, str]]:
    """Returns the views that could be read, and the reason for each that could not."""
    found: dict[str, T] = {}
    refused: dict[str, FaultError] = {}
    for view, options in wanted.items():
        try:
            found[view] = read(options, root)
        except FaultError as error:
            if error.kind not in ABSENT:
                raise
            refused[view] = error
    if not found:
        raise next(iter(refused.values()))
    return found, {view: str(error) for view, error in refused.items()}


def _read_all(root: Path, paths: Shaped[ndarray, " n"]) -> Iterator[tuple[str, bytes]]:
    """Yields each image's name in a tar file, and its content."""

    def read(path: bytes) -> tuple[str, bytes]:
        name = os.fsdecode(path)
        try:
            return member_name(name), (root / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"{root / name}: cannot be read ({error.strerror}); restore it or take it out of "
                "the data set"
            ) from error

    with ThreadPoolExecutor(16) as readers:
        for first in range(0, len(paths), READ_AHEAD):
            yield from readers.map(read, paths[first : first + READ_AHEAD].tolist())


def _write_arrays(folder: Path, view: str, arrays: dict[str, ndarray]) -> dict[str, dict[str, Any]]:
    """Writes a view's arrays; returns the entries of their files in pack.json."""
    files = {}
    for name, array in arrays.items():
        file = folder / array_name(view, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
        files[array_name(view, name)] = _describe(file)
    return files


def _trials_of(protocol: Protocol) -> tuple[dict[str, Any], dict[str, ndarray]]:
    """Returns a protocol's entry in pack.json, and the rows of its queries and galleries.

    Parts that trials share are written once: a trial is a pair of part numbers, and part i is
    rows[bounds[i] : bounds[i + 1]].
    """
    numbers: dict[int, int] = {}
    parts: list[ndarray] = []

    def number(part: ndarray) -> int:
        if id(part) not in numbers:
            numbers[id(part)] = len(parts)
            parts.append(part)
        return numbers[id(part)]

    modes = [
        {"name": m.name, "trials": [[number(t.query), number(t.gallery)] for t in m.trials]}
        for m in protocol.modes
    ]
    rule = name_of(protocol.rule)
    about = {"name": protocol.name, "rule": rule, "remark": protocol.remark, "modes": modes}
    bounds = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return about, {"rows": np.concatenate(parts), "bounds": bounds}


def _describe(file: Path) -> dict[str, Any]:
    """Flushes a file to disk; returns its size and SHA-256."""
    _sync(file)
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `out`, and renames it to `out` if the block succeeds.

    Raises `InputError` if it cannot be written, and then leaves nothing behind.
    """
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be written ({error.strerror}), and nothing is left of it; "
            "free some space, or name another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
