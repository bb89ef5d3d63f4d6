"""SYSU-MM01: `cam{1..6}/%04d/%04d.jpg`, `exp/{train,val,test}_id.txt`, `exp/rand_perm_cam.mat`.

Protocol (Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017, and the
evaluation code that its authors published): every infrared image of a test identity is a query; the
gallery of trial t holds, for each test identity and RGB camera, the images that the t-th row of
`rand_perm_cam.mat` puts first: one (single-shot) or ten (multi-shot). All-search uses the galleries
of all RGB cameras, indoor search those of cameras 1 and 2.
"""

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets import synthetic
from pipeline.datasets.findings import Findings
from pipeline.datasets.layout import Kind
from pipeline.datasets.lists import (
    find_leaks,
    find_missing_modality,
    list_images,
    read_ids,
)
from pipeline.datasets.permutations import (
    NUM_TRIALS,
    PERMUTATIONS,
    Permutations,
    compare_folder,
    find_gaps,
    folder_of,
    orders_of,
    read_permutations,
)
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial, make_index
from pipeline.datasets.rules import RULES
from pipeline.errors import InputError
from pipeline.options import DataOptions

CAMERAS = {
    1: Modality.RGB,
    2: Modality.RGB,
    3: Modality.IR,
    4: Modality.RGB,
    5: Modality.RGB,
    6: Modality.IR,
}
MODES = {  # name: (gallery cameras, shots); the first one is what papers quote
    "all-search single-shot": ((1, 2, 4, 5), 1),
    "all-search multi-shot": ((1, 2, 4, 5), 10),
    "indoor single-shot": ((1, 2), 1),
    "indoor multi-shot": ((1, 2), 10),
}
SPLITS = ("train", "val", "test")  # disjoint, and together exp/available_id.txt
STAND_IN = (
    "galleries drawn from a seed, not by SYSU-MM01's rand_perm_cam.mat: not comparable with "
    "published figures"
)
# The CDP paper's 19,659 RGB and 12,792 infrared training images match none of the splits.
COUNTS = {
    "identities, train": 296,
    "identities, val": 99,
    "identities, test": 96,
    "RGB images, train": 20284,
    "infrared images, train": 9929,
    "RGB images, train+val": 22258,
    "infrared images, train+val": 11909,
    "queries (infrared images, test)": 3803,
}


def read_training(root: Path, options: DataOptions, found: Findings) -> Index:
    """Reads the images of the identities in `options.split`, id lists joined by "+" ("train+val").

    Folders are compared with `rand_perm_cam.mat` if there is one.
    """
    parts = {part: read_ids(root, id_list(part), found) for part in options.split.split("+")}
    index = read_images(root, sorted({pid for ids in parts.values() for pid in ids}), found)
    _check_cameras(found, root)
    try:
        permutations = read_permutations(root)
    except InputError:
        permutations = None  # a matter for the test
    for part, ids in parts.items():
        _check_images(found, index, ids, part, permutations)
    where = str(root / "cam*" / "{:04d}")
    find_missing_modality(found, index, where, is_fault=options.sampling == "balanced")
    return index


def read_protocol(root: Path, options: DataOptions, found: Findings) -> Protocol | None:
    """Reads the test images and the ten trials of each of the four modes.

    With `options.stand_in_galleries` a missing `rand_perm_cam.mat` is replaced by seeded
    permutations, and the protocol's remark says so.
    """
    drawn = options.stand_in_galleries and not (root / PERMUTATIONS).exists()
    if not (root / id_list("test")).exists() and not (root / PERMUTATIONS).exists():
        text = (
            "missing, and so is rand_perm_cam.mat: enough to train on, but not to test; "
            "restore both"
        )
        found.fault("no test", root / id_list("test"), text)
        return None
    ids = read_ids(root, id_list("test"), found)
    _check_lists(root, ids, found)
    index = read_images(root, ids, found)
    permutations = None
    if not drawn:
        with found.recording("no permutations", root / PERMUTATIONS):
            permutations = read_permutations(root)
    _check_cameras(found, root)
    _check_images(found, index, ids, "test", permutations)
    find_missing_modality(found, index, str(root / "cam*" / "{:04d}"), is_fault=True)
    if found.faults:
        return None
    find_gaps(found, index)
    query = np.flatnonzero(index.modality == Modality.IR)
    modes = tuple(
        Mode(name, tuple(Trial(query, rows) for rows in _galleries(index, permutations, *mode)))
        for name, mode in MODES.items()
    )
    protocol = Protocol("sysu", index, modes, RULES["sysu"], STAND_IN if drawn else "")
    if not all(protocol.num_matches(trial).any() for trial in modes[0].trials):
        text = (
            "none of these identities has an RGB image (cam1, 2, 4, 5) that its infrared images "
            "may be matched with (cam3 ignores cam2); add identities to the list"
        )
        found.fault("no match", root / id_list("test"), text)
    return protocol


