"""The kinds of data set. Code that uses what is read here does not know the kind."""

from collections.abc import Callable
from pathlib import Path

from pipeline.datasets import llcm, packed, regdb, sysu, table
from pipeline.datasets.findings import Findings
from pipeline.datasets.layout import Kind
from pipeline.datasets.records import Index, Protocol
from pipeline.errors import InputError
from pipeline.options import DataOptions, KindName

KINDS: dict[KindName, Kind] = {
    "sysu": sysu.KIND,
    "regdb": regdb.KIND,
    "llcm": llcm.KIND,
    "table": table.KIND,
    "packed": packed.KIND,
}
# Faults saying that there is nothing to train on, or nothing to test on.
ONE_SIDED = ("no training", "no test")


def kind_of(root: Path, kind: KindName = "auto") -> KindName:
    """Returns `kind`, or, if it is "auto", the kind whose layout is found at `root`.

    Raises `InputError` if `root` does not exist or holds no known data set.
    """
    if not root.exists():
        if kind == "table" or root.suffix == ".csv":
            raise InputError(f"{root}: no such file; expected a CSV of {','.join(table.COLUMNS)}")
        raise InputError(
            f"{root}: no such folder; `cdp data make {root}` writes a synthetic set there"
        )
    if packed.is_pack(root):
        packed_kind = packed.read_kind(root)
        if kind in ("auto", "packed", packed_kind):
            return "packed"
        raise InputError(f"--data.kind {kind}: {root} is packed {packed_kind}; omit --data.kind")
    if kind != "auto":
        return kind
    if root.is_file():
        return "table"
    for name, known in KINDS.items():
        if known.marks and all((root / mark).is_dir() for mark in known.marks):
            return name
    layouts = "; ".join(f"{name} = {known.layout}" for name, known in KINDS.items())
    raise InputError(f"{root}: holds no known data set ({layouts})")


def original_kind(root: Path, kind: KindName = "auto") -> KindName:
    """Like `kind_of`, but returns the kind that a packed data set was packed from."""
    kind = kind_of(root, kind)
    return packed.read_kind(root) if kind == "packed" else kind


def read_training(
    options: DataOptions, root: Path, warn: Callable[[str], None] = lambda text: None
) -> Index:
    """Reads the training images at `root`; needs none of the test's files.

    Warnings go to `warn`, one line each. Raises `InputError` naming the first fault in lists and
    folders; missing files are allowed if `options` skip bad images.
    """
    kind, original = kind_of(root, options.kind), original_kind(root, options.kind)
    _check_trial(options)
    if options.trial != 1 and KINDS[original].num_trials == 1:
        raise InputError(f"--trial {options.trial}: {original} has only one trial; omit --trial")
    found = Findings(root)
    index = KINDS[kind].read_training(root, options, found)
    found.settle(warn, forgiven="missing file" if options.on_bad_image == "skip" else "")
    return index


def read_protocol(
    options: DataOptions, root: Path, warn: Callable[[str], None] = lambda text: None
) -> Protocol:
    """Reads how to test at `root`; warns and raises like `read_training`, but allows no gaps."""
    _check_trial(options)
    found = Findings(root)
    protocol = KINDS[kind_of(root, options.kind)].read_protocol(root, options, found)
    found.settle(warn)
    assert protocol is not None, "a reader that returns None records why"
    return protocol


def survey(root: Path, kind: KindName) -> Findings:
    """Checks all splits and trials of a data set of a known kind; decodes no image.

    Finds the faults that stop `read_training` and `read_protocol` with default options.
    """
    found = Findings(root)
    KINDS[kind].survey(root, DataOptions(kind=kind), found)
    found.files -= {fault.where for fault in found.faults if fault.kind == "missing file"}
    lacking = [fault for fault in found.faults if fault.kind in ONE_SIDED]
    if len({fault.kind for fault in lacking}) == 1:  # the other is still possible
        found.faults = [fault for fault in found.faults if fault.kind not in ONE_SIDED]
        found.warnings += lacking
    return found


def _check_trial(options: DataOptions) -> None:
    if options.trial == "all":
        raise InputError("--data.trial all: one trial is read at a time; pass one of 1…10")
