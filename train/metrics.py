"""CMC, mAP and mINP of ranked galleries, for any data set: codes mark pairs to be ignored.

Trials draw their galleries from one pool of images. For a block of queries at a time, each pool
image gets a 64-bit key: distance in the high bits, then its number, so that ties keep the pool's
order, and a match flag in the lowest bit. A small pool is ranked once, and each trial sorts 16-bit
ranks; a large one is not sorted: the keys before each match are counted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int64, Integer
from numpy import ndarray
from torch import Tensor

Distance = Literal["euclidean", "cosine"]
RANKS = (1, 5, 10, 20)
FIGURES = (*(f"rank{k}" for k in RANKS), "mAP", "mINP")
FARTHEST = torch.iinfo(torch.int32).max  # greater than the bits of any float
MAX_KEYS = 2**23  # per block of queries: 64 MB, and a few arrays of that size
MAX_RANKED = 2**14 - 2  # images whose ranks fit into 16 bits together with a match bit


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """One side of a search: n embedded images, on one device."""

    features: Float[Tensor, "n d"]
    pids: Int64[Tensor, " n"]
    exclusion: Int64[Tensor, " n"]  # a query ignores gallery images with its own code

    def __len__(self) -> int:
        return len(self.pids)

    def take(self, rows: Int64[Tensor, " k"]) -> "Images":
        """Returns the given rows."""
        return Images(self.features[rows], self.pids[rows], self.exclusion[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Figures of one trial, as fractions 0…1, over the queries that have a valid match."""

    cmc: Float64[ndarray, " ranks"]  # [r]: share of queries with a match in the first r + 1
    mean_ap: float
    mean_inp: float
    chance_rank1: float  # expected rank-1 of a random order
    num_query: int  # scored queries


def rank(
    query: Images,
    gallery: Images,
    trials: Sequence[Int64[Tensor, " _"]],
    cmc_unique_pids: bool,
    distance: Distance = "euclidean",
) -> list[Ranking]:
    """Ranks each query against each trial's gallery (rows of `gallery`), and averages over queries.

    Nearest first; ties in the order of `gallery`'s rows. Pairs with equal exclusion codes are
    removed first. With `cmc_unique_pids`, CMC counts each gallery pid only at its best rank
    (SYSU-MM01); mAP (mean precision at the matches) and mINP (matches / rank of the last match; Ye
    et al., "Deep Learning for Person Re-identification", TPAMI 2021) always use the whole list.
    Queries without a valid match are not scored. Distances are computed once for all trials, for a
    block of queries at a time, so memory beyond the features is a few arrays of `MAX_KEYS`. Raises
    `ValueError` if a feature is NaN or infinite, or if no query of a trial has a match.
    """
    check_finite(query, gallery)
    return _rank(_blocks(query, gallery, distance), gallery, trials, cmc_unique_pids)


