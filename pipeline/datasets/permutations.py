"""SYSU-MM01's `rand_perm_cam.mat`: the order in which galleries take the images of each folder.

It orders every image of every identity and camera, so it also says how many a folder must hold.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.findings import Findings
from pipeline.datasets.lists import reading
from pipeline.datasets.matlab import Value, read_mat
from pipeline.datasets.records import Index
from pipeline.errors import InputError

NUM_TRIALS = 10
NUM_CAMERAS = 6
PERMUTATIONS = Path("exp", "rand_perm_cam.mat")
WHERE_TO_GET_PERMUTATIONS = (
    "it is not in the SYSU-MM01 download but in its authors' evaluation code "
    "(evaluation/data_split/rand_perm_cam.mat of github.com/wuancong/SYSU-MM01): copy it there"
)
Permutations = list[list[Int64[ndarray, "10 _"]]]  # [camera - 1][pid - 1], 1-based


def read_permutations(root: Path) -> Permutations:
    """Reads `rand_perm_cam.mat`; a camera's list ends after the last pid that it saw.

    Raises `InputError` if it is missing, cannot be read, or holds no orders.
    """
    path = root / PERMUTATIONS
    if not path.exists():
        raise InputError(
            f"{path}: missing; {WHERE_TO_GET_PERMUTATIONS}, or pass --data.stand-in-galleries to "
            "test on galleries that are not comparable with published ones"
        )
    try:
        with reading(path):
            cameras = read_mat(path.read_bytes(), "rand_perm_cam")
            if len(cameras) != NUM_CAMERAS:
                raise ValueError(f"of {len(cameras)} cameras")
            return [[_orders_in(cell) for cell in camera] for camera in cameras]
    except (InputError, MemoryError) as error:
        cause = error.__cause__ or error
        reason = (isinstance(cause, OSError) and cause.strerror) or cause
        raise InputError(
            f"{path}: not SYSU-MM01's permutations ({reason}); copy it again"
        ) from error


def _orders_in(cell: Value) -> Int64[ndarray, "10 n"]:
    """Returns the ten orders in a cell of `rand_perm_cam.mat`; raises `ValueError` if invalid."""
    if isinstance(cell, list):
        raise ValueError("a cell of cells, not of orders")
    if not cell.size:
        return np.empty((NUM_TRIALS, 0), np.int64)
    numbers = np.arange(1, cell.shape[-1] + 1)
    if cell.ndim != 2 or len(cell) != NUM_TRIALS or (np.sort(cell, axis=1) != numbers).any():
        raise ValueError(f"a cell of shape {cell.shape} is not ten orders of n images")
    return cell.astype(np.int64)


def orders_of(permutations: Permutations, camid: int, pid: int) -> Int64[ndarray, "10 n"]:
    """Returns the orders of one camera's images of one identity, empty if it did not see it."""
    of_camera = permutations[camid - 1]
    return of_camera[pid - 1] if 1 <= pid <= len(of_camera) else np.empty((NUM_TRIALS, 0), np.int64)


def find_gaps(found: Findings, index: Index) -> None:
    """Warns of folders whose images are not numbered from 1: galleries take the n-th file."""
    gaps: list[str] = []
    previous, number = "", 0
    for path in index.paths.tolist():
        folder, _, name = path.decode(errors="replace").rpartition("/")
        number = number + 1 if folder == previous else 1
        previous = folder
        if name.partition(".")[0] != f"{number:04d}" and folder not in gaps[-1:]:
            gaps.append(folder)
    if gaps:
        text = (
            f"its images are not numbered without gaps ({len(gaps)} such folders); galleries take "
            "the n-th file: if one was renamed, restore it"
        )
        found.warn("gaps", index.root / gaps[0], text)


def compare_folder(found: Findings, index: Index, camid: int, pid: int, wanted: int) -> None:
    """Records images that a folder lacks, or has too many of, compared with `rand_perm_cam.mat`.

    The latter refers to the n-th file, whatever its number; images are named if numbers tell which.
    """
    root, folder = index.root, folder_of(camid, pid)
    mine = index.paths[(index.pids == pid) & (index.camids == camid)].tolist()
    there = {path.decode(errors="replace").rpartition(".")[0] for path in mine}
    names = {f"{folder}/{n:04d}" for n in range(1, wanted + 1)}
    orders = f"rand_perm_cam.mat orders {wanted} images of this folder, not {len(mine)}"
    kind, remedy = ("missing file", "restore") if len(mine) < wanted else ("extra file", "remove")
    if not mine:
        found.fault("missing folder", root / folder, f"{orders}; restore it")
    elif there < names or names < there:
        for name in sorted(names ^ there):
            found.fault(kind, f"{root / name}.jpg", f"{orders}; {remedy} it")
    else:
        found.fault(kind, root / folder, f"{orders}; {remedy} the others")


def folder_of(camid: int, pid: int) -> str:
    """Returns the folder of one camera's images of one identity."""
    return f"cam{camid}/{pid:04d}"
