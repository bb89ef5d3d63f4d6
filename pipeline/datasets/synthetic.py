"""The embedded data set: synthetic people in the layout of SYSU-MM01.

This module has the population, the six cameras and their scenes, and the files; `people` draws.
Textile dyes mostly fade in near-infrared (NIR), so a fabric's NIR reflectance depends on the fabric
far more than on its visible colour; carbon black stays dark. Spectra are drawn from plausible
ranges, not measured.
"""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.random import Generator, Philox
from PIL import Image, ImageDraw, ImageFilter

from pipeline.datasets.lists import reading
from pipeline.datasets.people import (
    SCENE_SCALE,
    SCENE_TOP,
    SCENE_WIDTH,
    Camera,
    Identity,
    Spectrum,
    render,
)
from pipeline.errors import InputError

VERSION = 1  # raise when the same options give different pictures
ABOUT = "synthetic.json"  # in the folder of a generated set
JPEG_QUALITY = 97
NUM_TRIALS = 10
T = TypeVar("T")
IDENTITY, LAYOUT, PIXELS, TRIALS, SCENE = range(100, 105)  # purposes of random streams

# fmt: off
CAMERAS = (
    Camera(1, "rgb", "hall", (.5, .2, .3), (.10, .22), (180, 420), .04,
           (1.06, 1., .88), (.85, 1.1), .25, .12, 3., .7, .10),
    Camera(2, "rgb", "room", (.3, .4, .3), (.18, .35), (170, 400), .06,
           (.97, 1.02, 1.), (.75, 1.), .22, .25, 3.5, .8, .15),
    Camera(3, "ir", "room", (.3, .4, .3), (.18, .35), (170, 380), .06,
           (1., 1., 1.), (.85, 1.3), .36, .15, 5.5, 1., .40),
    Camera(4, "rgb", "street", (.4, .35, .25), (.05, .15), (150, 400), .04,
           (1., 1., 1.05), (.9, 1.25), .40, .30, 3., .6, .05),
    Camera(5, "rgb", "yard", (.2, .3, .5), (.12, .30), (140, 380), .08,
           (.93, 1., 1.12), (.65, 1.), .35, .35, 4.5, 1., .12),
    Camera(6, "ir", "park", (.35, .35, .3), (.08, .20), (150, 380), .06,
           (1., 1., 1.), (.75, 1.25), .40, .20, 7., 1.2, .45),
)
# height of the wall's foot, spectra of wall and floor, things: share, width, bottom, top, spectrum
_Thing = tuple[float, float, float, float, Spectrum]
_SCENES: dict[str, tuple[float, Spectrum, Spectrum, tuple[_Thing, ...]]] = {
    "hall": (.45, (196, 190, 176, 170), (128, 120, 108, 120),
             ((.5, .55, 0., 1.25, (118, 78, 48, 150)), (.4, .3, .6, 1., (60, 90, 140, 130)))),
    "room": (.62, (180, 186, 188, 150), (112, 100, 88, 105),
             ((.4, .35, 0., 1.1, (90, 94, 98, 70)), (.6, .8, -.1, .35, (150, 120, 84, 165)))),
    "street": (.35, (150, 146, 140, 135), (124, 124, 126, 110),
               ((.8, .4, .35, .95, (70, 84, 96, 50)), (.2, 1.3, -.1, .4, (140, 30, 34, 90)))),
    "yard": (.55, (126, 84, 66, 140), (140, 136, 128, 125),
             ((.6, .5, .5, 1.1, (84, 92, 96, 60)), (.5, .9, -.1, .3, (56, 84, 44, 205)))),
    "park": (.48, (96, 110, 84, 150), (116, 112, 100, 115),
             ((.6, .12, -.05, 1.5, (76, 60, 48, 110)), (.6, .7, .1, 1.6, (56, 84, 44, 200)))),
}
_COLOURS = {  # share of clothes by visible colour
    (30, 30, 34): .22, (222, 222, 218): .13, (122, 122, 124): .14, (34, 42, 74): .11,
    (54, 94, 160): .09, (166, 38, 42): .07, (190, 166, 130): .07, (52, 92, 62): .05,
    (98, 68, 48): .05, (216, 150, 166): .03, (216, 184, 64): .03, (110, 70, 140): .01,
}
_FABRICS = {  # share by range of NIR, how far NIR follows visible brightness, and only black
    (168, 224, .06, False): .40, (142, 210, .10, False): .28, (120, 184, .10, False): .20,
    (46, 90, .20, True): .12,
}
_HAIR_TONES = {(30, 26, 26): .72, (84, 60, 42): .2, (150, 140, 134): .08}
_HAIR = {"short": .42, "buzz": .08, "bob": .12, "long": .14, "tail": .12, "bun": .04, "cap": .08}
_UPPER = {"short": .38, "long": .30, "open": .20, "coat": .12}
_LOWER = {"trousers": .66, "shorts": .18, "skirt": .16}
_TEXTURE = {"plain": .36, "stripes": .14, "bars": .06, "checks": .10, "logo": .14, "back": .08,
            "block": .12}
