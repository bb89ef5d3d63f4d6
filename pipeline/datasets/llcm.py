"""LLCM: `idx/train_{vis,nir}.txt`, `idx/test_id.txt`, `test_{vis,nir}/cam{1..9}/%04d/`.

Protocol (Zhang and Wang, CVPR 2023, and the code they published): the gallery of trial t holds one
random image of each test identity and camera, drawn by Python's `random.seed(t); random.choice`
over the sorted identities and cameras; all images of the other modality are queries.

The published test code reports the third mode here as "VIS to IR": it reverses the ranking, so that
the sampled infrared images search among all visible ones. The results that its repository asks to
cite come from that code; `visible to infrared` follows the text of the protocol.
"""

import random
import re
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.findings import Findings
from pipeline.datasets.layout import Kind
from pipeline.datasets.lists import (
    find_missing_files,
    find_missing_modality,
    list_folders,
    list_images,
    number_of,
    read_ids,
    read_list,
    repeated,
)
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial, make_index
from pipeline.datasets.rules import RULES
from pipeline.options import DataOptions

CAMERAS = {  # folder: cameras; no infrared image of camera 3 exists
    "vis": (Modality.RGB, (1, 2, 3, 4, 5, 6, 7, 8, 9)),
    "nir": (Modality.IR, (1, 2, 4, 5, 6, 7, 8, 9)),
}
TEST_IDS = "idx/test_id.txt"
NUM_TRIALS = 10
COUNTS = {
    "identities, train": 713,
    "identities, test": 351,
    "visible images, train": 16946,
    "infrared images, train": 13975,
    "visible images, test": 8680,
    "infrared images, test": 7166,
}


def read_training(root: Path, options: DataOptions, found: Findings) -> Index:
    """Reads the images of the training lists."""
    rows: list[tuple[str, int, int, Modality]] = []
    for name, (modality, _) in CAMERAS.items():
        (other,) = CAMERAS.keys() - {name}
        for number, path, label in read_list(root, f"train_{name}.txt", found):
            words = re.split("[/_.]", path)
            if other in words and name not in words:
                text = f"{path} is of the other modality; restore the list"
                found.fault("other modality", f"{root}/idx/train_{name}.txt, line {number}", text)
            rows.append((path, label, camid_of(path), modality))
    index = make_index(root, rows)
    for row, _ in repeated(index.paths):
        text = "is in both training lists; remove it from one of them"
        found.fault("listed twice", index.path(row), text)
    find_missing_files(found, index, [f"idx/train_{name}.txt" for name in CAMERAS])
    if found.has_only("missing file"):
        where = f"{root / 'idx/train_*.txt'}, label {{}}"
        find_missing_modality(found, index, where, is_fault=options.sampling == "balanced")
    return index


def read_protocol(root: Path, options: DataOptions, found: Findings) -> Protocol | None:
    """Reads the test images and ten trials of each mode."""
    if not any((root / name).exists() for name in (TEST_IDS, "test_vis", "test_nir")):
        text = (
            "missing, and so are test_vis and test_nir: enough to train on, but not to test; "
            "restore all three"
        )
        found.fault("no test", root / TEST_IDS, text)
        return None
    index = read_test(root, found)
    if found.faults:
        return None
    everything = {m: np.flatnonzero(index.modality == m) for m in Modality}
    sampled = {m: [_sample(index, m, trial) for trial in range(NUM_TRIALS)] for m in Modality}
    modes = (
        Mode(
            "infrared to visible",
            tuple(Trial(everything[Modality.IR], rows) for rows in sampled[Modality.RGB]),
        ),
        Mode(
            "visible to infrared",
            tuple(Trial(everything[Modality.RGB], rows) for rows in sampled[Modality.IR]),
        ),
        Mode(
            "visible to infrared (published code)",
            tuple(Trial(rows, everything[Modality.RGB]) for rows in sampled[Modality.IR]),
        ),
    )
    protocol = Protocol("llcm", index, modes, RULES["llcm"])
    if not all(protocol.num_matches(t).any() for mode in modes for t in mode.trials):
        text = (
            "no identity can be found across modalities (test_vis, test_nir; images of one "
            "identity and camera do not count); restore the folders"
        )
        found.fault("no match", root / TEST_IDS, text)
    return protocol


