"""CMC, mAP and mINP of ranked galleries. Knows no data set: a `Trial` says what to ignore."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

RANKS = (1, 5, 10, 20)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Figures of one trial, as fractions 0…1, over the queries that have a valid match."""

    cmc: Float[ndarray, " ranks"]  # [r]: queries with a match in the first r + 1
    mean_ap: float
    mean_inp: float
    chance_rank1: float  # expected rank-1 of a random order
    num_query: int  # scored


def rank(
    distance: Float[Tensor, "q g"],
    query_pids: Int64[Tensor, " q"],
    gallery_pids: Int64[Tensor, " g"],
    ignore: Bool[Tensor, "q g"],
    cmc_unique_pids: bool,
) -> Ranking:
    """Ranks each query's gallery by distance (ties: gallery order) and averages over queries.

    Ignored pairs are taken out first. With `cmc_unique_pids`, CMC then counts each gallery pid only
    at its best rank (SYSU-MM01); mAP (mean precision at the matches) and mINP (matches / rank of
    the last match; Ye et al., "Deep Learning for Person Re-identification", TPAMI 2021) always use
    the whole list. Raises `ValueError` if no query has a valid match.
    """
    order = distance.masked_fill(ignore, torch.inf).argsort(dim=1, stable=True)
    position = torch.arange(distance.shape[1], device=distance.device)
    num_valid = (~ignore).sum(dim=1)
    valid = position < num_valid[:, None]  # ignored rows were sorted to the end
    ranked_pids = gallery_pids[order]
    match = (ranked_pids == query_pids[:, None]) & valid

    scored = match.any(dim=1)
    if not scored.any():
        raise ValueError("no query has a gallery image of its pid that it may be matched with")
    match, valid, ranked_pids = match[scored], valid[scored], ranked_pids[scored]

    num_matches = match.sum(dim=1)
    precision = match.cumsum(dim=1) / (position + 1)
    average_precision = (precision * match).sum(dim=1) / num_matches
    last_rank = (match * (position + 1)).amax(dim=1)
    before_first = match.int().argmax(dim=1)
    if cmc_unique_pids:
        before_first = _distinct_pids_before(before_first, ranked_pids, valid)
    ranks = torch.arange(max(RANKS), device=distance.device)
    return Ranking(
        cmc=(before_first[:, None] <= ranks).double().mean(dim=0).cpu().numpy(),
        mean_ap=average_precision.double().mean().item(),
        mean_inp=(num_matches / last_rank).double().mean().item(),
        chance_rank1=(num_matches / num_valid[scored]).double().mean().item(),
        num_query=int(scored.sum()),
    )


def _distinct_pids_before(
    end: Int64[Tensor, " q"], ranked_pids: Int64[Tensor, "q g"], valid: Bool[Tensor, "q g"]
) -> Int64[Tensor, " q"]:
    """How many different pids each ranked list holds before position `end`."""
    pids, column = torch.unique(ranked_pids, return_inverse=True)
    num_columns = ranked_pids.shape[1]
    position = torch.arange(num_columns, device=end.device).expand_as(column)
    best = torch.full((len(column), len(pids)), num_columns, device=end.device)
    best.scatter_reduce_(1, column, position.where(valid, num_columns), "amin")
    return (best < end[:, None]).sum(dim=1)
