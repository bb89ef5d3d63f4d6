"""Writes image features as files that `cdp score` and NumPy can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from numpy import ndarray

from pipeline.datasets.named import fill_modality, look_up, read_named
from pipeline.datasets.records import Index
from pipeline.datasets.table import UNKNOWN
from pipeline.errors import InputError
from train import run_folder
from train.evaluation.features import FLIP_TEST
from train.evaluation.trained import features_of, images_of, open_run
from train.live.display import Display


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """n images and their features, the content of one file."""

    features: Float32[ndarray, "n d"]
    index: Index
    names: Shaped[ndarray, " n"]  # paths, str
    flip_test: bool = False  # see `extract_features`

    def write(self, file: Path, rows: Int64[ndarray, " k"] | slice = slice(None)) -> None:
        """Writes the given rows as an `.npz` file."""
        with run_folder.replacing(file) as temporary, temporary.open("wb") as opened:
            arrays = {
                "features": self.features[rows],
                "pids": self.index.pids[rows],
                "camids": self.index.camids[rows],
                "modality": self.index.modality[rows],
                "paths": self.names[rows],
            }
            if self.flip_test:
                arrays[FLIP_TEST] = np.array(True)
            np.savez(opened, allow_pickle=False, **arrays)


def embed_images(
    run_dir: Path,
    images: Sequence[Path],
    file: Path,
    display: Display,
    data_root: Path | None = None,
    device_name: str = "auto",
    modality: str | None = None,
    overwrite: bool = False,
    flip_test: bool = False,
) -> None:
    """Embeds images, in the given order, into one `.npz` file.

    Without a CSV, looks up pid, camid and modality in the run's data set; other images have the
    given `modality`, rgb or ir. Raises `InputError` if an image cannot be read or the file exists.
    """
    if file.suffix != ".npz":
        raise InputError(f"--out {file}: must end in .npz")
    run_folder.check_new(file, overwrite)
    named = read_named(images)
    run = open_run(run_dir, display, data_root, device_name=device_name)
    index = named.index
    if (index.pids == UNKNOWN).any():
        index = look_up(index, images_of(run, display))
    index = fill_modality(index, modality, run.network.needs_modality, "--modality")
    run_folder.make_parent(file)
    features = features_of(run, index, display, flip_test).cpu().numpy()
    Embedded(features, index, named.names, flip_test).write(file)
    if named.left_out:
        each = (f"{len(p)} {reason}, such as {p[0]}" for reason, p in named.left_out.items())
        display.say(f"note      left out in the folders: {'; '.join(each)}")
    unknown = int((index.pids == UNKNOWN).sum())
    if unknown:
        display.say(
            f"note      {unknown} of {len(index)} images are not in the run's data set and get pid "
            f"and camid {UNKNOWN}; pass a CSV of path,pid,camid,modality to label them"
        )
    flipped = " (flip-test)" if flip_test else ""
    display.say(f"embedded  {len(index)} images, {features.shape[1]} numbers each{flipped}: {file}")
