"""Lists the batches of our loader's epoch, for other loaders to reproduce."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import augment, spectrum
from pipeline.datasets.records import Index, Modality
from pipeline.draws import draw, uniforms
from pipeline.options import AugmentationOptions, DataOptions
from pipeline.plan import ALL, columns
from pipeline.sampler import plan_epoch

# What most published re-identification methods use, and CAJ's channel augmentation.
AUGMENTED = AugmentationOptions(crop_padding_px=10, erasing=0.5, channel=0.5)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How an original is augmented, in pixels of the resized and flipped image."""

    crop: tuple[int, int]  # top left corner of the window, (y, x); black outside the image
    box: tuple[int, int, int, int]  # erased: top, left, height, width; height 0: nothing
    fill: tuple[int, int, int]  # color of the erased box
    channel: int | None  # copied to all three channels of the original; None: keep all


@dataclass(frozen=True, slots=True)
class Item:
    """One original to load, and its random draws."""

    path: Path
    flip: bool
    weights: np.ndarray  # float32 [3]: weights of R, G, B in the counterpart's single channel
    augmentation: Augmentation | None = None


def plan(
    index: Index, options: DataOptions, steps: int, augmentation: AugmentationOptions | None = None
) -> list[list[Item]]:
    """Returns the batches of our loader's epoch 1 with uniform P̂, seed 0.

    Supports only the augmentations that `AUGMENTED` uses.
    """
    rows_of = plan_epoch(index, options.p, options.k, options.sampling, 0, 1)[:steps]
    spectra = spectrum.rows(options.spectra)
    cumulative = np.cumsum(spectrum.uniform(options.spectra))[:-1]
    batches = []
    for step, rows in enumerate(rows_of):
        draws = draw(0, 1, step, len(rows), options.flip, options.jitter)
        batch = []
        infrared = index.modality[rows] == Modality.IR
        augmented = _augmentations(step, infrared, options, augmentation)
        for i in columns(options, ALL):
            row = rows[i]
            weights = spectra[int((draws.spectrum[i] >= cumulative).sum())]
            if infrared[i]:
                weights = np.asarray(spectrum.LUMA) * draws.brightness[i]
            weights = weights.astype(np.float32)
            batch.append(Item(index.path(row), bool(draws.flip[i]), weights, augmented[i]))
        batches.append(batch)
    return batches


def _augmentations(
    step: int,
    infrared: np.ndarray,
    options: DataOptions,
    augmentation: AugmentationOptions | None,
) -> list[Augmentation | None]:
    n, size = len(infrared), (options.height_px, options.width_px)
    if augmentation is None:
        return [None] * n

    def drawn(name: str, count: int) -> np.ndarray:
        return uniforms(0, f"augmentation.{name}", 1, step, n, count)

    window = augment.crops(drawn("crop", augment.CROP_UNIFORMS), augmentation.crop_padding_px, size)
    corners = (window["in_anchors"] - window["out_anchors"])[:, 0]
    box = augment.boxes(drawn("erasing", augment.ERASING_UNIFORMS), infrared, augmentation, size)
    edges = np.concatenate([box["anchor"], box["shape"]], axis=1).astype(int)
    matrix = augment.colors(drawn("color", augment.COLOR_UNIFORMS), infrared, augmentation)["M"]
    shows = [None if (m == np.eye(3)).all() else int(m[0].argmax()) for m in matrix]
    fills = box["fill_value"].astype(int)
    return [
        Augmentation(tuple(corner), tuple(edge), tuple(fill), channel)
        for corner, edge, fill, channel in zip(
            corners.tolist(), edges.tolist(), fills.tolist(), shows, strict=True
        )
    ]
