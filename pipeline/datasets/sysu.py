"""SYSU-MM01: `cam{1..6}/%04d/%04d.jpg`, `exp/{train,val,test}_id.txt`, `exp/rand_perm_cam.mat`.

Protocol (Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017, and the
evaluation code that its authors published): every infrared image of a test identity is a query; the
gallery of trial t holds, for each test identity and RGB camera, the image that the t-th row of
`rand_perm_cam.mat` puts first. Cameras 2 and 3 stand in one place, so a query of camera 3 ignores
the gallery images of camera 2.
"""

import os
from pathlib import Path

import numpy as np
import scipy.io

from pipeline.datasets.records import Index, Modality, Protocol, Trial
from pipeline.errors import InputError

CAMERAS = {
    1: Modality.RGB,
    2: Modality.RGB,
    3: Modality.IR,
    4: Modality.RGB,
    5: Modality.RGB,
    6: Modality.IR,
}
GALLERY_CAMERAS = (1, 2, 4, 5)  # all-search
NUM_TRIALS = 10
PERMUTATIONS = Path("exp", "rand_perm_cam.mat")


def read_training(root: Path, split: str) -> Index:
    """Reads the images of a split's identities.

    `split` names id lists joined by "+", as "train+val". Raises `InputError` when the folder, a
    list or an identity's images are missing.
    """
    pids = sorted({pid for part in split.split("+") for pid in read_ids(root, part)})
    index = _read_images(root, pids)
    empty = sorted(set(pids) - set(index.pids.tolist()))
    if empty:
        raise InputError(
            f"{root}: identity {empty[0]} of exp/{split}_id.txt has no image in any camera folder "
            f"({len(empty)} such identities); restore cam*/{empty[0]:04d} or take it off the list"
        )
    return index


def read_protocol(root: Path) -> Protocol:
    """Reads the test images and the ten trials of the all-search single-shot protocol.

    Raises `InputError` when a file is missing or does not fit the images.
    """
    index = _read_images(root, read_ids(root, "test"))
    query = np.flatnonzero(index.modality == Modality.IR)
    if not len(query):
        raise InputError(
            f"{root}: no infrared image (cam3, cam6) of an identity of exp/test_id.txt"
        )
    permutations = _read_permutations(root)
    place = np.where(index.camids == 3, 2, index.camids)
    trials = []
    for trial in range(NUM_TRIALS):
        gallery = _gallery(index, permutations, trial)
        trials.append(Trial(query, gallery, place[query], place[gallery]))
    if not all(trial.has_match(index) for trial in trials):
        raise InputError(
            f"{root}: no identity of exp/test_id.txt has an RGB image (cam1, 2, 4, 5) that its "
            "infrared images may be matched with (cam3 ignores cam2); add identities to the list"
        )
    return Protocol("sysu all-search single-shot", index, tuple(trials), cmc_unique_pids=True)


def read_ids(root: Path, part: str) -> list[int]:
    """The identities of `exp/<part>_id.txt`: one line of comma-separated integers."""
    path = root / "exp" / f"{part}_id.txt"
    if not root.is_dir():
        raise InputError(
            f"--data.root {root}: no such folder; "
            f"`cdp data make {root}` writes a synthetic set there"
        )
    if not path.is_file():
        raise InputError(f"{path}: missing; --data.root must be the folder with cam1…cam6 and exp/")
    fields = [field for field in path.read_text().replace("\n", ",").split(",") if field.strip()]
    if not fields:
        raise InputError(f"{path}: lists no identity; expected comma-separated integers as 1,2,3")
    for field in fields:
        if not field.strip().isdecimal():
            raise InputError(
                f"{path}: {field.strip()!r} is no identity; expected integers as 1,2,3"
            )
    return [int(field) for field in fields]


def _read_images(root: Path, pids: list[int]) -> Index:
    """All images of `pids`, ordered by camera, identity and file name."""
    paths: list[bytes] = []
    keys: list[tuple[int, int]] = []
    for camid in CAMERAS:
        for pid in pids:
            folder = f"cam{camid}/{pid:04d}"
            try:
                names = sorted(n for n in os.listdir(root / folder) if n.lower().endswith(".jpg"))
            except FileNotFoundError:
                continue  # this camera never saw this identity
            paths += [os.fsencode(f"{folder}/{name}") for name in names]
            keys += [(pid, camid)] * len(names)
    columns = np.array(keys, np.int64).reshape(-1, 2)
    camids = np.ascontiguousarray(columns[:, 1])
    modality = np.array([CAMERAS.get(c, 0) for c in range(7)], np.uint8)[camids]
    return Index(root, np.array(paths, np.bytes_), columns[:, 0].copy(), camids, modality)


def _read_permutations(root: Path) -> list[list[np.ndarray]]:
    """[camera - 1][pid - 1] -> int [10, images], 1-based; short where a camera saw no later pid."""
    path = root / PERMUTATIONS
    if not path.is_file():
        raise InputError(
            f"{path}: missing; it is not in the SYSU-MM01 download but in its authors' evaluation "
            "code (data_split/rand_perm_cam.mat of github.com/wuancong/SYSU-MM01): copy it there"
        )
    try:
        cells = scipy.io.loadmat(path)["rand_perm_cam"]
        return [list(cells[c][0].reshape(-1)) for c in range(len(CAMERAS))]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not SYSU-MM01's permutations ({error}); copy it again"
        ) from error


def _gallery(index: Index, permutations: list[list[np.ndarray]], trial: int) -> np.ndarray:
    """Rows of the single-shot gallery: for each camera and identity the trial's first image."""
    rows = []
    for camid in GALLERY_CAMERAS:
        of_camera = permutations[camid - 1]
        in_camera = np.flatnonzero(index.camids == camid)
        for pid in np.unique(index.pids[in_camera]):
            images = in_camera[index.pids[in_camera] == pid]
            order = of_camera[pid - 1] if pid <= len(of_camera) else np.empty((0, 0))
            if order.shape[0] <= trial or sorted(order[trial]) != list(range(1, len(images) + 1)):
                raise InputError(
                    f"{index.root / PERMUTATIONS}: trial {trial + 1} does not order the "
                    f"{len(images)} images of cam{camid}/{pid:04d}; images or permutations are not "
                    "of one release: restore both from the same source"
                )
            rows.append(images[order[trial][0] - 1])
    return np.array(rows, np.int64)
