"""SYSU-MM01: `cam{1..6}/%04d/%04d.jpg`, `exp/{train,val,test}_id.txt`, `exp/rand_perm_cam.mat`.

Protocol (Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017, and the
evaluation code that its authors published): every infrared image of a test identity is a query; the
gallery of trial t holds, for each test identity and RGB camera, the images that the t-th row of
`rand_perm_cam.mat` puts first: one (single-shot) or ten (multi-shot). All-search has the galleries
of all RGB cameras, indoor search those of cameras 1 and 2.
"""

from pathlib import Path

import numpy as np
import scipy.io
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.lists import list_images, read_id_list
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial, make_index
from pipeline.datasets.rules import RULES
from pipeline.errors import InputError

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
NUM_TRIALS = 10
PERMUTATIONS = Path("exp", "rand_perm_cam.mat")
WHERE_TO_GET_PERMUTATIONS = (
    "it is not in the SYSU-MM01 download but in its authors' evaluation code "
    "(evaluation/data_split/rand_perm_cam.mat of github.com/wuancong/SYSU-MM01): copy it there"
)
STAND_IN = (
    "galleries drawn from a seed, not by SYSU-MM01's rand_perm_cam.mat: not comparable with "
    "published figures"
)
Permutations = list[list[np.ndarray]]


def read_training(root: Path, split: str) -> Index:
    """Reads the images of a split's identities.

    `split` names id lists joined by "+", as "train+val". Raises `InputError` when the folder, a
    list or an identity's images are missing.
    """
    pids = sorted({pid for part in split.split("+") for pid in read_ids(root, part)})
    index = read_images(root, pids)
    empty = sorted(set(pids) - set(index.pids.tolist()))
    if empty:
        raise InputError(
            f"{root}: identity {empty[0]} of exp/{split}_id.txt has no image in any camera folder "
            f"({len(empty)} such identities); restore cam*/{empty[0]:04d} or take it off the list"
        )
    return index


def read_protocol(root: Path, stand_in: bool = False) -> Protocol:
    """Reads the test images and the ten trials of each of the four modes.

    With `stand_in` a missing `rand_perm_cam.mat` is replaced by seeded permutations, and the
    protocol's remark says so. Raises `InputError` when a file is missing or does not fit.
    """
    index = read_images(root, read_ids(root, "test"))
    query = np.flatnonzero(index.modality == Modality.IR)
    if not len(query):
        raise InputError(
            f"{root}: no infrared image (cam3, cam6) of an identity of exp/test_id.txt"
        )
    drawn = stand_in and not (root / PERMUTATIONS).exists()
    permutations = None if drawn else read_permutations(root)
    modes = tuple(
        Mode(name, tuple(Trial(query, rows) for rows in _galleries(index, permutations, *what)))
        for name, what in MODES.items()
    )
    protocol = Protocol("sysu", index, modes, RULES["sysu"], STAND_IN if drawn else "")
    for trial in modes[0].trials:
        if not protocol.num_matches(trial).any():
            raise InputError(
                f"{root}: no identity of exp/test_id.txt has an RGB image (cam1, 2, 4, 5) that its "
                "infrared images may be matched with (cam3 ignores cam2); add identities to the "
                "list"
            )
    return protocol


def id_file(root: Path, part: str) -> Path:
    """Where the identities of `part` (train, val, test) are listed."""
    return root / "exp" / f"{part}_id.txt"


def read_ids(root: Path, part: str) -> list[int]:
    """The identities of `exp/<part>_id.txt`: one line of comma-separated integers."""
    path = id_file(root, part)
    if not path.is_file():
        raise InputError(f"{path}: missing; --data.root must be the folder with cam1…cam6 and exp/")
    return read_id_list(path)


def read_images(root: Path, pids: list[int]) -> Index:
    """All images of `pids`, ordered by camera, identity and file name."""
    rows: list[tuple[str, int, int, Modality]] = []
    for camid, modality in CAMERAS.items():
        for pid in pids:
            paths = list_images(root, f"cam{camid}/{pid:04d}", (".jpg",))
            rows += [(path, pid, camid, modality) for path in paths]
    return make_index(root, rows)


def read_permutations(root: Path) -> Permutations:
    """[camera - 1][pid - 1] -> int [10, images], 1-based; short where a camera saw no later pid."""
    path = root / PERMUTATIONS
    if not path.is_file():
        raise InputError(
            f"{path}: missing; {WHERE_TO_GET_PERMUTATIONS}, or pass --data.stand-in-galleries to "
            "test on galleries whose figures compare with nobody's"
        )
    try:
        cells = scipy.io.loadmat(path)["rand_perm_cam"]
        return [list(cells[c][0].reshape(-1)) for c in range(len(CAMERAS))]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not SYSU-MM01's permutations ({error}); copy it again"
        ) from error


def _galleries(
    index: Index, permutations: Permutations | None, cameras: tuple[int, ...], shots: int
) -> list[Int64[ndarray, " g"]]:
    """Rows of each trial's gallery: of each camera and identity the trial's first images."""
    picked: list[np.ndarray] = []  # [trial, shot] of a camera and identity
    for camid in cameras:
        in_camera = np.flatnonzero(index.camids == camid)
        for pid in np.unique(index.pids[in_camera]):
            images = in_camera[index.pids[in_camera] == pid]
            if permutations is None:
                rng = np.random.default_rng([camid, int(pid)])
                order = rng.permuted(np.tile(np.arange(len(images)), (NUM_TRIALS, 1)), axis=1)
            else:
                order = permutation_of(permutations, camid, int(pid), len(images), index.root) - 1
            picked.append(images[order[:, :shots]])
    if not picked:
        return [np.empty(0, np.int64)] * NUM_TRIALS
    return list(np.concatenate(picked, axis=1))


def permutation_of(
    permutations: Permutations, camid: int, pid: int, num_images: int, root: Path
) -> Int64[ndarray, "trials n"]:
    """The ten orders of the images of one camera and identity, 1-based.

    Raises `InputError` when they do not order exactly `num_images` images.
    """
    of_camera = permutations[camid - 1]
    order = of_camera[pid - 1] if pid <= len(of_camera) else np.empty((0, 0))
    fits = order.shape == (NUM_TRIALS, num_images)
    if not fits or (np.sort(order, axis=1) != np.arange(1, num_images + 1)).any():
        raise InputError(
            f"{root / PERMUTATIONS}: does not order the {num_images} images of "
            f"cam{camid}/{pid:04d}; images or permutations are not of one release: restore both "
            "from the same source"
        )
    return order.astype(np.int64)