def read_test(root: Path, found: Findings) -> Index:
    """Reads all test images, ordered by modality, identity, camera and file name."""
    pids = read_ids(root, TEST_IDS, found)
    rows: list[tuple[str, int, int, Modality]] = []
    for name, (modality, cameras) in CAMERAS.items():
        for camid in cameras:
            _check_camera(root, f"test_{name}/cam{camid}", pids, found)
        for pid in pids:
            for camid in cameras:
                folder = f"test_{name}/cam{camid}/{pid:04d}"
                paths = list_images(root, folder, found)
                if not paths and (root / folder).is_dir():
                    found.fault("no image", root / folder, "holds no image; restore its images")
                rows += [(path, pid, camid, modality) for path in paths]
    index = make_index(root, rows)
    for pid in sorted({*pids} - {*index.pids.tolist()}):
        text = "has no image in test_vis or test_nir; restore them, or take it off the list"
        found.fault("no image", f"{root / TEST_IDS}, identity {pid}", text)
    # The published protocol searches only for identities with images in both modalities.
    find_missing_modality(found, index, f"{root / TEST_IDS}, identity {{}}", is_fault=False)
    return index


def _check_camera(root: Path, folder: str, pids: list[int], found: Findings) -> None:
    """Records a missing camera folder, and identities in it that are not on the list."""
    if not (root / folder).is_dir():
        found.fault("missing folder", root / folder, "missing; restore this camera's images")
    listed = {f"{pid:04d}" for pid in pids}
    others = [name for name in list_folders(root, folder) if name not in listed]
    if others and pids:
        text = f"is not in {TEST_IDS}: not tested ({len(others)} such identities of this camera)"
        found.warn("in no list", root / folder / others[0], text)


def survey(root: Path, options: DataOptions, found: Findings) -> None:
    """Checks the training lists, and the folders of the test identities."""
    training, test = Findings(root), Findings(root)
    indices = {"train": read_training(root, options, training)}
    read_protocol(root, options, test)
    found.merge(training)
    found.merge(test)
    indices["test"] = read_test(root, Findings(root))
    counts: dict[str, int] = {}
    for part, index in indices.items():
        found.add_images(index)
        counts[f"identities, {part}"] = len(np.unique(index.pids))
        for name, modality in (("visible", Modality.RGB), ("infrared", Modality.IR)):
            counts[f"{name} images, {part}"] = int((index.modality == modality).sum())
    found.count(counts, COUNTS)


def _sample(index: Index, modality: Modality, trial: int) -> Int64[ndarray, " g"]:
    """Draws one row per identity and camera, in the published code's order and with its seeds."""
    draws = random.Random(trial)
    rows = np.flatnonzero(index.modality == modality)  # by identity, then camera
    if not len(rows):
        return rows
    pairs = np.stack([index.pids[rows], index.camids[rows]], axis=1)
    starts = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)])
    return np.array([draws.choice(group) for group in np.split(rows, starts[1:])], np.int64)


def camid_of(path: str) -> int:
    """Returns the camera in a file's name (`0001_c01_…`) or folder (`cam1`), or 0."""
    name = re.search(r"_c(\d+)(?=_|\.)", path) or re.search(r"(?:^|/)cam(\d+)/", path)
    return (number_of(name.group(1)) or 0) if name else 0


KIND = Kind(
    "LLCM: idx/train_{vis,nir}.txt, idx/test_id.txt, test_vis, test_nir",
    ("idx", "test_vis", "test_nir"),
    read_training,
    read_protocol,
    survey,
)
