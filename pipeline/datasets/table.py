"""Any data set as a CSV file: columns `path,pid,camid,modality,split` and, optionally, `role`.

`path` is absolute or relative to the CSV's folder; `pid` and `camid` are integers; `modality` is
rgb or ir; `split` is train, val or test; a test row's `role` is query or gallery. Without roles
each modality searches among the other. Rule: Market-1501's, images of one pid and camera do not
count.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial, make_index
from pipeline.datasets.rules import RULES
from pipeline.errors import InputError

COLUMNS = ("path", "pid", "camid", "modality", "split")
MODALITIES = {"rgb": Modality.RGB, "ir": Modality.IR}
VALUES = {
    "modality": tuple(MODALITIES),
    "split": ("train", "val", "test"),
    "role": ("query", "gallery"),
}


def read_training(file: Path, split: str) -> Index:
    """Reads the rows of the splits joined by "+", as "train+val".

    Raises `InputError` naming the file, the line and the field that is wrong.
    """
    index, splits, _ = read_table(file)
    rows = np.flatnonzero(np.isin(splits, split.split("+")))
    if not len(rows):
        raise InputError(
            f"{file}: no row has split {split}; there are {sorted(set(splits.tolist()))}"
        )
    return index.take(rows)


def read_protocol(file: Path) -> Protocol:
    """Reads the test rows, as one trial a mode; raises as `read_training` does."""
    index, splits, roles = read_table(file)
    rows = np.flatnonzero(splits == "test")
    test, roles = index.take(rows), roles[rows]
    if (roles != "").any():
        query, gallery = (np.flatnonzero(roles == role) for role in ("query", "gallery"))
        modes: tuple[Mode, ...] = (Mode("query to gallery", (Trial(query, gallery),)),)
    else:
        rgb, infrared = (np.flatnonzero(test.modality == m) for m in (Modality.RGB, Modality.IR))
        modes = (
            Mode("infrared to visible", (Trial(infrared, rgb),)),
            Mode("visible to infrared", (Trial(rgb, infrared),)),
        )
    protocol = Protocol(file.stem, test, modes, RULES["market"])
    for mode in modes:
        if not len(rows) or not protocol.num_matches(mode.trials[0]).any():
            raise InputError(
                f"{file}: {mode.name}: no query among the rows of split test has a gallery image "
                "of its pid by another camera; add such rows, or give each camera its own camid"
            )
    return protocol


def read_table(
    file: Path, errors: list[str] | None = None, columns: Sequence[str] = COLUMNS
) -> tuple[Index, np.ndarray, np.ndarray]:
    """All rows, with each row's split and role as strings ("" where the file has none).

    `columns` must be there, split and role may be. Raises `InputError` at the first row that is
    wrong; given `errors`, collects them there instead.
    """
    if not file.is_file():
        raise InputError(f"--data.root {file}: no such file; expected a CSV of {','.join(COLUMNS)}")
    rows: list[tuple[str, int, int, Modality]] = []
    splits: list[str] = []
    roles: list[str] = []
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, skipinitialspace=True)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            optional = [column for column in (*COLUMNS, "role") if column not in columns]
            raise InputError(
                f"{file}: has no column {missing[0]!r}; the first line must name "
                f"{','.join(columns)} and, optionally, {', '.join(optional)}"
            )
        for row in reader:
            try:
                image, split, role = _row(row, f"{file}, line {reader.line_num}", columns)
            except InputError as error:
                if errors is None:
                    raise
                errors.append(str(error))
                continue
            rows.append(image)
            splits.append(split)
            roles.append(role)
    folder = file.absolute().parent
    if any(os.path.isabs(path) for path, *_ in rows):
        rows = [(os.path.relpath(folder / path, "/"), *rest) for path, *rest in rows]  # type: ignore[misc]
        folder = Path("/")
    return make_index(folder, rows), np.array(splits, np.str_), np.array(roles, np.str_)


def _row(
    row: dict[str, str], where: str, columns: Sequence[str]
) -> tuple[tuple[str, int, int, Modality], str, str]:
    """((path, pid, camid, modality), split, role) of a line; `InputError` names a wrong field."""
    path = (row["path"] or "").strip()
    if not path:
        raise InputError(f"{where}: path is empty; expected an image file")
    numbers = []
    for column in ("pid", "camid"):
        value = (row[column] or "").strip()
        if not value.isdecimal():
            raise InputError(f"{where}: {column} is {value!r}; expected an integer, 0 or more")
        numbers.append(int(value))
    for column, values in VALUES.items():
        value = (row.get(column) or "").strip().lower()
        if value not in values and (value or column in columns):
            raise InputError(f"{where}: {column} is {value!r}; expected one of {', '.join(values)}")
        row[column] = value
    return (path, numbers[0], numbers[1], MODALITIES[row["modality"]]), row["split"], row["role"]