_CARRIED = {"nothing": .42, "backpack": .30, "bag": .20, "suitcase": .08}
# fmt: on


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


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """What the synthetic data set holds."""

    num_train: int = 150
    """Identities to train on."""

    num_val: int = 10
    """Identities for validation."""

    num_test: int = 100
    """Identities to test on."""

    images_per_camera: int = 3
    """Mean number of images of an identity per camera that sees it."""

    seed: int = 0
    """Seed for the people and all pictures."""

    def __post_init__(self) -> None:
        for field in fields(self):  # names of files and folders have four digits
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


def _stream(seed: int, purpose: int, pid: int = 0, camid: int = 0, image: int = 0) -> Generator:
    """Returns the random stream for a purpose and image; the low counter word counts its values."""
    return Generator(Philox(key=[seed, purpose], counter=[0, image, camid, pid]))


def _pick(rng: Generator, shares: Mapping[T, float]) -> T:
    """Draws a key, each with the probability of its share."""
    edges = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(edges, rng.random() * edges[-1]))]


def _dye(rng: Generator) -> Spectrum:
    """Draws a dyed fabric: a visible colour, and a NIR value that depends mostly on the fabric."""
    low, high, follow, only_black = _pick(rng, _FABRICS)
    colour = next(iter(_COLOURS)) if only_black else _pick(rng, _COLOURS)
    tint = np.multiply(colour, rng.lognormal(0, 0.12)) + rng.normal(0, 6, 3)
    r, g, b = np.clip(tint, 12, 240).astype(int).tolist()
    return r, g, b, int(rng.uniform(low, high) + follow * ((r + g + b) / 3 - 100))


def identity(seed: int, pid: int) -> Identity:
    """Returns one person of the population of `seed`."""
    rng = _stream(seed, IDENTITY, pid)
    skin = np.multiply((224, 178, 150), rng.uniform(0.5, 1.05)).astype(int).tolist()
    hair = np.multiply(_pick(rng, _HAIR_TONES), rng.lognormal(0, 0.15)).astype(int).tolist()
    upper, ink, inner, lower, shoes, bag, hat = (_dye(rng) for _ in range(7))
    if rng.random() > 0.45:  # the ink absorbs no NIR, so the print vanishes there
        ink = (*ink[:3], upper[3])
    sleeve = ink if rng.random() < 0.12 else upper
    spectra = [(*skin, int(rng.uniform(186, 214))), (*hair, int(rng.uniform(64, 148)))]
    spectra += [(70, 50, 46, 100), upper, ink, sleeve, inner, lower, shoes, bag, hat]
    return Identity(
        height=rng.uniform(0.9, 1.1),
        build=float(np.clip(rng.lognormal(0, 0.13), 0.78, 1.4)),
        shoulder=rng.uniform(0.095, 0.122),
        hip=rng.uniform(0.08, 0.105),
        leg=rng.uniform(0.46, 0.52),
        head=rng.uniform(0.047, 0.056),
        loose=rng.uniform(0.002, 0.02),
        hem=rng.uniform(-0.02, 0.07),
        lean=rng.uniform(-0.01, 0.05),
        period=rng.uniform(0.03, 0.09),
        side=rng.choice((-1.0, 1.0)),
        hair=_pick(rng, _HAIR),
        upper=_pick(rng, _UPPER),
        lower=_pick(rng, _LOWER),
        texture=_pick(rng, _TEXTURE),
        carried=_pick(rng, _CARRIED),
        spectra=(*spectra, (110, 100, 90, 120)),  # the last one is of furniture
    )


