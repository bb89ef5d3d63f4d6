"""The embedded data set: synthetic people in the layout of SYSU-MM01.

This module has the options and the files; `population` has the people, cameras and scenes; `people`
draws. What changed from version to version, and why, is in pipeline/README.md.
"""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.datasets.body import Identity
from pipeline.datasets.lists import reading
from pipeline.datasets.people import render
from pipeline.datasets.population import (
    CAMERAS,
    LAYOUT,
    PIXELS,
    THERMAL_CAMERAS,
    TRIALS,
    identity,
    scene,
    stream,
    warm,
)
from pipeline.errors import InputError

VERSION = 2  # raise when the same options give different pictures
ABOUT = "synthetic.json"  # in the folder of a generated set
JPEG_QUALITY = 97
NUM_TRIALS = 10


def recipe(root: Path) -> dict[str, int] | None:
    """Returns the options that the set in `root` was made with, or None if it is not synthetic.

    Raises `InputError` if the file with the options is damaged.
    """
    file = root / ABOUT
    if not file.is_file():
        return None
    with reading(file):
        options = json.loads(file.read_text())["options"]
        return {name: int(number) for name, number in options.items()}


def title(root: Path) -> str | None:
    """Returns a name for the synthetic set in `root` that tells versions apart, or None.

    Raises like `recipe`.
    """
    options = recipe(root)
    if options is None:
        return None
    with reading(root / ABOUT):
        version = int(json.loads((root / ABOUT).read_text())["version"])
    kind = "thermal synthetic people" if options.get("thermal") else "synthetic people"
    return f"{kind} v{version}"


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """What the synthetic data set holds."""

    num_train: int = 590
    """Identities to train on."""

    num_val: int = 10
    """Identities for validation."""

    num_test: int = 100
    """Identities to test on."""

    images_per_camera: int = 2
    """Mean number of images of an identity per camera that sees it."""

    seed: int = 0
    """Seed for the people and all pictures."""

    thermal: bool = False
    """Far-infrared cameras, as in RegDB, instead of near-infrared ones; RGB images are equal."""

    def __post_init__(self) -> None:
        for field in fields(self):  # names of files and folders have four digits
            if field.name == "thermal":
                continue
            low, high = (0, 2**63 - 1) if field.name == "seed" else (1, 3000)
            value = getattr(self, field.name)
            if not low <= value <= high:
                name = field.name.replace("_", "-")
                raise InputError(f"--{name} {value}: must be in {low}…{high}")

    @property
    def num_ids(self) -> int:
        """All identities."""
        return self.num_train + self.num_val + self.num_test


def make(
    root: Path,
    options: SyntheticOptions,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Writes the data set to `root` and returns its number of images.

    Every pixel is a pure function of (options, identity, camera, image), whatever the number of
    worker processes (None: one per core; 1: this process only). Workers are spawned, so a script
    must call this under `if __name__ == "__main__"`. `on_progress` gets (images done, total).
    Raises `InputError` if `root` is not empty or workers < 1.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise InputError(f"workers is {workers}: must be at least 1")
    root = root.absolute()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: exists and is not empty; delete it or name another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    pids = range(1, options.num_ids + 1)
    done, total = 0, sum(sum(_counts(options, pid)) for pid in pids)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        partial_root = Path(scratch, root.name)
        partial_root.mkdir()
        write = partial(_write_identity, partial_root, options)
        if workers == 1:
            for count in map(write, pids):
                done += count
                on_progress(done, total)
        else:
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, len(pids)), spawn) as pool:
                try:
                    for count in pool.map(write, pids):
                        done += count
                        on_progress(done, total)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        _write_protocol(partial_root, options)
        if root.exists():
            root.rmdir()
        partial_root.rename(root)
    return total


def _counts(options: SyntheticOptions, pid: int) -> list[int]:
    """Returns the number of images of an identity in each camera, zero where it is not seen."""
    rng = stream(options.seed, LAYOUT, pid)
    seen = rng.random(len(CAMERAS)) < 0.85
    for modality in ("rgb", "ir"):
        group = [i for i, camera in enumerate(CAMERAS) if camera.modality == modality]
        seen[rng.choice(group)] |= not seen[group].any()
    mean = options.images_per_camera
    spread = (3 * mean + 5) // 10
    numbers = rng.integers(mean - spread, mean + spread + 1, len(CAMERAS)) * seen
    return [int(number) for number in numbers]


def _person(options: SyntheticOptions, pid: int) -> Identity:
    person = identity(options.seed, pid)
    return warm(person, options.seed, pid) if options.thermal else person


def _write_identity(root: Path, options: SyntheticOptions, pid: int) -> int:
    person, counts = _person(options, pid), _counts(options, pid)
    cameras = THERMAL_CAMERAS if options.thermal else CAMERAS
    for camera, count in zip(cameras, counts, strict=True):
        folder = root / f"cam{camera.camid}" / f"{pid:04d}"
        if count:
            folder.mkdir(parents=True)
        for image in range(1, count + 1):
            rng = stream(options.seed, PIXELS, pid, camera.camid, image)
            stranger = rng.integers(2**31) if rng.random() < 0.12 else None
            other = None if stranger is None else _person(options, 9999 + int(stranger))
            view = scene(camera.scene, camera.band)
            pixels = Image.fromarray(render(person, camera, view, other, rng))
            pixels.save(folder / f"{image:04d}.jpg", quality=JPEG_QUALITY)
    return sum(counts)


def _write_protocol(root: Path, options: SyntheticOptions) -> None:
    """Writes the lists of identities, the trials' permutations and, last, the options."""
    import scipy.io  # slow to import, and no worker needs it

    pids = stream(options.seed, LAYOUT).permutation(options.num_ids) + 1
    train, val, test = np.split(pids, np.cumsum((options.num_train, options.num_val)))
    exp = root / "exp"
    exp.mkdir()
    for name, part in {"train": train, "val": val, "test": test, "available": pids}.items():
        (exp / f"{name}_id.txt").write_text(",".join(map(str, sorted(part.tolist()))) + "\n")
    cameras = np.empty((len(CAMERAS), 1), object)
    for row, camera in enumerate(CAMERAS):
        cameras[row, 0] = np.empty((options.num_ids, 1), object)
        for pid in range(1, options.num_ids + 1):
            count = _counts(options, pid)[row]
            order = np.tile(np.arange(1, count + 1, dtype=np.uint16), (NUM_TRIALS, 1))
            rng = stream(options.seed, TRIALS, pid, camera.camid)
            cameras[row, 0][pid - 1, 0] = rng.permuted(order, axis=1) if count else order[:0]
    path = exp / "rand_perm_cam.mat"
    scipy.io.savemat(path, {"rand_perm_cam": cameras}, do_compression=True)
    # SciPy puts the time into the header's free text, which would make equal sets differ.
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + path.read_bytes()[116:])
    about = {"version": VERSION, "options": asdict(options)}
    (root / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
