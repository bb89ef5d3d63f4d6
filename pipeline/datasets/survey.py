"""What a data set should hold and what it does, told from its lists and folders; opens no image."""

import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.datasets import llcm, regdb, synthetic, sysu, table
from pipeline.datasets.findings import Survey
from pipeline.datasets.lists import read_id_list
from pipeline.datasets.records import Index, Modality, make_index
from pipeline.errors import InputError
from pipeline.options import KindName

T = TypeVar("T")

# Counts of the data sets' papers and code; the 19,659 RGB and 12,792 infrared training images that
# the CDP paper gives for SYSU-MM01 are those of no split. A set that differs may be a subset, or
# synthetic: it is told, not refused.
SYSU_COUNTS = {
    "identities, train": 296,
    "identities, val": 99,
    "identities, test": 96,
    "RGB images, train": 20284,
    "infrared images, train": 9929,
    "RGB images, train+val": 22258,
    "infrared images, train+val": 11909,
    "queries (infrared images, test)": 3803,
}
REGDB_COUNTS = {"identities": 412, "visible images": 4120, "thermal images": 4120}
REGDB_LIST = 2060  # images of 206 identities
LLCM_COUNTS = {
    "identities, train": 713,
    "identities, test": 351,
    "visible images, train": 16946,
    "infrared images, train": 13975,
    "visible images, test": 8680,
    "infrared images, test": 7166,
}


def attempt(survey: Survey, kind: str, read: Callable[[], T]) -> T | None:
    """What `read` gives; its `InputError` becomes a fault."""
    try:
        return read()
    except InputError as error:
        survey.error(kind, str(error))
        return None


def survey_sysu(root: Path) -> Survey:
    """Lists, cameras and `rand_perm_cam.mat` of a tree in SYSU-MM01's layout."""
    survey = Survey(root)
    parts: dict[str, list[int]] = {}
    for part in ("train", "val", "test"):
        kind = "bad list" if sysu.id_file(root, part).is_file() else "missing list"
        ids = attempt(survey, kind, partial(sysu.read_ids, root, part))
        if ids is not None:
            parts[part] = ids
    find_leaks(survey, parts)
    permutations = attempt(survey, "no permutations", partial(sysu.read_permutations, root))
    pids = sorted({pid for of_part in parts.values() for pid in of_part})
    index = sysu.read_images(root, pids)
    survey.files = {os.fsdecode(path) for path in index.paths.tolist()}
    find_missing_modality(survey, index, pids, "cam*/{:04d}")
    if permutations is not None:
        for pid, camid in product(pids, sysu.CAMERAS):
            _compare_folder(survey, index, permutations, camid, pid)
    expected = SYSU_COUNTS
    if made := synthetic.recipe(root):
        expected = {f"identities, {part}": made[f"num_{part}"] for part in parts}
    survey.count(_count_sysu(index, parts), expected)
    return survey


def _compare_folder(
    survey: Survey, index: Index, permutations: sysu.Permutations, camid: int, pid: int
) -> None:
    """Notes images of one camera and identity that `rand_perm_cam.mat` lacks, or has besides."""
    of_camera = permutations[camid - 1]
    count = of_camera[pid - 1].shape[1] if pid <= len(of_camera) else 0
    rows = (index.pids == pid) & (index.camids == camid)
    found = {os.fsdecode(path) for path in index.paths[rows].tolist()}
    if len(found) == count:
        return  # the protocol speaks of the n-th file, whatever its number
    wanted = {f"cam{camid}/{pid:04d}/{n:04d}.jpg" for n in range(1, count + 1)}
    orders = f"rand_perm_cam.mat orders {count} images of this folder, not {len(found)}"
    for path in sorted(wanted - found):
        survey.fault("missing file", path, f"{orders}; restore it")
    for path in sorted(found - wanted):
        survey.fault("extra file", path, f"{orders}; remove it")


def _count_sysu(index: Index, parts: dict[str, list[int]]) -> dict[str, int]:
    found = {f"identities, {part}": len(set(pids)) for part, pids in parts.items()}
    parts = {**parts, "train+val": parts.get("train", []) + parts.get("val", [])}
    for part in ("train", "train+val"):
        for name, modality in (("RGB", Modality.RGB), ("infrared", Modality.IR)):
            mask = np.isin(index.pids, parts.get(part, [])) & (index.modality == modality)
            found[f"{name} images, {part}"] = int(mask.sum())
    query = np.isin(index.pids, parts.get("test", [])) & (index.modality == Modality.IR)
    return found | {"queries (infrared images, test)": int(query.sum())}


