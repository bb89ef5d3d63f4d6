"""k-reciprocal re-ranking (Zhong et al., CVPR 2017, arXiv:1701.08398): distances → distances.

Two images are similar if they have the same neighbours. Neighbour lists are sparse, so everything
is computed with products of sparse matrices; only the distances themselves are n × n.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from torch import Tensor

from pipeline.errors import InputError
from train.evaluation.options import ReRanking
from train.metrics import Distance, Images, Ranking, check_finite, distances, rank_distances

MAX_IMAGES = 30_000  # queries and gallery: 3.6 GB of distances, and a copy for each trial
MAX_KEYS = 2**23  # sorted at a time: 64 MB


def rank_re_ranked(
    query: Images,
    gallery: Images,
    trials: Sequence[Int64[Tensor, " _"]],
    cmc_unique_pids: bool,
    distance: Distance,
    options: ReRanking,
    on_trial: Callable[[], None] = lambda: None,
) -> list[Ranking]:
    """Like `metrics.rank`, but ranks each trial by its re-ranked distances.

    Applies exclusion codes afterwards: neighbours come from all images of the trial, including
    those that a query ignores. Raises `InputError` for more than `MAX_IMAGES` images.
    """
    num_query, total = len(query), len(query) + len(gallery)
    check_size(num_query, len(gallery))
    check_finite(query, gallery)
    features = torch.cat([query.features, gallery.features])
    found = distances(features, features, distance)
    rankings = []
    for columns in trials:
        columns = columns.sort().values  # the order of ties
        rows = torch.cat([torch.arange(num_query, device=columns.device), columns + num_query])
        of_trial = found if len(rows) == total else found[rows][:, rows]
        re_ranked = re_rank(of_trial, num_query, options)
        rankings.append(rank_distances(re_ranked, query, gallery.take(columns), cmc_unique_pids))
        on_trial()
    return rankings


def check_size(num_query: int, num_gallery: int) -> None:
    """Raises `InputError` for more than `MAX_IMAGES` images."""
    total = num_query + num_gallery
    if total > MAX_IMAGES:
        raise InputError(
            f"--re-rank: {num_query} queries and {num_gallery} gallery images need {total}² "
            f"distances ({4e-9 * total**2:.1f} GB); at most {MAX_IMAGES} images are re-ranked: "
            "leave --re-rank out, or test on fewer images"
        )


def re_rank(
    found: Float32[Tensor, "n n"], num_query: int, options: ReRanking
) -> Float32[Tensor, "q g"]:
    """Returns re-ranked distances, 0…1, given squared distances of all queries, then the gallery.

    Follows the authors' MATLAB code, the source of published figures, where it differs from the
    paper: distances are squared Euclidean, divided by each image's largest one; neighbour lists
    hold the image itself before k1 others; R(q, k1/2) joins R(p, k1) if *more* than 2/3 of it
    overlaps (the paper: at least 2/3); encodings sum to 1, so in Eq. 10 the sum of maxima is 2
    minus the sum of minima. Not in the paper: an image is always its own nearest neighbour, other
    ties go by row, and lists are cut to the number of images, so any k1 and k2 work.
    """
    nearest = _nearest(found, max(options.k1 + 1, options.k2))
    scale = found.amax(dim=1).clamp(min=torch.finfo(found.dtype).tiny)  # all may be equal

    # Eq. 4: R*(p, k1) as a matrix whose row p is nonzero at its members.
    reciprocal = _reciprocal(nearest[:, : options.k1 + 1])
    half = _reciprocal(nearest[:, : options.k1 // 2 + 1])
    shared = (reciprocal @ half.T).multiply(reciprocal).tocoo()
    joins = 3 * shared.data > 2 * half.sum(axis=1)[shared.col]
    joined = _matrix(shared.row[joins], shared.col[joins], len(found))
    rows, columns = (reciprocal + joined @ half).nonzero()

    # Eq. 7 and 11: V.
    i, j = (torch.from_numpy(n.astype(np.int64)).to(found.device) for n in (rows, columns))
    weights = torch.exp(-found[i, j].double() / scale[i]).cpu().numpy()
    weights /= np.bincount(rows, weights)[rows]
    averaged = nearest[:, : options.k2]
    encoded = _lists(averaged) @ _matrix(rows, columns, len(found), weights)
    encoded.data /= averaged.shape[1]

    overlap = torch.from_numpy(_overlap(encoded, num_query)).to(found.device)
    jaccard = 1 - overlap / (2 - overlap)  # Eq. 10
    original = found[:num_query, num_query:] / scale[:num_query, None]
    re_ranked = (1 - options.lambda_) * jaccard + options.lambda_ * original  # Eq. 12
    return re_ranked.clamp_(min=0).float()  # rounding may give an overlap of 1 + 1e-16


def _nearest(found: Float32[Tensor, "n n"], k: int) -> Int64[ndarray, "n k"]:
    """Returns the k nearest images of each image, itself first; ties by row; k is at most n."""
    columns = torch.arange(len(found), device=found.device)
    parts = []
    for rows in columns.split(max(1, MAX_KEYS // len(found))):
        keys = found[rows].view(torch.int32).long().bitwise_left_shift_(32)  # metrics.py's keys
        keys |= columns
        keys[torch.arange(len(rows)), rows] -= 2**62  # before a distance of 0
        smallest = keys.topk(min(k, len(found)), dim=1, largest=False).values
        parts.append(smallest.bitwise_and_(2**32 - 1).cpu())
    return torch.cat(parts).numpy()


def _reciprocal(nearest: Int64[ndarray, "n k"]) -> csr_array:
    """Returns 1 where each image is in the other's list (Eq. 3)."""
    lists = _lists(nearest)
    return lists.multiply(lists.T).tocsr()


def _lists(nearest: Int64[ndarray, "n k"]) -> csr_array:
    """Returns 1 where the column's image is in the row's list."""
    n, k = nearest.shape
    return _matrix(np.repeat(np.arange(n), k), nearest.ravel(), n)


def _matrix(
    rows: ndarray, columns: ndarray, n: int, values: Float64[ndarray, " _"] | None = None
) -> csr_array:
    values = np.ones(len(rows), np.int64) if values is None else values
    return csr_array((values, (rows, columns)), shape=(n, n))


def _overlap(encoded: csr_array, num_query: int) -> Float64[ndarray, "q g"]:
    """Returns, for each query and gallery image, the sum of the minimum of their encodings."""
    by_image = encoded[num_query:].T.tocsr()
    found = np.empty((num_query, by_image.shape[1]))
    for i, (start, stop) in enumerate(
        zip(encoded.indptr[:num_query], encoded.indptr[1 : num_query + 1], strict=True)
    ):
        others = by_image[encoded.indices[start:stop]]
        own = np.repeat(encoded.data[start:stop], np.diff(others.indptr))
        smaller = np.minimum(others.data, own)
        found[i] = np.bincount(others.indices, smaller, minlength=by_image.shape[1])
    return found