@cache
def scene(name: str, modality: str) -> Image.Image:
    """Returns what a camera sees without people, in the bands of its modality."""
    foot, wall, floor, things = _SCENES[name]
    rng = _stream(list(_SCENES).index(name), SCENE)
    size = (SCENE_WIDTH * SCENE_SCALE, round((SCENE_TOP + 0.6) * SCENE_SCALE))
    picture = Image.new("CMYK", size, wall)  # four bands: R, G, B, NIR
    draw = ImageDraw.Draw(picture)

    def box(left: float, bottom: float, right: float, top: float, spectrum: Spectrum) -> None:
        corners = np.array((left, SCENE_TOP - top, right, SCENE_TOP - bottom)) * SCENE_SCALE
        draw.rectangle(corners.tolist(), spectrum, tuple(v * 6 // 10 for v in spectrum), 3)

    for top in (foot, *(foot - np.cumsum(0.04 * 1.6 ** np.arange(6)))):  # rows of slabs
        box(-1.0, -1.0, SCENE_WIDTH + 1.0, top, floor)
    for share, width, bottom, top, spectrum in things:
        for left in np.arange(0, SCENE_WIDTH, 1.3 * width) + rng.uniform(0, 0.3):
            if rng.random() < share:
                r, g, b, nir = np.multiply(spectrum, rng.uniform(0.75, 1.15)).astype(int).tolist()
                box(left, foot + bottom, left + width, foot + top, (r, g, b, nir))
    bands = np.asarray(picture)[..., 3:] if modality == "ir" else np.asarray(picture)[..., :3]
    grain = 1 + np.float32(0.08) * rng.standard_normal((*bands.shape[:2], 1), np.float32)
    seen = Image.fromarray(np.clip(bands * grain, 0, 255).astype(np.uint8).squeeze())
    return seen.filter(ImageFilter.BoxBlur(1))


def _counts(options: SyntheticOptions, pid: int) -> list[int]:
    """Returns the number of images of an identity in each camera, zero where it is not seen."""
    rng = _stream(options.seed, LAYOUT, pid)
    seen = rng.random(len(CAMERAS)) < 0.85
    for modality in ("rgb", "ir"):
        group = [i for i, camera in enumerate(CAMERAS) if camera.modality == modality]
        seen[rng.choice(group)] |= not seen[group].any()
    mean = options.images_per_camera
    spread = (3 * mean + 5) // 10
    numbers = rng.integers(mean - spread, mean + spread + 1, len(CAMERAS)) * seen
    return [int(number) for number in numbers]


def _write_identity(root: Path, options: SyntheticOptions, pid: int) -> int:
    person, counts = identity(options.seed, pid), _counts(options, pid)
    for camera, count in zip(CAMERAS, counts, strict=True):
        folder = root / f"cam{camera.camid}" / f"{pid:04d}"
        if count:
            folder.mkdir(parents=True)
        for image in range(1, count + 1):
            rng = _stream(options.seed, PIXELS, pid, camera.camid, image)
            stranger = rng.integers(2**31) if rng.random() < 0.12 else None
            other = None if stranger is None else identity(options.seed, 9999 + int(stranger))
            view = scene(camera.scene, camera.modality)
            pixels = Image.fromarray(render(person, camera, view, other, rng))
            pixels.save(folder / f"{image:04d}.jpg", quality=JPEG_QUALITY)
    return sum(counts)


def _write_protocol(root: Path, options: SyntheticOptions) -> None:
    """Writes the lists of identities, the trials' permutations and, last, the options."""
    import scipy.io  # slow to import, and no worker needs it

    pids = _stream(options.seed, LAYOUT).permutation(options.num_ids) + 1
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
            rng = _stream(options.seed, TRIALS, pid, camera.camid)
            cameras[row, 0][pid - 1, 0] = rng.permuted(order, axis=1) if count else order[:0]
    path = exp / "rand_perm_cam.mat"
    scipy.io.savemat(path, {"rand_perm_cam": cameras}, do_compression=True)
    # SciPy puts the time into the header's free text, which would make equal sets differ.
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + path.read_bytes()[116:])
    about = {"version": VERSION, "options": asdict(options)}
    (root / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
