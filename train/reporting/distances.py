"""Distances between images of the same and of different people, within and across modalities."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from train import metrics
from train.metrics import Distance

MAX_IMAGES = 4000  # 8 M pairs, 32 MB of distances
BLOCK = 512
NUM_BINS = 60
LABELS: dict[Distance, str] = {
    "euclidean": "Euclidean distance",
    "cosine": "cosine distance, 1 - cos",
}


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Distances of pairs of images; each pair once, no image with itself."""

    same: Float32[ndarray, " s"]  # of the same person
    different: Float32[ndarray, " d"]  # of different people

    def edges(self) -> Float[ndarray, " edges"]:
        """Returns edges of equal bins over both."""
        ends = [(v.min(), v.max()) for v in (self.same, self.different)]
        return np.linspace(min(low for low, _ in ends), max(high for _, high in ends), NUM_BINS + 1)

    def share_in_order(self) -> float:
        """Returns P(same-person pair is closer than different-people pair), 0…1; ties half."""
        different = np.sort(self.different)
        below, up_to = (np.searchsorted(different, self.same, side) for side in ("left", "right"))
        return float(1 - (below + up_to).mean() / 2 / len(different))


def true_distances(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], distance: Distance
) -> Float32[Tensor, "n m"]:
    """Returns Euclidean distances, or 1 - cos."""
    squares = metrics.distances(a, b, distance)
    return squares / 2 if distance == "cosine" else squares.sqrt()


def choose_rows(
    pids: Int64[ndarray, " n"], seed: int, max_images: int = MAX_IMAGES
) -> Int64[ndarray, " k"]:
    """Returns all rows, or those of randomly drawn people: as many as fit, at least two."""
    if len(pids) <= max_images:
        return np.arange(len(pids))
    people, counts = np.unique(pids, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(people))
    fitting = max(2, int((counts[order].cumsum() <= max_images).sum()))
    return np.flatnonzero(np.isin(pids, people[order[:fitting]]))


def pair_distances(
    features: Float[Tensor, "n d"],
    pids: Int64[ndarray, " n"],
    modality: UInt8[ndarray, " n"],
    distance: Distance,
) -> dict[str, Pairs]:
    """Returns pairs "within" a modality and "across"; omits one without both kinds of pair."""
    found: dict[tuple[bool, bool], list[Float32[ndarray, " k"]]] = {}
    number = np.arange(len(pids))
    for start in range(0, len(pids), BLOCK):
        some = slice(start, start + BLOCK)
        block = true_distances(features[some], features, distance).cpu().numpy()
        later = number[some, None] < number
        across = modality[some, None] != modality
        same = pids[some, None] == pids
        for kind in ((a, s) for a in (False, True) for s in (False, True)):
            chosen = later & (across == kind[0]) & (same == kind[1])
            found.setdefault(kind, []).append(block[chosen])
    joined = {kind: np.concatenate(parts) for kind, parts in found.items()}
    pairs = {
        name: Pairs(joined[across, True], joined[across, False])
        for name, across in (("within", False), ("across", True))
    }
    return {name: p for name, p in pairs.items() if len(p.same) and len(p.different)}
