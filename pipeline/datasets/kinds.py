"""The kinds of data set, one row each: how its folder is told, and who reads it.

Nothing downstream of `training` and `protocol` knows which data set it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets import llcm, packed, regdb, sysu, table
from pipeline.datasets.records import Index, Protocol
from pipeline.errors import InputError
from pipeline.options import DataOptions, KindName


@dataclass(frozen=True, slots=True)
class Kind:
    """A layout of files."""

    layout: str
    marks: tuple[str, ...]  # what the root holds, in a folder that is told by it
    training: Callable[[DataOptions, Path], Index]
    protocol: Callable[[DataOptions, Path], Protocol]
    num_trials: int = 1  # trainings that the protocol asks for
    splits: tuple[str, ...] = ("train+val",)  # those that its reader tells apart


def _one_trial(options: DataOptions) -> int:
    if options.trial == "all":
        raise InputError("--data.trial all: one trial is read at a time; pass one of 1…10")
    return options.trial


KINDS: dict[KindName, Kind] = {
    "sysu": Kind(
        "SYSU-MM01: cam1…cam6, exp/*_id.txt, exp/rand_perm_cam.mat",
        ("exp", "cam1"),
        lambda options, root: sysu.read_training(root, options.split),
        lambda options, root: sysu.read_protocol(root, options.stand_in_galleries),
        splits=("train", "train+val"),
    ),
    "regdb": Kind(
        "RegDB: Visible, Thermal, idx/{train,test}_{visible,thermal}_{1…10}.txt",
        ("Visible", "Thermal", "idx"),
        lambda options, root: regdb.read_training(root, _one_trial(options)),
        lambda options, root: regdb.read_protocol(root, _one_trial(options)),
        num_trials=regdb.NUM_TRIALS,
    ),
    "llcm": Kind(
        "LLCM: idx/train_{vis,nir}.txt, idx/test_id.txt, test_vis, test_nir",
        ("idx", "test_vis", "test_nir"),
        lambda options, root: llcm.read_training(root),
        lambda options, root: llcm.read_protocol(root),
    ),
    "table": Kind(
        "a CSV file with the columns path,pid,camid,modality,split and, optionally, role",
        (),
        lambda options, root: table.read_training(root, options.split),
        lambda options, root: table.read_protocol(root),
        splits=("train", "train+val"),
    ),
    "packed": Kind(
        "a data set that `cdp data pack` wrote: pack.json, shard-*.tar, index",
        (),
        lambda options, root: packed.read_training(root, options.split, _one_trial(options)),
        lambda options, root: packed.read_protocol(root, _one_trial(options)),
    ),
}


def kind_of(root: Path, kind: KindName = "auto") -> KindName:
    """`kind`, or, when it is "auto", the kind whose layout is found at `root`.

    Raises `InputError` if nothing is there, or nothing that is known.
    """
    if not root.exists():
        raise InputError(
            f"--data.root {root}: no such folder; "
            f"`cdp data make {root}` writes a synthetic set there"
        )
    if packed.is_pack(root):
        of = packed.read_kind(root)
        if kind in ("auto", "packed", of):
            return "packed"
        raise InputError(f"--data.kind {kind}: {root} is packed {of}; leave --data.kind out")
    if kind != "auto":
        return kind
    if root.is_file():
        return "table"
    for name, known in KINDS.items():
        if known.marks and all((root / mark).is_dir() for mark in known.marks):
            return name
    layouts = "; ".join(f"{name} = {known.layout}" for name, known in KINDS.items())
    raise InputError(f"--data.root {root}: holds no data set that is known ({layouts})")


def original_kind(root: Path, kind: KindName = "auto") -> KindName:
    """As `kind_of`; of a packed data set the kind that it was packed from."""
    kind = kind_of(root, kind)
    return packed.read_kind(root) if kind == "packed" else kind


def read_training(options: DataOptions, root: Path) -> Index:
    """The training images of `options` at `root`; raises `InputError` as the data set's reader."""
    kind, original = kind_of(root, options.kind), original_kind(root, options.kind)
    if options.trial != 1 and KINDS[original].num_trials == 1:
        raise InputError(f"--trial {options.trial}: {original} has one training; leave --trial out")
    return KINDS[kind].training(options, root)


def read_protocol(options: DataOptions, root: Path) -> Protocol:
    """How to test at `root`; raises `InputError` as the data set's reader does."""
    return KINDS[kind_of(root, options.kind)].protocol(options, root)
