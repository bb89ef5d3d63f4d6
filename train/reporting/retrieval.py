"""Example queries with their top-ranked gallery images."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor

from pipeline.datasets.records import Protocol
from train.metrics import Distance, distances

NUM_SEARCHES = 6
TOP = 10
MAX_TRIED = 256  # queries to rank in search of hits and misses
THUMB_PX = (96, 192)  # width, height: twice the displayed size, for high-resolution screens
QUALITY = 80


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """A query, its top-ranked gallery images, and the rank of its first match."""

    query: int  # row of the protocol's index
    hits: Int64[ndarray, " top"]  # rows, nearest first
    right: Bool[ndarray, " top"]
    first_right: int  # rank, from 1, in the whole list
    num_ranked: int  # gallery images not ignored for this query


def some_searches(
    features: Float[Tensor, "n d"], protocol: Protocol, distance: Distance, seed: int
) -> list[Search]:
    """Returns random searches of the first mode's first trial: hits, then as many misses, if any.

    A hit is a search whose first image is right; ignored pairs are left out.
    """
    trial = protocol.modes[0].trials[0]
    scored = trial.query[protocol.num_matches(trial) > 0]
    tried = np.random.default_rng(seed).permutation(scored)[:MAX_TRIED]
    found = _search(features, protocol, tried, np.sort(trial.gallery), distance)
    hits = [search for search in found if search.first_right == 1]
    misses = [search for search in found if search.first_right > 1]
    half = NUM_SEARCHES // 2
    num_hits = min(len(hits), max(half, NUM_SEARCHES - len(misses)))
    return hits[:num_hits] + misses[: NUM_SEARCHES - num_hits]


def _search(
    features: Float[Tensor, "n d"],
    protocol: Protocol,
    queries: Int64[ndarray, " q"],
    gallery: Int64[ndarray, " g"],
    distance: Distance,
) -> list[Search]:
    index = protocol.index
    codes = protocol.rule.exclusion(index.pids, index.camids)
    rows = [torch.from_numpy(numbers).to(features.device) for numbers in (queries, gallery)]
    found = distances(features[rows[0]], features[rows[1]], distance).cpu().numpy()
    searches = []
    for query, of_query in zip(queries, found, strict=True):
        valid = codes[gallery] != codes[query]
        order = gallery[valid][np.argsort(of_query[valid], kind="stable")]
        right = index.pids[order] == index.pids[query]
        first_right = int(right.argmax()) + 1
        searches.append(Search(int(query), order[:TOP], right[:TOP], first_right, len(order)))
    return searches


def thumbnail(image: Image.Image) -> tuple[bytes, int, int]:
    """Returns a small JPEG of an image, with its width and height in pixels."""
    small = image.convert("RGB")
    small.thumbnail(THUMB_PX)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue(), *small.size