def rank_distances(
    found: Float32[Tensor, "q g"], query: Images, gallery: Images, cmc_unique_pids: bool
) -> Ranking:
    """Like `rank`, for one trial and given distances >= 0; ignores features.

    Raises `ValueError` if a distance is NaN or negative, or no query has a match.
    """
    if not bool((found >= 0).all()):
        raise ValueError("a distance is NaN or negative")
    size = max(1, MAX_KEYS // max(1, len(gallery)))
    rows = torch.arange(len(query), device=found.device).split(size)
    blocks = ((query.take(some), found[some]) for some in rows)  # copies: ranking overwrites them
    (ranking,) = _rank(
        blocks, gallery, [torch.arange(len(gallery), device=found.device)], cmc_unique_pids
    )
    return ranking


def check_finite(query: Images, gallery: Images) -> None:
    """Raises `ValueError` if a feature is NaN or infinite."""
    for name, images in (("query", query), ("gallery", gallery)):
        # In parts, as isfinite makes copies; into one array, as small arrays allocated in between
        # would prevent the reuse of the copies' memory.
        finite = torch.empty_like(images.pids, dtype=torch.bool)
        for part, result in zip(images.features.split(1024), finite.split(1024), strict=True):
            torch.all(part.isfinite(), dim=1, out=result)
        bad = (~finite).nonzero()
        if len(bad):
            raise ValueError(f"{name} features, row {int(bad[0])}: holds NaN or infinity")


def _rank(
    blocks: Iterable[tuple[Images, Float32[Tensor, "b g"]]],
    gallery: Images,
    trials: Sequence[Int64[Tensor, " _"]],
    cmc_unique_pids: bool,
) -> list[Ranking]:
    """Ranks blocks of queries by their distances, which are overwritten."""
    scores: list[list[_Scores]] = [[] for _ in trials]
    columns = [rows.sort().values for rows in trials]
    people = [_people(gallery.pids[rows]) if cmc_unique_pids else None for rows in columns]
    for queries, found in blocks:
        ignore = queries.exclusion[:, None] == gallery.exclusion
        ranked = _ranks if len(gallery) <= MAX_RANKED else _keys
        ranks = ranked(found, queries.pids[:, None] == gallery.pids, ignore)
        for of_trial, chosen, in_gallery in zip(scores, columns, people, strict=True):
            of_trial.append(_score(ranks[:, chosen], queries.pids, in_gallery))
    return [_average(of_trial) for of_trial in scores]


def distances(
    query: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"], distance: Distance
) -> Float32[Tensor, "q g"]:
    """Returns squared Euclidean distances of the features, or of their directions for cosine.

    The latter equal 2 - 2 cos. Squares rank like distances. Computed in float64 and rounded, so
    that equal features tie.
    """
    query, q = _in_double(query, distance)
    found = torch.empty(len(query), len(gallery), device=query.device)
    for start in range(0, len(gallery), 1024):  # bounds the float64 copies
        block, g = _in_double(gallery[start : start + 1024], distance)
        lengths = q[:, None] + g
        squares = torch.addmm(lengths, query, block.T, alpha=-2)
        squares *= squares > lengths.mul_(1e-12)  # what rounding leaves of equal features is 0
        found[:, start : start + 1024] = squares
    return found.abs_()  # -0 to 0, as ranking compares bits


def _in_double(
    features: Float[Tensor, "n d"], distance: Distance
) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, " n"]]:
    """Returns the features, or their directions, in float64, and their squared lengths."""
    features = features.double()
    if distance == "cosine":
        features = F.normalize(features)
    return features, torch.linalg.vector_norm(features, dim=1).square()


