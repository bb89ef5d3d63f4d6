"""A few people's features in the plane, like the paper's Fig. 9: originals and counterparts."""

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
NUM_IMAGES = 8  # of each person and modality, at most
SAME = 1e-6  # relative to the largest number: rounding
KINDS = ("RGB", "infrared", "generated from RGB")


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Images in the plane; `kinds` is a place in `KINDS`."""

    xy: Float32[ndarray, "n 2"]
    pids: Int64[ndarray, " n"]
    kinds: Int64[ndarray, " n"]


def of_some_people(index: Index, seed: int) -> Index:
    """The images of `NUM_PEOPLE` people who have both modalities, drawn by `seed`."""
    infrared = index.modality == Modality.IR
    both = np.intersect1d(index.pids[~infrared], index.pids[infrared])
    people = np.random.default_rng(seed).permutation(both)[:NUM_PEOPLE]
    rows = np.flatnonzero(np.isin(index.pids, people))
    return index.take(rows)


def plane(
    network: ReidNetwork, people: Index, options: DataOptions, distance: Distance, seed: int
) -> Points:
    """t-SNE of originals and, made by the training graph, of RGB originals' counterparts.

    Every spectrum of the run is as likely as any other; for a run without, those of the paper are.
    `people` must be two at least, with both modalities.
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
    """Pixels, pids and kinds of one batch of everybody, each original once."""
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
    _, first = np.unique(batch.rows, return_index=True)  # who has few images has some twice
    rgb = first[people.modality[batch.rows[first]] == Modality.RGB]
    infrared = np.setdiff1d(first, rgb)
    parts = ((rgb, 0), (infrared, 0), (rgb, 1))  # (places in the batch, original or counterpart)
    pixels = torch.cat([batch.images[torch.from_numpy(at), side] for at, side in parts])
    places = np.concatenate([at for at, _ in parts])
    kinds = np.repeat(np.arange(len(parts)), [len(at) for at, _ in parts])
    return pixels.permute(0, 3, 1, 2), people.pids[batch.rows[places]], kinds
