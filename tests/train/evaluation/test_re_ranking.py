"""k-reciprocal re-ranking against the paper's equations, written with sets and loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from train import metrics
from train.evaluation import re_ranking
from train.evaluation.options import ReRanking
from train.evaluation.re_ranking import rank_re_ranked, re_rank
from train.metrics import Images, rank, rank_distances


def by_the_paper(d: np.ndarray, num_query: int, k1: int, k2: int, weight: float) -> np.ndarray:
    """Eq. 2-12, image by image, on squared distances; deviations are those that re_rank states."""
    images = range(len(d))
    order = [sorted(images, key=lambda g, p=p: (g != p, d[p][g], g)) for p in images]

    def near(p: int, k: int) -> set[int]:  # N(p, k), and p
        return set(order[p][: k + 1])

    def reciprocal(p: int, k: int) -> set[int]:  # R(p, k)
        return {g for g in near(p, k) if p in near(g, k)}

    expanded = []  # R*(p, k1)
    for p in images:
        own = reciprocal(p, k1)
        union = set(own)
        for q in own:
            of_q = reciprocal(q, k1 // 2)
            if 3 * len(own & of_q) > 2 * len(of_q):
                union |= of_q
        expanded.append(union)
    normal = [[d[p][g] / (max(d[p]) or 1) for g in images] for p in images]
    encoding = []
    for p in images:
        raw = [math.exp(-normal[p][g]) if g in expanded[p] else 0.0 for g in images]
        encoding.append([value / math.fsum(raw) for value in raw])
    wider = [
        [sum(encoding[g][j] for g in order[p][:k2]) / len(order[p][:k2]) for j in images]
        for p in images
    ]
    result = np.empty((num_query, len(d) - num_query))
    for p in range(num_query):
        for g in range(num_query, len(d)):
            pairs = list(zip(wider[p], wider[g], strict=True))
            jaccard = 1 - math.fsum(map(min, pairs)) / math.fsum(map(max, pairs))
            result[p, g - num_query] = (1 - weight) * jaccard + weight * normal[p][g]
    return result


def squared_distances(features: np.ndarray) -> np.ndarray:
    return ((features[:, None] - features) ** 2).sum(axis=2)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_query=st.integers(1, 8),
    num_gallery=st.integers(1, 25),
    k1=st.integers(1, 40),
    k2=st.integers(1, 40),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    spread=st.sampled_from([0, 1, 3, 1000]),
    max_keys=st.sampled_from([1, 100, re_ranking.MAX_KEYS]),
)
def test_equals_the_paper_with_ties_and_lists_longer_than_the_images(
    seed, num_query, num_gallery, k1, k2, weight, spread, max_keys
):
    rng = np.random.default_rng(seed)  # whole numbers: distances are exact, and tie
    features = rng.integers(-spread, spread + 1, (num_query + num_gallery, 2))
    d = squared_distances(features)
    expected = by_the_paper(d, num_query, k1, k2, weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(re_ranking, "MAX_KEYS", max_keys)
        options = ReRanking(k1, k2, weight)
        found = re_rank(torch.from_numpy(d.astype(np.float32)), num_query, options)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert not found.signbit().any()  # rankings read bits


def clustered(seed: int = 0, num_people: int = 12, each: int = 5) -> tuple[Images, Images]:
    """People whose images lie together; the queries are displaced, as infrared ones are."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num_people, 8))

    def side(shift: float) -> Images:
        pids = np.repeat(np.arange(num_people), each)
        features = centres[pids] + 0.6 * rng.standard_normal((len(pids), 8)) + shift
        codes = rng.integers(0, 4, len(pids))
        return Images(
            torch.from_numpy(features.astype(np.float32)),
            torch.from_numpy(pids),
            torch.from_numpy(codes),
        )

    return side(0.5), side(0.0)


def test_each_trial_is_re_ranked_with_its_own_gallery_alone():
    query, gallery = clustered()
    rng = np.random.default_rng(1)
    trials = [torch.from_numpy(rng.permutation(60)[:n]) for n in (60, 35, 20)]
    seen = []
    found = rank_re_ranked(
        query, gallery, trials, True, "cosine", ReRanking(), lambda: seen.append(1)
    )
    assert len(seen) == 3
    for trial, ranking in zip(trials, found, strict=True):
        rows = trial.sort().values
        of_trial = gallery.take(rows)
        features = torch.cat([query.features, of_trial.features]).double()
        unit = (features / features.norm(dim=1, keepdim=True)).numpy()
        expected = by_the_paper(squared_distances(unit), len(query), 20, 6, 0.3)
        distances = torch.from_numpy(expected.astype(np.float32))
        by_hand = rank_distances(distances, query, of_trial, True)
        np.testing.assert_allclose(ranking.cmc, by_hand.cmc)
        assert ranking.mean_ap == pytest.approx(by_hand.mean_ap)


def test_re_ranking_helps_where_people_form_clusters():
    query, gallery = clustered()
    everything = [torch.arange(60)]
    (plain,) = rank(query, gallery, everything, False)
    (better,) = rank_re_ranked(query, gallery, everything, False, "euclidean", ReRanking())
    assert better.mean_ap > plain.mean_ap + 0.02


def test_lambda_1_is_the_plain_ranking():
    query, gallery = clustered()
    trials = [torch.arange(60), torch.arange(7, 50)]
    plain = rank(query, gallery, trials, True)
    same = rank_re_ranked(query, gallery, trials, True, "euclidean", ReRanking(lambda_=1.0))
    for one, other in zip(plain, same, strict=True):
        np.testing.assert_array_equal(one.cmc, other.cmc)
        assert one.mean_ap == other.mean_ap


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([1, 50, metrics.MAX_KEYS]))
def test_given_distances_rank_like_those_of_features(seed, unique, max_keys):
    rng = np.random.default_rng(seed)

    def side(n: int) -> Images:
        features = torch.from_numpy(rng.integers(-3, 4, (n, 2)).astype(np.float32))
        pids, codes = (torch.from_numpy(rng.integers(0, 4, n)) for _ in range(2))
        return Images(features, pids, codes)

    query, gallery = side(9), side(40)
    (expected,) = rank(query, gallery, [torch.arange(40)], unique)
    found = metrics.distances(query.features, gallery.features, "euclidean")
    kept = found.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MAX_KEYS", max_keys)
        ranking = rank_distances(found, query, gallery, unique)
    assert torch.equal(found, kept)
    np.testing.assert_array_equal(ranking.cmc, expected.cmc)
    assert (ranking.mean_ap, ranking.mean_inp) == (expected.mean_ap, expected.mean_inp)
    for value in (float("nan"), -1.0):
        found[3, 3] = value
        with pytest.raises(ValueError, match="a distance is NaN or negative"):
            rank_distances(found, query, gallery, unique)


def test_what_cannot_be_re_ranked_is_rejected(monkeypatch):
    for options, message in (
        ({"k1": 0}, "--re-rank-k1 0: must be at least 1"),
        ({"k2": -3}, "--re-rank-k2 -3: must be at least 1"),
        ({"lambda_": 1.5}, "--re-rank-lambda 1.5: must be in 0…1"),
        ({"lambda_": math.nan}, "--re-rank-lambda nan: must be in 0…1"),
    ):
        with pytest.raises(InputError, match=message):
            ReRanking(**options)
    query, gallery = clustered()
    monkeypatch.setattr(re_ranking, "MAX_IMAGES", 119)
    with pytest.raises(InputError, match="60 queries and 60 gallery images need 120² distances"):
        rank_re_ranked(query, gallery, [torch.arange(60)], False, "cosine", ReRanking())
