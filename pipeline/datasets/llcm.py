"""LLCM: `idx/train_{vis,nir}.txt`, `idx/test_id.txt`, `test_{vis,nir}/cam{1..9}/%04d/`.

Protocol (Zhang and Wang, CVPR 2023, and the code they published): the gallery of trial t holds one
random image of each test identity and camera, drawn as Python's `random.seed(t); random.choice`
draws it over the sorted identities and cameras; all images of the other modality are queries.

The published test code scores the third mode here under the name "VIS to IR": it turns the ranking
round, so that the sampled infrared images search among all visible ones. The results its repository
asks to cite come from it; `visible to infrared` is what the protocol's text says.
"""

import random
import re
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.lists import list_images, read_id_list, read_list
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial, make_index
from pipeline.datasets.rules import RULES
from pipeline.errors import InputError

CAMERAS = {  # folder: cameras; no infrared image of camera 3 exists
    "vis": (Modality.RGB, (1, 2, 3, 4, 5, 6, 7, 8, 9)),
    "nir": (Modality.IR, (1, 2, 4, 5, 6, 7, 8, 9)),
}
NUM_TRIALS = 10
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def read_training(root: Path) -> Index:
    """Reads the training lists; raises `InputError` naming a missing list or a bad line."""
    rows: list[tuple[str, int, int, Modality]] = []
    for name, (modality, _) in CAMERAS.items():
        for path, label in read_list(root, f"train_{name}.txt"):
            rows.append((path, label, camid_of(path), modality))
    return make_index(root, rows)


def read_protocol(root: Path) -> Protocol:
    """Reads the test images and ten trials of each mode; `InputError` if there are none to rank."""
    index = read_test(root)
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
        raise InputError(
            f"{root}: no identity of idx/test_id.txt can be found across modalities (test_vis, "
            "test_nir; images of one identity and camera do not count); restore the folders"
        )
    return protocol


def read_test(root: Path) -> Index:
    """All test images, ordered by modality, identity, camera and file name."""
    file = root / "idx" / "test_id.txt"
    if not file.is_file():
        raise InputError(f"{file}: missing; --data.root must be the folder that holds idx/")
    pids = sorted(read_id_list(file))
    rows: list[tuple[str, int, int, Modality]] = []
    for name, (modality, cameras) in CAMERAS.items():
        for pid in pids:
            for camid in cameras:
                paths = list_images(root, f"test_{name}/cam{camid}/{pid:04d}", SUFFIXES)
                rows += [(path, pid, camid, modality) for path in paths]
    return make_index(root, rows)


def _sample(index: Index, modality: Modality, trial: int) -> Int64[ndarray, " g"]:
    """One row of each identity and camera, in the order and by the draws of the published code."""
    draws = random.Random(trial)
    rows = np.flatnonzero(index.modality == modality)  # by identity, then camera
    if not len(rows):
        return rows
    pairs = np.stack([index.pids[rows], index.camids[rows]], axis=1)
    starts = np.flatnonzero(np.r_[True, (pairs[1:] != pairs[:-1]).any(axis=1)])
    return np.array([draws.choice(group) for group in np.split(rows, starts[1:])], np.int64)


def camid_of(path: str) -> int:
    """The camera that a file's name (`0001_c01_…`) or folder (`cam1`) tells; 0 if neither does."""
    found = re.search(r"_c(\d+)(?=_|\.)", path) or re.search(r"(?:^|/)cam(\d+)/", path)
    return int(found.group(1)) if found else 0
