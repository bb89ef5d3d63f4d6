"""A packed data set: its images in uncompressed tar files, and what its reader said about them.

    pack.json           kind, shards, protocols, and the size and SHA-256 of every other file
    shard-000000.tar …  the images, byte for byte, under their paths in the data set
    index/VIEW/*.npy    the columns of an `Index`, and where each image is; one row per image

A view is one result of a reader: `train`, `train+val`, `test`; in RegDB `train+val-01` … `test-10`.
Columns are mapped into memory, so only what is used is read, and no row becomes a Python object.
"""

import json
import os
import tarfile
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.datasets.findings import Findings
from pipeline.datasets.layout import Kind
from pipeline.datasets.lists import find_leaks, find_missing_modality, reading
from pipeline.datasets.members import Members, map_files, member_name
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial
from pipeline.datasets.rules import RULES
from pipeline.datasets.shards import sha256
from pipeline.errors import InputError
from pipeline.options import DataOptions, KindName

FORMAT = "cdp-reid pack 1"
ABOUT = "pack.json"
REMEDY = "copy the pack again, or pack the data set again"

KEYS = ("kind", "splits", "num_trials", "shards", "left_out", "protocols", "files", "num_images")

About = dict[str, Any]  # what pack.json holds


def is_pack(root: Path) -> bool:
    """Is there a packed data set at `root`? A half-written one does not count."""
    return (root / ABOUT).is_file()


def read_kind(root: Path) -> KindName:
    """Returns the kind of the data set that was packed."""
    return cast(KindName, read_about(root)["kind"])


def read_training(root: Path, options: DataOptions, found: Findings) -> Index:
    """Returns the training images that the data set's own reader gave.

    Raises `InputError` if that reader failed, or if a file of the pack is incomplete.
    """
    assert options.trial != "all"
    about = _open(root)
    part = options.split if options.split in about["splits"] else about["splits"][-1]
    return read_index(root, about, view_name(part, options.trial, about["num_trials"]))


def read_protocol(root: Path, options: DataOptions, found: Findings) -> Protocol:
    """Returns the data set's own protocol; raises like `read_training` does."""
    assert options.trial != "all"
    about = _open(root)
    view = view_name("test", options.trial, about["num_trials"])
    index = read_index(root, about, view)
    rows, bounds = (load_array(root, view, name) for name in ("rows", "bounds"))

    def part(number: int) -> np.ndarray:
        return rows[bounds[number] : bounds[number + 1]]

    entry = about["protocols"][view]
    modes = tuple(
        Mode(mode["name"], tuple(Trial(part(q), part(g)) for q, g in mode["trials"]))
        for mode in entry["modes"]
    )
    rule = RULES[entry["rule"]]
    return Protocol(entry["name"], index, modes, rule, entry["remark"])


def _open(root: Path) -> About:
    about = read_about(root)
    check_sizes(root, about["files"])
    return about


def read_about(root: Path) -> About:
    """Returns the content of pack.json; raises `InputError` if damaged or of another version."""
    file = root / ABOUT
    try:
        about = json.loads(file.read_text())
        written_as = about["format"]
    except Exception as error:
        raise InputError(
            f"{file}: is not the index of a packed data set ({error}); {REMEDY}"
        ) from error
    if written_as != FORMAT:
        raise InputError(f"{file}: is {written_as!r}, not {FORMAT!r}; pack the data set again")
    for name in KEYS:
        if name not in about:
            raise InputError(f"{file}: lacks {name!r}; {REMEDY}")
    return cast(About, about)


def check_sizes(root: Path, files: dict[str, dict[str, Any]]) -> None:
    """Raises `InputError` naming a file of the pack that is missing or has the wrong size."""
    for name, expected in files.items():
        file = root / name
        if not file.is_file():
            raise InputError(f"{file}: missing; {REMEDY}")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise InputError(
                f"{file}: has {size} bytes, but {ABOUT} says {expected['bytes']}; {REMEDY}"
            )


