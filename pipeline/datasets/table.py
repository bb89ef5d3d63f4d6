"""Any data set as a CSV file: columns `path,pid,camid,modality,split`, and optional ones.

`path` is absolute or relative to the CSV's folder; `pid` and `camid` are integers; `modality` is
rgb or ir; `split` is train, val or test. Optional, for test rows: `role` is query or gallery;
without it, each modality searches the other. `rule` is a row of `rules.py`, the same in all test
rows; the default is market.
"""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from pipeline.datasets.findings import Findings
from pipeline.datasets.layout import Kind
from pipeline.datasets.lists import (
    find_leaks,
    find_missing_files,
    find_missing_modality,
    number_of,
    reading,
    refuse_nul,
    repeated,
    spellings,
    tidy,
)
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial
from pipeline.datasets.rules import RULES
from pipeline.errors import InputError
from pipeline.options import DataOptions

COLUMNS = ("path", "pid", "camid", "modality", "split")
OPTIONAL = ("role", "rule")
MODALITIES = {"rgb": Modality.RGB, "ir": Modality.IR}
VALUES = {  # a value's code is its position; missing values are NOT_GIVEN
    "modality": tuple(MODALITIES),
    "split": ("train", "val", "test"),
    "role": ("query", "gallery"),
    "rule": tuple(RULES),
}
NOT_GIVEN = 255
UNKNOWN = -1  # pid and camid of an image about which nothing is known
CHUNK = 65536  # rows held as Python objects at a time


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A CSV's rows as arrays; `codes` of a column are positions in its `VALUES`, or NOT_GIVEN."""

    file: Path
    index: Index
    lines: Int64[ndarray, " n"]
    codes: dict[str, UInt8[ndarray, " n"]]

    def rows_of(self, splits: Sequence[str]) -> Int64[ndarray, " k"]:
        """Returns the rows of these splits."""
        codes = [VALUES["split"].index(split) for split in splits]
        return np.flatnonzero(np.isin(self.codes["split"], codes))

    def line(self, row: SupportsIndex) -> str:
        """Returns a row's file and line, for messages."""
        return f"{self.file}, line {self.lines[row]}"


def read_training(file: Path, options: DataOptions, found: Findings) -> Index:
    """Reads the rows of the splits joined by "+", such as "train+val"."""
    return _training(read_table(file, found), options, found)


def read_protocol(file: Path, options: DataOptions, found: Findings) -> Protocol | None:
    """Reads the test rows, as one trial per mode."""
    return _protocol(read_table(file, found), found)


def survey(file: Path, options: DataOptions, found: Findings) -> None:
    """Checks all rows."""
    table = read_table(file, found)
    if found.faults and not len(table.index):
        return
    _training(table, options, found)
    test = Findings(file)
    _protocol(table, test)
    found.merge(test)
    found.add_images(table.index)
    for split in VALUES["split"]:
        rows = table.rows_of([split])
        pids = np.unique(table.index.pids[rows])
        found.count({f"identities, {split}": len(pids), f"images, {split}": len(rows)}, {})


def _training(table: Table, options: DataOptions, found: Findings) -> Index:
    rows = table.rows_of(options.split.split("+"))
    index = table.index.take(rows)
    if not len(rows) and not found.faults:
        found.fault("no training", table.file, f"no row has split {options.split}")
    find_missing_files(found, index, [table.file.name] * 2)
    where = f"{table.file}, pid {{}}"
    remedy = "add one, remove this person's rows, or pass --data.sampling random"
    find_missing_modality(found, index, where, options.sampling == "balanced", remedy)
    return index


