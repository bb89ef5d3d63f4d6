"""Finds the nearest of many images without comparing all of them in full precision."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from train.evaluation.feature_cache import Part
from train.metrics import Distance, distances

AT_A_TIME = 2**24  # pairs of query and gallery image: 64 MB of products
ROUNDING = 2.0**-24  # relative, of float32


def nearest(
    queries: Float32[ndarray, "q d"], parts: Sequence[Part], top: int, distance: Distance
) -> tuple[Int64[ndarray, "q k"], Float32[ndarray, "q k"]]:
    """Returns rows and distances of the `top` nearest images, equal to those of a full sort.

    float32 products and bounds on their rounding errors show which images can be among the nearest;
    only those are compared in float64, by `metrics.distances`.
    """
    rows = np.concatenate([part.rows for part in parts])
    norms = np.concatenate([part.norms for part in parts])
    part_of = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    place = np.concatenate([np.arange(len(part.rows)) for part in parts])
    top = min(top, len(rows))
    hits = np.empty((len(queries), top), np.int64)
    found = np.empty((len(queries), top), np.float32)
    size = max(1, AT_A_TIME // len(rows))
    for start in range(0, len(queries), size):
        some = queries[start : start + size]
        products = np.concatenate([part.features @ some.T for part in parts]).T.copy()
        for i, (query, product) in enumerate(zip(some, products, strict=True), start=start):
            chosen = _candidates(query, product, norms, top, distance)
            chosen = chosen[np.argsort(rows[chosen])]
            features = np.empty((len(chosen), queries.shape[1]), np.float32)
            for number in np.unique(part_of[chosen]):
                of_part = part_of[chosen] == number
                features[of_part] = parts[number].features[place[chosen[of_part]]]
            query_and_all = torch.from_numpy(query[None]), torch.from_numpy(features)
            squares = distances(*query_and_all, distance)[0].numpy()
            order = np.argsort(squares, kind="stable")[:top]
            hits[i], found[i] = rows[chosen[order]], squares[order]
    return hits, found / 2 if distance == "cosine" else np.sqrt(found)


def _candidates(
    query: Float32[ndarray, " d"],
    products: Float32[ndarray, " n"],
    norms: Float64[ndarray, " n"],
    top: int,
    distance: Distance,
) -> Int64[ndarray, " k"]:
    """Returns all images that may be among the `top` nearest, given their float32 products."""
    norm = float(np.linalg.norm(query.astype(np.float64)))
    # |error of a dot product of d numbers| <= d u |q| |g|, in any order of summation.
    error = (2 * len(query) + 8) * ROUNDING
    if distance == "cosine":  # unit vectors; a zero vector stays zero
        scale, scales = 1 / max(norm, 1e-12), 1 / np.maximum(norms, 1e-12)
        norm, norms, products = norm * scale, norms * scales, products * (scale * scales)
    squares = norm**2 + norms**2 - 2.0 * products
    errors = error * (norm + norms) ** 2
    farthest = np.partition(squares + errors, top - 1)[top - 1]
    return np.flatnonzero(~(squares - errors > farthest))