def read_index(root: Path, about: About, view: str) -> Index:
    """Returns the images of a view, their bytes mapped into memory."""
    if view in about["left_out"]:
        raise InputError(f"{root}: was packed without {view}: {about['left_out'][view]}")

    def column(name: str) -> np.ndarray:
        return load_array(root, view, name)

    files = tuple(root / name for name in about["shards"])
    where = (column("shard"), column("offset"), column("length"))
    members = Members(files, map_files(files), *where)
    about_images = (column("paths"), column("pids"), column("camids"), column("modality"))
    return Index(root, *about_images, members)


def view_name(part: str, trial: int, num_trials: int) -> str:
    """Returns the name of the view of a part (a split, or test) and trial."""
    return f"{part}-{trial:02d}" if num_trials > 1 else part


def array_name(view: str, name: str) -> str:
    """Returns the path of a view's array, relative to the pack."""
    return f"index/{view}/{name}.npy"


def load_array(root: Path, view: str, name: str) -> np.ndarray:
    """Maps a view's array into memory; changes to it are not written to the file."""
    file = root / array_name(view, name)
    try:
        return np.asarray(np.load(file, mmap_mode="c"))
    except Exception as error:
        raise InputError(f"{file}: cannot be read ({error}); {REMEDY}") from error


Found = dict[tuple[str, str], tuple[int, int]]  # (shard, name): offset, length in tar headers


def survey(root: Path, options: DataOptions, found: Findings) -> None:
    """Checks every file's checksum, every tar header, and the identities of each view."""
    about = read_about(root)
    for name, expected in about["files"].items():
        with found.recording("damaged pack", root / name):
            check_sizes(root, {name: expected})
            if sha256(root / name) != expected["sha256"]:
                raise InputError(f"{root / name}: differs from its SHA-256 in {ABOUT}; {REMEDY}")
    if found.faults:
        return  # the pack's index cannot be trusted
    headers: Found = {}
    for name in about["shards"]:
        with reading(root / name), tarfile.open(root / name, "r:") as shard:
            headers |= {(name, m.name): (m.offset_data, m.size) for m in shard}
    views = [view for view in _views(about) if view not in about["left_out"]]
    indices = {view: read_index(root, about, view) for view in views}
    for view, index in indices.items():
        _compare(found, view, index, headers)
    _count(found, about, indices)


def _views(about: About) -> list[str]:
    """Returns the names of the views, sorted."""
    names = {name.split("/")[1] for name in about["files"] if name.startswith("index/")}
    return sorted(names | set(about["left_out"]))


def _compare(found: Findings, view: str, index: Index, headers: Found) -> None:
    """Records rows that contradict the tar headers, and the images to decode."""
    members = index.members
    assert members
    for row, path in enumerate(index.paths):
        key = members.files[members.shard[row]].name, member_name(os.fsdecode(bytes(path)))
        name = ":".join(key)
        if headers.get(key) != (members.offset[row], members.length[row]):
            text = f"{view}: the index and the tar file disagree about its position; {REMEDY}"
            found.fault("bad index", name, text)
            continue
        found.files.add(name)
        found.contents[name] = members.content(row)


def _count(found: Findings, about: About, indices: dict[str, Index]) -> None:
    """Counts each view's images; records identities of one modality, or in training and test."""
    for view, index in indices.items():
        rgb = int((index.modality == Modality.RGB).sum())
        counts = {f"RGB images, {view}": rgb, f"infrared images, {view}": len(index) - rgb}
        found.count(counts, {})
        if not view.startswith("test"):
            where = f"index/{view}, identity {{}}"
            find_missing_modality(found, index, where, is_fault=True)
            test = indices.get(view.replace(view.partition("-")[0], "test", 1))
            # LLCM's training lists have their own numbering of identities.
            if test is not None and about["kind"] != "llcm":
                find_leaks(found, index.pids.tolist(), test.pids.tolist(), where)
    found.count({"images": len(found.files)}, {"images": about["num_images"]})


KIND = Kind(
    "a data set that `cdp data pack` wrote: pack.json, shard-*.tar, index",
    (),
    read_training,
    read_protocol,
    survey,
)
