"""CMC, mAP and mINP of ranked galleries. Knows no data set: codes say which pairs do not count.

Trials draw their galleries from one pool of images. Some queries at a time, the pool is ranked
once, by 64-bit keys: distance in the high bits, then number, so that ties keep the pool's order.
What a trial then sorts are short ranks, with a lowest bit that tells a match.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64, Integer
from numpy import ndarray
from torch import Tensor

Distance = Literal["euclidean", "cosine"]
RANKS = (1, 5, 10, 20)
FIGURES = (*(f"rank{k}" for k in RANKS), "mAP", "mINP")
FARTHEST = torch.iinfo(torch.int32).max  # behind the bits of every float
MAX_KEYS = 2**23  # at a time: 64 MB, and a few arrays of that size


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """One side of a search: n embedded images, on one device."""

    features: Float[Tensor, "n d"]
    pids: Int64[Tensor, " n"]
    exclusion: Int64[Tensor, " n"]  # a query loses the gallery images whose code equals its own

    def __len__(self) -> int:
        return len(self.pids)

    def take(self, rows: Int64[Tensor, " k"]) -> "Images":
        """These rows."""
        return Images(self.features[rows], self.pids[rows], self.exclusion[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Figures of one trial, as fractions 0…1, over the queries that have a valid match."""

    cmc: Float64[ndarray, " ranks"]  # [r]: queries with a match in the first r + 1
    mean_ap: float
    mean_inp: float
    chance_rank1: float  # expected rank-1 of a random order
    num_query: int  # scored


def rank(
    query: Images,
    gallery: Images,
    trials: Sequence[Int64[Tensor, " _"]],
    cmc_unique_pids: bool,
    distance: Distance = "euclidean",
) -> list[Ranking]:
    """Ranks each query against each trial's gallery (rows of `gallery`), and averages over queries.

    Nearest first; ties in the order of `gallery`'s rows. Pairs of one exclusion code are taken out
    before anything is counted. With `cmc_unique_pids`, CMC counts each gallery pid only at its best
    rank (SYSU-MM01); mAP (mean precision at the matches) and mINP (matches / rank of the last
    match; Ye et al., "Deep Learning for Person Re-identification", TPAMI 2021) always use the whole
    list. Queries without a valid match are not scored. Distances are computed once for all trials,
    some queries at a time, so that memory beyond the features is a few arrays of `MAX_KEYS`.
    Raises `ValueError` if a feature is NaN or infinite, or if in a trial no query has a match.
    """
    for name, images in (("query", query), ("gallery", gallery)):
        bad = (~images.features.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise ValueError(f"{name} features, row {int(bad[0])}: holds NaN or infinity")
    scores: list[list[_Scores]] = [[] for _ in trials]
    columns = [rows.sort().values for rows in trials]
    for queries, found in _blocks(query, gallery, distance):
        ignore = queries.exclusion[:, None] == gallery.exclusion
        ranks = _ranks(found, queries.pids[:, None] == gallery.pids, ignore)
        for of_trial, chosen in zip(scores, columns, strict=True):
            of_trial.append(
                _score(ranks[:, chosen], queries.pids, gallery.pids[chosen], cmc_unique_pids)
            )
    return [_average(of_trial) for of_trial in scores]


def distances(
    query: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"], distance: Distance
) -> Float32[Tensor, "q g"]:
    """Squared Euclidean distances, of the features or (cosine: 2 - 2 cos) of their directions.

    Squares rank as distances do. Computed in float64 and rounded, so that equal features tie.
    """
    query, q = _in_double(query, distance)
    found = torch.empty(len(query), len(gallery), device=query.device)
    for start in range(0, len(gallery), 1024):  # bounds the float64 copies
        block, g = _in_double(gallery[start : start + 1024], distance)
        lengths = q[:, None] + g
        squares = torch.addmm(lengths, query, block.T, alpha=-2)
        squares *= squares > lengths.mul_(1e-12)  # what rounding leaves of equal features is 0
        found[:, start : start + 1024] = squares
    return found.abs_()  # a zero may have come out negative, and ranks are read off the bits


def _in_double(
    features: Float[Tensor, "n d"], distance: Distance
) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, " n"]]:
    """Features, or their directions, in float64, and their squared lengths."""
    features = features.double()
    if distance == "cosine":
        features = F.normalize(features)
    return features, torch.linalg.vector_norm(features, dim=1).square()