def _blocks(
    query: Images, gallery: Images, distance: Distance
) -> Iterator[tuple[Images, Float32[Tensor, "b g"]]]:
    """Yields blocks of queries with their distances to the gallery."""
    size = max(1, MAX_KEYS // max(1, len(gallery)))
    for many in torch.arange(len(query), device=query.pids.device).split(8 * size):
        # For several blocks at once, as each call converts the gallery to float64.
        found = distances(query.features[many], gallery.features, distance)
        for rows, some in zip(many.split(size), found.split(size), strict=True):
            yield query.take(rows), some


def _ranks(
    found: Float32[Tensor, "q g"],
    match: Bool[Tensor, "q g"],
    ignore: Bool[Tensor, "q g"],
) -> Int16[Tensor, "q g"]:
    """Returns 2 × rank, plus 1 for a match, of each image for each query; or `_ignored`."""
    bits = found.view(torch.int32).masked_fill_(ignore, FARTHEST)  # floats >= 0 sort by their bits
    keys = bits.long().bitwise_left_shift_(32)
    keys |= torch.arange(keys.shape[1], device=keys.device)
    column = _sorted(keys).bitwise_and_(torch.iinfo(torch.int32).max)
    position = torch.arange(0, 2 * keys.shape[1], 2, dtype=torch.int16, device=keys.device)
    ranks = torch.empty_like(bits, dtype=torch.int16)
    ranks.scatter_(1, column, position.expand_as(bits))
    ranks |= match
    return ranks.masked_fill_(ignore, _ignored(ranks.dtype))


def _keys(
    found: Float32[Tensor, "q g"],
    match: Bool[Tensor, "q g"],
    ignore: Bool[Tensor, "q g"],
) -> Int64[Tensor, "q g"]:
    """Returns keys of distance, number and match bit, or `_ignored`; they sort like `_ranks`."""
    keys = found.view(torch.int32).long().bitwise_left_shift_(32)
    keys |= torch.arange(0, 2 * keys.shape[1], 2, device=keys.device)
    keys |= match
    return keys.masked_fill_(ignore, _ignored(keys.dtype))


def _ignored(kind: torch.dtype) -> int:
    """Returns a value greater than every rank, with the match bit off."""
    return torch.iinfo(kind).max - 1


@dataclass(frozen=True, slots=True, eq=False)
class _People:
    """The people in a trial's gallery."""

    pids: Int64[Tensor, " m"]  # ascending
    segment: Int64[Tensor, " g"]  # position in `pids` of each image's pid


def _people(gallery_pids: Int64[Tensor, " g"]) -> _People:
    return _People(*gallery_pids.unique(return_inverse=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """Scores of each query with a valid match."""

    before_first: Int64[Tensor, " q"]  # images, or people, that CMC counts before the first match
    average_precision: Float64[Tensor, " q"]
    inp: Float64[Tensor, " q"]
    chance: Float64[Tensor, " q"]


def _score(
    ranks: Integer[Tensor, "q g"],
    query_pids: Int64[Tensor, " q"],
    people: _People | None,
) -> _Scores:
    """Scores one trial's ranks (overwritten) or keys; with `people`, CMC counts each one once."""
    ignored = _ignored(ranks.dtype)
    if people:
        best = torch.full_like(ranks[:, : len(people.pids)], ignored)
        best.scatter_reduce_(1, people.segment.expand(ranks.shape), ranks, "amin")
        own = torch.searchsorted(people.pids, query_pids).clamp_(max=len(people.pids) - 1)
        pids_before = (best < best.gather(1, own[:, None])).sum(dim=1)
    num_valid = (ranks < ignored).sum(dim=1).double()
    # Sorted by query, then rank.
    query, position = _sorted_out(ranks) if ranks.dtype == torch.int16 else _counted(ranks)

    num_matches = query.bincount(minlength=len(ranks))
    scored = num_matches > 0
    end = num_matches.cumsum(0)
    nth = torch.arange(len(query), device=ranks.device) - (end - num_matches)[query]
    precision = (nth + 1) / (position + 1).double()
    sum_precision = torch.zeros_like(num_valid).index_add_(0, query, precision)[scored]
    matches, last = num_matches[scored], (end - 1)[scored]
    first_position = position[(end - num_matches)[scored]]
    return _Scores(
        before_first=pids_before[scored] if people else first_position,
        average_precision=sum_precision / matches,
        inp=matches / (position[last] + 1).double(),
        chance=matches / num_valid[scored],
    )


Matches = tuple[Int64[Tensor, " matches"], Int64[Tensor, " matches"]]  # query, rank from 0


def _sorted_out(ranks: Int16[Tensor, "q g"]) -> Matches:
    query, position = _sorted(ranks).bitwise_and_(1).nonzero(as_tuple=True)
    return query, position


def _counted(keys: Int64[Tensor, "q g"]) -> Matches:
    """Counts the keys between successive matches, which is faster than sorting a long row."""
    query, column = keys.bitwise_and(1).nonzero(as_tuple=True)
    num_matches = query.bincount(minlength=len(keys))
    most = int(num_matches.max())
    if not most:
        return query, column
    nth = torch.arange(len(query), device=keys.device)
    nth -= (num_matches.cumsum(0) - num_matches)[query]
    own = torch.full_like(keys[:, :most], torch.iinfo(keys.dtype).max)
    own[query, nth] = keys[query, column]
    own = own.sort(dim=1).values
    behind = torch.searchsorted(own, keys, right=True)  # number of matches; ignored images: most
    behind += torch.arange(0, len(keys) * (most + 1), most + 1, device=keys.device)[:, None]
    counts = behind.view(-1).bincount(minlength=len(keys) * (most + 1))
    before = counts.view(len(keys), most + 1).cumsum(dim=1)
    return query, before[query, nth]


def _sorted(keys: Integer[Tensor, "q g"]) -> Integer[Tensor, "q g"]:
    """Sorts each row; on the CPU in place with NumPy, one thread per core (3x torch's speed)."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    num_tasks = min(8, 1 + keys.numel() // 50_000)  # a tiny part is not worth a task
    parts = np.array_split(keys.numpy(), num_tasks)
    list(_threads().map(lambda part: part.sort(axis=1), parts))
    return keys


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), "sort")


def _average(parts: list[_Scores]) -> Ranking:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    before_first = joined("before_first")
    if not len(before_first):
        raise ValueError("no query has a gallery image of its pid that is not ignored")
    ranks = torch.arange(max(RANKS), device=before_first.device)
    return Ranking(
        cmc=(before_first[:, None] <= ranks).double().mean(dim=0).cpu().numpy(),
        mean_ap=joined("average_precision").mean().item(),
        mean_inp=joined("inp").mean().item(),
        chance_rank1=joined("chance").mean().item(),
        num_query=len(before_first),
    )


def summary(rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Returns mean and (population) standard deviation over trials, in percent."""
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