def survey_regdb(root: Path) -> Survey:
    """The forty lists of RegDB, and the images that they name."""
    survey = Survey(root)
    pids: dict[str, set[int]] = {"visible": set(), "thermal": set()}
    for trial in range(1, regdb.NUM_TRIALS + 1):
        parts: dict[str, list[int]] = {}
        for part in ("train", "test"):
            read = partial(regdb.read_part, root, part, trial)
            index = attempt(survey, "bad list", read)
            if index is None:
                continue
            parts[part] = index.pids.tolist()
            survey.files |= {os.fsdecode(path) for path in index.paths.tolist()}
            for name, modality in regdb.MODALITIES.items():
                mask = index.modality == modality
                pids[name] |= set(index.pids[mask].tolist())
                if mask.sum() != REGDB_LIST:
                    what = f"images of {part}_{name}_{trial}.txt"
                    survey.counts[what] = (int(mask.sum()), REGDB_LIST)
        find_leaks(survey, parts, f"trial {trial}: ")
    for pid in sorted(pids["visible"] ^ pids["thermal"]):
        have = "visible" if pid in pids["visible"] else "thermal"
        survey.fault(
            "one modality", f"identity {pid}", f"is only in the {have} lists; restore them"
        )
    on_disk = {
        f"{folder}/{path.parent.name}/{path.name}"
        for folder in ("Visible", "Thermal")
        for path in (root / folder).glob("*/*.bmp")
    }
    for path in sorted(on_disk - survey.files):
        survey.fault("extra file", path, "is in no list; remove it, or restore the lists")
    find_missing_files(survey)
    found_counts = {
        "identities": len(pids["visible"] | pids["thermal"]),
        "visible images": sum(file.startswith("Visible/") for file in survey.files),
        "thermal images": sum(file.startswith("Thermal/") for file in survey.files),
    }
    survey.count(found_counts, REGDB_COUNTS)
    return survey


def survey_llcm(root: Path) -> Survey:
    """LLCM's training lists, and the folders of its test identities."""
    survey = Survey(root)
    train = attempt(survey, "bad list", partial(llcm.read_training, root))
    test = attempt(survey, "bad list", partial(llcm.read_test, root))
    found: dict[str, int] = {}
    for part, index in (("train", train), ("test", test)):
        if index is None:
            continue
        survey.files |= {os.fsdecode(path) for path in index.paths.tolist()}
        found[f"identities, {part}"] = len(set(index.pids.tolist()))
        for name, modality in (("visible", Modality.RGB), ("infrared", Modality.IR)):
            found[f"{name} images, {part}"] = int((index.modality == modality).sum())
        pids = index.pids.tolist()
        if part == "test":
            pids += read_id_list(root / "idx" / "test_id.txt")
        find_missing_modality(survey, index, pids, part + ": identity {}")
    find_missing_files(survey)
    survey.count(found, LLCM_COUNTS)
    return survey


def survey_table(file: Path) -> Survey:
    """The rows of a CSV file."""
    survey = Survey(file.absolute().parent)
    errors: list[str] = []
    try:
        index, splits, _ = table.read_table(file, errors)
    except InputError as error:
        errors.append(str(error))
        index, splits = make_index(survey.root, []), np.empty(0, np.str_)
    for message in errors:
        survey.error("bad row", message)
    survey.root = index.root
    names = [os.fsdecode(path) for path in index.paths.tolist()]
    survey.files = set(names)
    for name, rows in Counter(names).items():
        if rows > 1:
            survey.fault("listed twice", name, f"keep one of its {rows} rows")
    parts = {split: index.pids[splits == split].tolist() for split in ("train", "val", "test")}
    find_leaks(survey, parts)
    training = index.take(np.flatnonzero(splits != "test"))
    find_missing_modality(survey, training, training.pids.tolist(), "identity {}")
    find_missing_files(survey)
    for split, pids in parts.items():
        survey.count({f"identities, {split}": len(set(pids)), f"images, {split}": len(pids)}, {})
    return survey


def find_leaks(survey: Survey, parts: dict[str, list[int]], where: str = "") -> None:
    """Notes identities of the test that are trained on, too."""
    train = {*parts.get("train", []), *parts.get("val", [])}
    for pid in sorted(train & set(parts.get("test", []))):
        text = "is in training and in test: take it out of one of them"
        survey.fault("in training and test", f"{where}identity {pid}", text)


def find_missing_modality(survey: Survey, index: Index, pids: list[int], where: str) -> None:
    """Notes those of `pids` that only one modality shows, or none; `where` formats a pid."""
    rgb, infrared = (set(index.pids[index.modality == m].tolist()) for m in Modality)
    for pid in sorted(set(pids)):
        if pid not in rgb and pid not in infrared:
            text = "is listed; restore its images, or take it off the list"
            survey.fault("no image", where.format(pid), text)
        elif pid not in rgb or pid not in infrared:
            lacking = "infrared" if pid in rgb else "RGB"
            text = f"has no {lacking} image; restore one, or take the identity off its list"
            survey.fault("one modality", where.format(pid), text)


def find_missing_files(survey: Survey) -> None:
    """Notes listed images that are not on disk, and looks at them no more."""
    missing = {file for file in survey.files if not os.path.lexists(survey.root / file)}
    for file in sorted(missing):
        survey.fault("missing file", file, "is listed; restore it")
    survey.files -= missing


SURVEYS: dict[KindName, Callable[[Path], Survey]] = {
    "sysu": survey_sysu,
    "regdb": survey_regdb,
    "llcm": survey_llcm,
    "table": survey_table,
}
