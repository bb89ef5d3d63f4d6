"""Fake data sets of each kind, with the official layout and sizes but tiny images."""

import csv
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

COUNTS = Path(__file__).parent / "pipeline" / "datasets" / "sysu_mm01_counts.csv"
Write = Callable[[Path, int, bool], None]


def touch(path: Path, pid: int, infrared: bool) -> None:
    """Writes an empty file, for tests that never read its content."""
    os.mknod(path)  # faster than path.touch(), for 45,863 files


def paint(path: Path, pid: int, infrared: bool) -> None:
    """Writes a small picture in a colour unique to the person, which a network learns quickly."""
    noise = np.random.default_rng([*str(path).encode()])
    colour = np.random.default_rng(pid).integers(40, 215, 3)
    pixels = colour + noise.integers(-20, 20, (32, 16, 3))
    if infrared:
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def sysu_mm01(root: Path, write: Write = touch) -> Path:
    """Writes SYSU-MM01 with the official identities, cameras and numbers of images (45,863)."""
    with COUNTS.open() as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng(0)
    cells = np.empty((6, 1), object)
    for camera in range(1, 7):
        # As in the official file, whose cells for cameras 1, 2 and 6 stop at 333.
        cells[camera - 1, 0] = np.empty((333 if camera in (1, 2, 6) else 533, 1), object)
        for pid in range(len(cells[camera - 1, 0])):
            cells[camera - 1, 0][pid, 0] = np.empty((10, 0), np.uint8)
        for row in rows:
            pid, count = int(row["pid"]), int(row[f"cam{camera}"])
            if not count:
                continue
            folder = root / f"cam{camera}" / f"{pid:04d}"
            folder.mkdir(parents=True)
            for image in range(1, count + 1):
                write(folder / f"{image:04d}.jpg", pid, camera in (3, 6))
            orders = np.tile(np.arange(1, count + 1, dtype=np.uint8), (10, 1))
            cells[camera - 1, 0][pid - 1, 0] = rng.permuted(orders, axis=1)
    (root / "exp").mkdir()
    for split in ("train", "val", "test"):
        pids = [row["pid"] for row in rows if row["split"] == split]
        (root / "exp" / f"{split}_id.txt").write_text(",".join(pids) + "\n")
    scipy.io.savemat(root / "exp" / "rand_perm_cam.mat", {"rand_perm_cam": cells})
    return root


def regdb(root: Path, num_ids: int = 12, num_images: int = 4, write: Write = paint) -> Path:
    """Writes RegDB: BMP files, ten random halves; officially 412 people with 10 + 10 images."""
    files: dict[str, dict[int, list[str]]] = {}
    for name in ("Visible", "Thermal"):
        files[name] = {}
        for pid in range(1, num_ids + 1):
            (root / name / str(pid)).mkdir(parents=True)
            letter = name[0].lower()
            files[name][pid] = [
                f"{name}/{pid}/male_back_{letter}_{100 * pid + i:05d}_{pid}.bmp"
                for i in range(num_images)
            ]
            for path in files[name][pid]:
                write(root / path, pid, name == "Thermal")
    (root / "idx").mkdir()
    rng = np.random.default_rng(0)
    for trial in range(1, 11):
        halves = np.split(rng.permutation(num_ids) + 1, 2)
        for part, pids in zip(("train", "test"), halves, strict=True):
            for name, of_pid in files.items():
                lines = [
                    f"{path} {label}\n"
                    for label, pid in enumerate(pids.tolist())
                    for path in of_pid[pid]
                ]
                path = root / "idx" / f"{part}_{name.lower()}_{trial}.txt"
                path.write_text("".join(lines))
    return root


def llcm(root: Path, num_train: int = 6, num_test: int = 5, write: Write = paint) -> Path:
    """Writes LLCM: nine visible and eight infrared cameras; officially 713 + 351 people."""
    rng = random.Random(0)
    (root / "idx").mkdir(parents=True)
    cameras = {"vis": (1, 2, 3, 4, 5, 6, 7, 8, 9), "nir": (1, 2, 4, 5, 6, 7, 8, 9)}
    for name, of_modality in cameras.items():
        lines = []
        for camera in of_modality:
            (root / f"test_{name}" / f"cam{camera}").mkdir(parents=True)
        for pid in range(1, num_train + num_test + 1):
            for camera in sorted(rng.sample(of_modality, 3)):
                is_test = pid > num_train
                folder = f"test_{name}/cam{camera}/{pid:04d}" if is_test else f"{name}/{pid:04d}"
                (root / folder).mkdir(parents=True, exist_ok=True)
                for image in range(rng.randint(1, 4)):
                    file = (
                        f"{folder}/{pid:04d}_c{camera:02d}_s{camera}{image:05d}_f{image}_{name}.jpg"
                    )
                    write(root / file, pid, name == "nir")
                    if not is_test:
                        lines.append(f"{file} {pid - 1}\n")
        (root / "idx" / f"train_{name}.txt").write_text("".join(lines))
    pids = range(num_train + 1, num_train + num_test + 1)
    (root / "idx" / "test_id.txt").write_text(",".join(map(str, pids)) + "\n")
    return root


def table(
    root: Path, num_train: int = 6, num_test: int = 5, roles: bool = True, write: Write = paint
) -> Path:
    """Writes a CSV file of JPEG, PNG and BMP images, two cameras per modality."""
    (root / "pictures").mkdir(parents=True)
    lines = ["path,pid,camid,modality,split" + (",role" if roles else "")]
    for pid in range(num_train + num_test):
        split = "train" if pid < num_train - 1 else "val" if pid < num_train else "test"
        for camid in range(1, 5):
            infrared = camid > 2
            for image in range(3):
                suffix = ("jpg", "png", "bmp")[image]
                path = f"pictures/{pid}-{camid}-{image}.{suffix}"
                write(root / path, pid, infrared)
                modality = "ir" if infrared else "rgb"
                role = ("query" if infrared else "gallery") if split == "test" else ""
                lines.append(f"{path},{pid},{camid},{modality},{split}" + (f",{role}" * roles))
    file = root / "people.csv"
    file.write_text("\n".join(lines) + "\n")
    return file