def _protocol(table: Table, found: Findings) -> Protocol | None:
    rows = table.rows_of(["test"])
    test, roles, rules = (
        table.index.take(rows),
        table.codes["role"][rows],
        table.codes["rule"][rows],
    )
    if not len(rows):
        if not found.faults:
            text = "no row has split test: enough to train on, but not to test; add such rows"
            found.fault("no test", table.file, text)
        return None
    find_missing_files(found, test, [table.file.name] * 2)
    training = np.unique(table.index.pids[table.rows_of(["train", "val"])])
    find_leaks(found, training.tolist(), np.unique(test.pids).tolist(), f"{table.file}, pid {{}}")
    for name, codes in (("role", roles), ("rule", rules)):
        for row in np.flatnonzero(codes == NOT_GIVEN) if (codes != NOT_GIVEN).any() else ():
            text = f"a test row without a {name}, which other test rows have; give it one"
            found.fault(f"no {name}", table.line(rows[row]), text)
    # Compared with the most common rule, one slip is one fault.
    given = rules[rules != NOT_GIVEN]
    usual = np.bincount(given).argmax() if len(given) else NOT_GIVEN
    rule = "market" if usual == NOT_GIVEN else VALUES["rule"][usual]
    cameras = sorted(set().union(*RULES[rule].cameras.values()))
    for row in np.flatnonzero(~np.isin(test.camids, cameras)) if cameras else ():
        known = f"the cameras of rule {rule} are {cameras[0]} to {cameras[-1]}"
        found.fault("other camera", table.line(rows[row]), f"camid is {test.camids[row]}; {known}")
    for row in np.flatnonzero((rules != usual) & (rules != NOT_GIVEN)):
        text = (
            f"rule is {VALUES['rule'][rules[row]]}, in most rows {rule}; use one for all test rows"
        )
        found.fault("two rules", table.line(rows[row]), text)
    if found.faults:
        return None
    if (roles != NOT_GIVEN).any():
        query, gallery = (np.flatnonzero(roles == code) for code in range(2))
        modes: tuple[Mode, ...] = (Mode("query to gallery", (Trial(query, gallery),)),)
    else:
        rgb, infrared = (np.flatnonzero(test.modality == m) for m in (Modality.RGB, Modality.IR))
        modes = (
            Mode("infrared to visible", (Trial(infrared, rgb),)),
            Mode("visible to infrared", (Trial(rgb, infrared),)),
        )
    protocol = Protocol(table.file.stem, test, modes, RULES[rule])
    for mode in modes:
        if not protocol.num_matches(mode.trials[0]).any():
            text = (
                f"{mode.name}: no query among the rows of split test has a gallery image of its "
                "pid from another camera; add such rows, or give each camera its own camid"
            )
            found.fault("no match", table.file, text)
    return protocol


def read_table(
    file: Path, found: Findings | None = None, columns: Sequence[str] = COLUMNS
) -> Table:
    """Reads all rows; `columns` are required, the others optional.

    Records bad and repeated rows in `found`; without `found`, raises `InputError` at the first.
    """
    noted = Findings(file) if found is None else found
    chunks: list[list[ndarray]] = []
    with noted.recording("bad row", file):
        rows = _rows(file, columns, noted)
        chunks += map(_arrays, iter(lambda: list(islice(rows, CHUNK)), []))
    arrays = [np.concatenate(parts) for parts in zip(*chunks, strict=True)] or _arrays([])
    lines, paths, pids, camids, modality, split, role, rule = arrays
    folder, paths = _with_root(file.absolute().parent, paths)
    index = Index(folder, paths, pids, camids, modality, source=file)
    table = Table(file, index, lines, {"split": split, "role": role, "rule": rule})
    for row, first in repeated(_without_detours(folder, paths)):
        text = f"repeats {index.path(row).name} of line {lines[first]}"
        noted.fault("listed twice", table.line(row), f"{text}; remove one of them")
    if found is None:
        noted.settle(lambda text: None)
    return table


def _without_detours(folder: Path, paths: ndarray) -> ndarray:
    """Returns the paths, with `..` and the links beside it resolved, to be compared."""
    spelled = paths.tolist()
    detours = [row for row, path in enumerate(spelled) if b".." in path]
    roots = spellings(folder)
    for row in detours:
        real = os.path.realpath(folder / os.fsdecode(spelled[row]))
        spelled[row] = os.fsencode(tidy(real, roots))
    return np.array(spelled) if detours else paths


