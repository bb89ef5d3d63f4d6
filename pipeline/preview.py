"""A contact sheet of originals and counterparts, like the paper's Fig. 4, from the real graph."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from PIL import Image, ImageDraw

from pipeline import spectrum
from pipeline.augment import augmented
from pipeline.datasets.kinds import read_training
from pipeline.datasets.records import Modality
from pipeline.errors import InputError, naming
from pipeline.loader import TrainingLoader
from pipeline.options import AugmentationOptions, DataOptions

GAP_PX = 6
HEADER_PX = 22
COLUMNS = ("RGB", *spectrum.DEFAULT, "infrared", "jittered")


def preview(
    root: Path,
    out: Path,
    identities: int,
    seed: int,
    range_16bit: tuple[int, int] | None = None,
    augmentation: AugmentationOptions | None = None,
) -> None:
    """Writes a PNG with one row per identity: an RGB original, its counterpart in each spectrum, an
    infrared original and its jittered counterpart, augmented as in training.

    Raises `InputError` if the folder holds no data set, `OSError` if the file cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: must end in .png")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; create it")
    options = DataOptions(root=root, p=identities, k=2, cache="none", range_16bit=range_16bit)
    index = read_training(options, root)
    augment = partial(augmented, options=augmentation or AugmentationOptions())
    loader = TrainingLoader(index, options, torch.device("cpu"), seed, augment=augment)
    columns: list[ndarray] = []
    for one_hot in np.eye(len(spectrum.DEFAULT)):
        # The draws are a function of (seed, epoch, step): each pass sees the same batch, in the
        # spectrum that its P̂ forces.
        batches = loader.epoch(0, one_hot)
        batch = next(batches)
        batches.close()  # type: ignore[attr-defined]
        pixels = batch.images.numpy()
        rgb = (batch.modality == Modality.RGB).numpy()
        columns.append(pixels[rgb, 1])
    originals = pixels[rgb, 0]
    infrared, jittered = pixels[~rgb, 0], pixels[~rgb, 1]
    pids = loader.plan.pids[batch.pids.numpy()[rgb]]
    with naming(out):
        sheet([originals, *columns, infrared, jittered], COLUMNS, pids).save(out)


def sheet(columns: Sequence[ndarray], titles: Sequence[str], pids: ndarray) -> Image.Image:
    """Draws columns of uint8 [rows, H, W, 3] side by side, with headings and each row's pid."""
    rows, height, width, _ = columns[0].shape
    size = (
        HEADER_PX * 2 + len(columns) * (width + GAP_PX),
        HEADER_PX + rows * (height + GAP_PX),
    )
    drawn = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(drawn)
    for c, (title, images) in enumerate(zip(titles, columns, strict=True)):
        left = HEADER_PX * 2 + c * (width + GAP_PX)
        draw.text((left, 5), title, fill="black")
        for r, image in enumerate(images):
            drawn.paste(Image.fromarray(image), (left, HEADER_PX + r * (height + GAP_PX)))
    for r, pid in enumerate(pids):
        draw.text((4, HEADER_PX + r * (height + GAP_PX)), f"{pid:04d}", fill="black")
    return drawn