def _blocks(
    query: Images, gallery: Images, distance: Distance
) -> Iterator[tuple[Images, Float32[Tensor, "b g"]]]:
    """Some queries at a time, with their distances to the gallery."""
    size = max(1, MAX_KEYS // max(1, len(gallery)))
    for many in torch.arange(len(query), device=query.pids.device).split(8 * size):
        # For more queries at once: each time the gallery is turned into float64 anew.
        found = distances(query.features[many], gallery.features, distance)
        for rows, some in zip(many.split(size), found.split(size), strict=True):
            yield query.take(rows), some


def _ranks(
    found: Float32[Tensor, "q g"],
    match: Bool[Tensor, "q g"],
    ignore: Bool[Tensor, "q g"],
) -> Integer[Tensor, "q g"]:
    """Twice each image's rank for the query, plus 1 if it matches; `_ignored` if it is ignored."""
    bits = found.view(torch.int32).masked_fill_(ignore, FARTHEST)  # floats >= 0 sort as their bits
    keys = bits.long().bitwise_left_shift_(32)
    keys |= torch.arange(keys.shape[1], device=keys.device)
    column = _sorted(keys).bitwise_and_(torch.iinfo(torch.int32).max)
    # Half the bytes sort in two thirds of the time.
    kind = torch.int16 if 2 * keys.shape[1] < 2**15 - 2 else torch.int32
    position = torch.arange(0, 2 * keys.shape[1], 2, dtype=kind, device=keys.device)
    ranks = torch.empty_like(bits, dtype=kind).scatter_(1, column, position.expand_as(bits))
    ranks |= match
    return ranks.masked_fill_(ignore, _ignored(kind))


def _ignored(kind: torch.dtype) -> int:
    """Behind every rank; its match bit is off."""
    return torch.iinfo(kind).max - 1


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Per query with a valid match."""

    before_first: Int64[Tensor, " q"]  # what CMC counts before the first match
    average_precision: Float64[Tensor, " q"]
    inp: Float64[Tensor, " q"]
    chance: Float64[Tensor, " q"]


def _score(
    ranks: Integer[Tensor, "q g"],
    query_pids: Int64[Tensor, " q"],
    gallery_pids: Int64[Tensor, " g"],
    cmc_unique_pids: bool,
) -> _Scores:
    """Scores one trial's ranks (overwritten)."""
    ignored = _ignored(ranks.dtype)
    pids, segment = gallery_pids.unique(return_inverse=True)
    if cmc_unique_pids:
        best = torch.full((len(ranks), len(pids)), ignored, dtype=ranks.dtype, device=ranks.device)
        best.scatter_reduce_(1, segment.expand(ranks.shape), ranks, "amin")
        own = torch.searchsorted(pids, query_pids).clamp_(max=len(pids) - 1)
        pids_before = (best < best.gather(1, own[:, None])).sum(dim=1)
    num_valid = (ranks < ignored).sum(dim=1).double()
    query, position = _sorted(ranks).bitwise_and_(1).nonzero(as_tuple=True)  # by query, then rank

    num_matches = query.bincount(minlength=len(ranks))
    scored = num_matches > 0
    end = num_matches.cumsum(0)
    nth = torch.arange(len(query), device=ranks.device) - (end - num_matches)[query]
    precision = (nth + 1) / (position + 1).double()
    sum_precision = torch.zeros_like(num_valid).index_add_(0, query, precision)[scored]
    matches, last = num_matches[scored], (end - 1)[scored]
    first_position = position[(end - num_matches)[scored]]
    return _Scores(
        before_first=pids_before[scored] if cmc_unique_pids else first_position,
        average_precision=sum_precision / matches,
        inp=matches / (position[last] + 1).double(),
        chance=matches / num_valid[scored],
    )


def _sorted(keys: Integer[Tensor, "q g"]) -> Integer[Tensor, "q g"]:
    """Each row sorted; on the CPU in place by NumPy, one thread a core (3x torch's sort there)."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    list(_threads().map(lambda part: part.sort(axis=1), np.array_split(keys.numpy(), 8)))
    return keys


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "sort")


def _average(parts: list[_Scores]) -> Ranking:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    before_first = joined("before_first")
    if not len(before_first):
        raise ValueError("no query has a gallery image of its pid that it may be matched with")
    ranks = torch.arange(max(RANKS), device=before_first.device)
    return Ranking(
        cmc=(before_first[:, None] <= ranks).double().mean(dim=0).cpu().numpy(),
        mean_ap=joined("average_precision").mean().item(),
        mean_inp=joined("inp").mean().item(),
        chance_rank1=joined("chance").mean().item(),
        num_query=len(before_first),
    )


def summary(rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Mean and standard deviation (of the population) over trials, in percent."""
    figures = [
        {f"rank{k}": float(r.cmc[k - 1]) for k in RANKS} | {"mAP": r.mean_ap, "mINP": r.mean_inp}
        for r in rankings
    ]

    def percent(statistic: Callable[[list[float]], Any], name: str) -> float:
        return 100 * float(statistic([of_trial[name] for of_trial in figures]))

    return {
        **{name: percent(np.mean, name) for name in FIGURES},
        "std": {name: percent(np.std, name) for name in FIGURES},
        "chance_rank1": 100 * float(np.mean([r.chance_rank1 for r in rankings])),
        "num_trials": len(rankings),
        "num_query": rankings[0].num_query,
    }