def survey(root: Path, options: DataOptions, found: Findings) -> None:
    """Checks all three lists and their images; compares the counts with the official ones."""
    training, test = Findings(root), Findings(root)
    index = read_training(root, options, training)
    read_protocol(root, options, test)
    found.merge(training)
    found.merge(test)
    parts = {part: read_ids(root, id_list(part), Findings(root)) for part in SPLITS}
    tested = read_images(root, parts["test"], Findings(root))
    found.add_images(index)
    found.add_images(tested)
    counts = {f"identities, {part}": len(ids) for part, ids in parts.items()}
    for part in ("train", "train+val"):
        ids = [pid for name in part.split("+") for pid in parts[name]]
        for name, modality in (("RGB", Modality.RGB), ("infrared", Modality.IR)):
            mask = np.isin(index.pids, ids) & (index.modality == modality)
            counts[f"{name} images, {part}"] = int(mask.sum())
    counts["queries (infrared images, test)"] = int((tested.modality == Modality.IR).sum())
    found.count(counts, _expected(root))


def id_list(part: str) -> str:
    """Returns the path of the id list of `part` (train, val, test, available)."""
    return f"exp/{part}_id.txt"


def read_images(root: Path, pids: list[int], found: Findings) -> Index:
    """Reads all images of `pids`, ordered by camera, identity and file name."""
    rows: list[tuple[str, int, int, Modality]] = []
    for camid, modality in CAMERAS.items():
        for pid in pids:
            paths = list_images(root, folder_of(camid, pid), found)
            rows += [(path, pid, camid, modality) for path in paths]
    return make_index(root, rows)


def _galleries(
    index: Index, permutations: Permutations | None, cameras: tuple[int, ...], shots: int
) -> list[Int64[ndarray, " g"]]:
    """Returns each trial's gallery rows: its first images of each camera and identity."""
    picked: list[ndarray] = []  # [trial, shot] of a camera and identity
    for camid in cameras:
        in_camera = np.flatnonzero(index.camids == camid)
        for pid in np.unique(index.pids[in_camera]):
            images = in_camera[index.pids[in_camera] == pid]
            if permutations is None:
                rng = np.random.default_rng([camid, int(pid)])
                order = rng.permuted(np.tile(np.arange(len(images)), (NUM_TRIALS, 1)), axis=1)
            else:
                order = orders_of(permutations, camid, int(pid)) - 1
            picked.append(images[order[:, :shots]])
    if not picked:
        return [np.empty(0, np.int64)] * NUM_TRIALS
    return list(np.concatenate(picked, axis=1))


def _check_lists(root: Path, test: list[int], found: Findings) -> None:
    """Records identities in both training and test, and those in none of the three lists."""
    lists = {}
    for part in ("train", "val", "available"):
        list_faults = Findings(root)  # faults in these lists do not matter for the test
        ids = read_ids(root, id_list(part), list_faults)
        lists[part] = None if list_faults.faults else ids
    training = (lists["train"] or []) + (lists["val"] or [])
    find_leaks(found, training, test, f"{root / id_list('test')}, identity {{}}")
    if lists["available"] is None or lists["train"] is None or lists["val"] is None or not test:
        return
    for pid in sorted({*lists["available"]} - {*training, *test}):
        text = (
            "is in neither train_id.txt, val_id.txt nor test_id.txt; put it back, or take it off "
            "available_id.txt too"
        )
        found.fault("in no list", f"{root / id_list('available')}, identity {pid}", text)
    sizes = [len(lists["train"]), len(lists["val"]), len(test)]
    expected = [_expected(root)[f"identities, {part}"] for part in SPLITS]
    if sum(sizes) == sum(expected) and sizes != expected:
        text = f"the three lists hold {sizes} identities, not {expected}: restore them"
        found.fault("other split", root / id_list("test"), text)


def _expected(root: Path) -> dict[str, int]:
    """Returns the counts of the official set, or of the synthetic one at `root`."""
    made = synthetic.recipe(root)
    return {f"identities, {part}": made[f"num_{part}"] for part in SPLITS} if made else COUNTS


def _check_cameras(found: Findings, root: Path) -> None:
    for camid in CAMERAS:
        if not (root / f"cam{camid}").is_dir():
            text = "missing; restore this camera's images"
            found.fault("missing folder", root / f"cam{camid}", text)


def _check_images(
    found: Findings, index: Index, ids: list[int], part: str, permutations: Permutations | None
) -> None:
    """Records images that the folders of a list's identities lack or have too many of."""
    seen = Counter(zip(index.pids.tolist(), index.camids.tolist(), strict=True))
    pids = {pid for pid, _ in seen}
    absent = [pid for pid in ids if pid not in pids]
    for pid in absent:
        text = "has no image in any camera folder; restore them, or take it off its lists"
        found.fault("no image", f"{index.root / id_list(part)}, identity {pid}", text)
    if permutations is None:
        return
    for pid, camid in product((pid for pid in ids if pid in pids), CAMERAS):
        wanted = orders_of(permutations, camid, pid).shape[1]
        if seen[pid, camid] != wanted and (index.root / f"cam{camid}").is_dir():
            compare_folder(found, index, camid, pid, wanted)


KIND = Kind(
    "SYSU-MM01: cam1…cam6, exp/*_id.txt, exp/rand_perm_cam.mat",
    ("exp", "cam1"),
    read_training,
    read_protocol,
    survey,
    splits=("train", "train+val"),
)
