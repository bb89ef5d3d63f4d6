"""t-SNE of a few people's originals and counterparts, like the paper's Fig. 9."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from model.network import ReidNetwork
from pipeline import spectrum
from pipeline.datasets.records import Index, Modality
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions
from train.metrics import Distance

NUM_PEOPLE = 10
NUM_IMAGES = 8  # at most, per person and modality
SAME = 1e-6  # relative to the largest number: rounding
KINDS = ("RGB", "infrared", "generated from RGB")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Images in the plane; `kinds` are indices into `KINDS`."""

    xy: Float32[ndarray, "n 2"]
    pids: Int64[ndarray, " n"]
    kinds: Int64[ndarray, " n"]


def of_some_people(index: Index, seed: int) -> Index:
    """Returns the images of `NUM_PEOPLE` random people who have both modalities."""
    infrared = index.modality == Modality.IR
    both = np.intersect1d(index.pids[~infrared], index.pids[infrared])
    people = np.random.default_rng(seed).permutation(both)[:NUM_PEOPLE]
    rows = np.flatnonzero(np.isin(index.pids, people))
    return index.take(rows)


def plane(
    network: ReidNetwork, people: Index, options: DataOptions, distance: Distance, seed: int
) -> Points:
    """Returns a t-SNE of originals and of the counterparts that the training graph makes of RGB.

    Draws all spectra of the run, or of the paper if the run has none, with equal probability.
    `people` must hold at least two people, with both modalities.
    """
    pixels, pids, kinds = _images(network, people, options, seed)
    network.eval()
    with torch.inference_mode():
        is_infrared = torch.from_numpy(kinds == KINDS.index("infrared")).to(pixels.device)
        parts = [t.split(options.eval_batch) for t in (pixels, is_infrared)]
        features = torch.cat([network.embed(*some) for some in zip(*parts, strict=True)])
    if distance == "cosine":
        features = F.normalize(features)
    return Points(in_plane(features.cpu().numpy(), seed), pids, kinds)


def in_plane(features: Float32[ndarray, "n d"], seed: int) -> Float32[ndarray, "n 2"]:
    """t-SNE; collapsed features all stay at one place, since scikit-learn would crash on them."""
    from sklearn.manifold import TSNE

    features = features / max(np.abs(features).max(), np.finfo(np.float32).tiny)
    if np.ptp(features, axis=0).max() < SAME:
        return np.zeros((len(features), 2), np.float32)
    perplexity = min(30.0, (len(features) - 1) / 3)
    made: Float32[ndarray, "n 2"] = TSNE(
        init="pca", perplexity=perplexity, random_state=seed
    ).fit_transform(features)
    return made


def _images(
    network: ReidNetwork, people: Index, options: DataOptions, seed: int
) -> tuple[UInt8[Tensor, "n 3 h w"], Int64[ndarray, " n"], Int64[ndarray, " n"]]:
    """Returns pixels, pids and kinds of one batch with all people, each original once."""
    device = next(network.parameters()).device
    options = dataclasses.replace(
        options,
        p=len(np.unique(people.pids)),
        k=2 * NUM_IMAGES,
        sampling="balanced",
        spectra=options.spectra or spectrum.DEFAULT,
        flip=0.0,
        cache="none",
        on_bad_image="error",
    )
    loader = TrainingLoader(people, options, device, seed)
    batches = loader.epoch(0, spectrum.uniform(options.spectra))
    batch = next(batches)
    batches.close()  # type: ignore[attr-defined]
    _, first = np.unique(batch.rows, return_index=True)  # images may occur twice
    rgb = first[people.modality[batch.rows[first]] == Modality.RGB]
    infrared = np.setdiff1d(first, rgb)
    parts = ((rgb, 0), (infrared, 0), (rgb, 1))  # (batch rows, original or counterpart)
    pixels = torch.cat([batch.images[torch.from_numpy(rows), view] for rows, view in parts])
    all_rows = np.concatenate([rows for rows, _ in parts])
    kinds = np.repeat(np.arange(len(parts)), [len(rows) for rows, _ in parts])
    return pixels.permute(0, 3, 1, 2), people.pids[batch.rows[all_rows]], kinds
