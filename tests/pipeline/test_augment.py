"""Augmented batches against NumPy, to the bit; and what the boxes and windows are allowed to be."""

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image

from pipeline import augment, spectrum
from pipeline.datasets.records import Index
from pipeline.draws import uniforms
from pipeline.loader import TrainingLoader
from pipeline.options import AugmentationOptions, DataOptions
from train.methods.base import Method

SIZE = (48, 24)
SEED = 3
LUMA = np.array(spectrum.LUMA, np.float32)
P_HAT = spectrum.uniform()
ALL = AugmentationOptions(
    crop_padding_px=7,
    share_crop=False,
    erasing=0.6,
    erasing_fill="spectrum",
    share_erasing=False,
    channel=0.4,
    gray=0.3,
    brightness=0.3,
    contrast=0.4,
    saturation=0.6,
)
EACH = {
    "crop": AugmentationOptions(crop_padding_px=5),
    "crop of its own": AugmentationOptions(crop_padding_px=5, share_crop=False),
    "erasing": AugmentationOptions(erasing=0.5),
    "erasing in the spectrum": AugmentationOptions(erasing=0.5, erasing_fill="spectrum"),
    "erasing of its own": AugmentationOptions(erasing=0.5, share_erasing=False),
    "crop of its own, one box": AugmentationOptions(
        crop_padding_px=5, share_crop=False, erasing=0.5
    ),
    "channel": AugmentationOptions(channel=0.5),
    "channel, always": AugmentationOptions(channel=1.0),
    "gray": AugmentationOptions(gray=0.5),
    "gray, hardly ever": AugmentationOptions(gray=0.01),  # most batches have none
    "channel and gray": AugmentationOptions(channel=0.5, gray=0.5),
    "brightness": AugmentationOptions(brightness=0.8),
    "contrast": AugmentationOptions(contrast=0.8),
    "saturation": AugmentationOptions(saturation=1.0),
    "all": ALL,
}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    """4 identities with 5 color and 5 infrared images each."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(7)
    names = [f"{i:03d}.png" for i in range(40)]
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        if i % 2:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)
        Image.fromarray(pixels).save(root / name)
    pids = np.arange(40) // 10
    modality = (np.arange(40) % 2).astype(np.uint8)
    return Index(root, np.array(names, np.bytes_), pids, pids, modality)


def options(**changes) -> DataOptions:
    height, width = SIZE
    fixed = {"p": 4, "k": 4, "height_px": height, "width_px": width, "threads": 2, "cache": "none"}
    return DataOptions(**fixed | changes)


def batches(index: Index, augmentation: AugmentationOptions, first_step: int = 0, **changes):
    opts = options(**changes)
    method = Method(augmentation=augmentation)
    device = torch.device("cpu")
    loader = TrainingLoader(index, opts, device, SEED, augment=method.augment)
    return list(loader.epoch(1, spectrum.uniform(opts.spectra), first_step))


@pytest.fixture(scope="module")
def plain(index) -> list:
    """The batches without any augmentation."""
    return batches(index, AugmentationOptions())


# The reference: one image at a time, from the uniforms that the draws' names and columns give.


def uniform(name: str, step: int, count: int) -> ndarray:
    return uniforms(SEED, f"augmentation.{name}", 1, step, 16, count).astype(np.float64)


def cropped(image: ndarray, u: ndarray, padding: int) -> ndarray:
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    top, left = (int(x * (2 * padding + 1)) for x in u)
    return padded[top : top + SIZE[0], left : left + SIZE[1]]


def box_of(u: ndarray, opts: AugmentationOptions) -> tuple[slice, slice] | None:
    if u[0] >= opts.erasing:
        return None
    low, high = opts.erasing_area
    for attempt in range(augment.ATTEMPTS):
        area = (low + (high - low) * u[3 + 2 * attempt]) * (SIZE[0] * SIZE[1])
        aspect = opts.erasing_aspect
        aspect += (1 / opts.erasing_aspect - opts.erasing_aspect) * u[4 + 2 * attempt]
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if height <= SIZE[0] and width <= SIZE[1]:
            top, left = int(u[1] * (SIZE[0] - height + 1)), int(u[2] * (SIZE[1] - width + 1))
            return slice(top, top + height), slice(left, left + width)
    return None


def erased(image: ndarray, u: ndarray, infrared: bool, opts: AugmentationOptions) -> ndarray:
    image, box = image.copy(), box_of(u, opts)
    if box:
        image[box] = (
            117 if infrared and opts.erasing_fill == "spectrum" else np.array([124, 116, 104])
        )
    return image


def recolored(image: ndarray, u: ndarray, infrared: bool, opts: AugmentationOptions) -> ndarray:
    gray, channel, which, brightness, contrast, saturation = u
    m = np.eye(3)
    if not infrared and gray < opts.gray:
        m = np.array([spectrum.LUMA] * 3)
    elif not infrared and channel < opts.channel:
        m = np.eye(3)[[int(which * 3)] * 3]
    b = 1 + opts.brightness * (2 * brightness - 1)
    c = 1 + opts.contrast * (2 * contrast - 1)
    s = 1 if infrared else 1 + opts.saturation * (2 * saturation - 1)
    m = b * c * ((s * np.eye(3) + (1 - s) * np.array([spectrum.LUMA] * 3)) @ m)
    return rounded(image, m.astype(np.float32), np.float32(128 * (1 - c)))


def rounded(image: ndarray, m: ndarray, t: np.float32 | float = 0.0) -> ndarray:
    """M · pixel + T as DALI computes it: in float32, from left to right, rounded half up."""
    x = image.astype(np.float32)
    rows = [((x[..., 0] * r[0] + x[..., 1] * r[1]) + x[..., 2] * r[2]) + np.float32(t) for r in m]
    return np.floor(np.clip(np.stack(rows, -1) + np.float32(0.5), 0, 255)).astype(np.uint8)


def reference(batch, step: int, opts: AugmentationOptions, columns: ndarray) -> ndarray:
    """uint8 [n, 2, H, W, 3] made of a plain batch, whose infrared counterparts have no jitter."""
    made = []
    count = {"crop": 2, "erasing": 3 + 2 * augment.ATTEMPTS, "color": 6}
    u = {name: uniform(name, step, n)[columns] for name, n in count.items()}
    own = {
        name: uniform(f"{name}.counterpart", step, count[name])[columns]
        for name in ("crop", "erasing")
    }
    of_source = {
        "crop": u["crop"] if opts.share_crop else own["crop"],
        "erasing": u["erasing"] if opts.share_erasing else own["erasing"],
    }
    for i, images in enumerate(batch.images.numpy()):
        original = source = images[0]
        infrared = bool(batch.modality[i])
        if opts.crop_padding_px:
            original = cropped(original, u["crop"][i], opts.crop_padding_px)
            source = cropped(source, of_source["crop"][i], opts.crop_padding_px)
        if opts.erasing:
            original = erased(original, u["erasing"][i], infrared, opts)
            source = erased(source, of_source["erasing"][i], infrared, opts)
        original = recolored(original, u["color"][i], infrared, opts)
        row = LUMA if infrared else spectrum.rows(spectrum.DEFAULT)[batch.spectrum[i]]
        made.append(np.stack([original, rounded(source, np.stack([row] * 3))]))
    return np.stack(made)


@pytest.fixture(scope="module")
def columns() -> ndarray:
    from pipeline.plan import ALL as WHOLE
    from pipeline.plan import columns

    return columns(options(), WHOLE)


@pytest.mark.parametrize("name", EACH)
def test_pixels_equal_numpy_s(index, columns, name):
    plain = batches(index, AugmentationOptions(), jitter=0.0)
    made = batches(index, EACH[name], jitter=0.0)
    changed = 0
    for step, (before, after) in enumerate(zip(plain, made, strict=True)):
        assert (before.rows == after.rows).all()
        assert torch.equal(before.spectrum, after.spectrum)
        expected = reference(before, step, EACH[name], columns)
        np.testing.assert_array_equal(after.images.numpy(), expected)
        changed += int((after.images != before.images).any(dim=(1, 2, 3, 4)).sum())
    assert changed