Row = tuple[int, bytes, int, int, int, int, int, int]  # line, path, pid, camid, codes of VALUES
TYPES = (np.int64, np.bytes_, np.int64, np.int64, *[np.uint8] * len(VALUES))


def _arrays(rows: list[Row]) -> list[ndarray]:
    """Returns an array per column."""
    columns = zip(*rows, strict=True) if rows else [()] * len(TYPES)
    return [np.array(column, dtype) for column, dtype in zip(columns, TYPES, strict=True)]


def _with_root(folder: Path, paths: ndarray) -> tuple[Path, ndarray]:
    """Returns the paths and their root: `folder`, or "/" if any path is absolute."""
    if not np.char.startswith(paths, b"/").any():
        return folder, paths
    prefix = os.fsencode(folder) + b"/"
    whole = [bytes(p) if p.startswith(b"/") else prefix + bytes(p) for p in paths]
    return Path("/"), np.array([path[1:] for path in whole], np.bytes_)


def _rows(file: Path, columns: Sequence[str], found: Findings) -> Iterator[Row]:
    """Yields each valid row; records the others; raises `InputError` if reading must stop."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected a CSV of {','.join(COLUMNS)}")
    roots = spellings(file.parent)
    with reading(file), file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.reader(_lines(file, opened), skipinitialspace=True, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
            _check_header(file, names, columns)
            for fields in filter(None, reader):
                try:
                    yield _row(reader.line_num, names, fields, columns, roots)
                except InputError as error:
                    found.fault("bad row", f"{file}, line {reader.line_num}", str(error))
        except csv.Error as error:
            raise InputError(
                f"{file}, line {reader.line_num}: {error}; is a quote not closed?"
            ) from error


def _lines(file: Path, opened: Iterable[str]) -> Iterator[str]:
    for line in opened:
        refuse_nul(file, line)
        yield line


def _check_header(file: Path, names: list[str], columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing:
        optional = [column for column in (*COLUMNS, *OPTIONAL) if column not in columns]
        raise InputError(
            f"{file}: has no column {missing[0]!r}, its first line is {','.join(names)[:60]!r}; it "
            f"must name, separated by commas, {','.join(columns)} and, optionally, "
            f"{', '.join(optional)}"
        )
    for name in (*COLUMNS, *OPTIONAL):
        if names.count(name) > 1:
            raise InputError(f"{file}: has two columns {name!r}; remove one of them")


def _row(
    line: int, names: list[str], fields: list[str], columns: Sequence[str], roots: tuple[str, ...]
) -> Row:
    """Parses a line of the file; raises `InputError` saying what is wrong with it."""
    if len(fields) > len(names):
        raise InputError(
            f"has {len(fields)} fields, but the first line names {len(names)} columns; put quotes "
            "around a path that contains a comma"
        )
    row = dict(zip(names, map(str.strip, fields), strict=False))
    path = row.get("path")
    if not path:
        raise InputError("path is empty; expected an image file")
    numbers = []
    for column in ("pid", "camid"):
        value = row.get(column, "")
        number = number_of(value) if value or column in columns else UNKNOWN
        if number is None:
            raise InputError(f"{column} is {value[:40]!r}; expected an integer, 0 or more")
        numbers.append(number)
    codes = []
    for column, values in VALUES.items():
        value = row.get(column, "").lower()
        if value in values:
            codes.append(values.index(value))
        elif value or column in columns:
            raise InputError(f"{column} is {value[:40]!r}; expected one of {', '.join(values)}")
        else:
            codes.append(NOT_GIVEN)
    return (line, os.fsencode(tidy(path, roots)), numbers[0], numbers[1], *codes)  # type: ignore[return-value]


KIND = Kind(
    "a CSV file with the columns path,pid,camid,modality,split and, optionally, role and rule",
    (),
    read_training,
    read_protocol,
    survey,
    splits=("train", "train+val"),
)
