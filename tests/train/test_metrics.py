"""CMC, mAP and mINP: against a brute-force implementation, by hand, and by properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train import metrics
from train.evaluation.evaluate import fill
from train.metrics import RANKS, Images, Ranking, distances, rank


def brute_force(distance, query_pids, gallery_pids, ignore, unique):
    """Applies the protocol to one query and one gallery image at a time."""
    cmc, aps, inps, chances = [], [], [], []
    for q, pid in enumerate(query_pids):
        allowed = [g for g in range(len(gallery_pids)) if not ignore[q][g]]
        ranked = [gallery_pids[g] for g in sorted(allowed, key=lambda g: (distance[q][g], g))]
        if pid not in ranked:
            continue
        hits = [i + 1 for i, other in enumerate(ranked) if other == pid]
        aps.append(np.mean([(n + 1) / hit for n, hit in enumerate(hits)]))
        inps.append(len(hits) / hits[-1])
        chances.append(len(hits) / len(ranked))
        listed = list(dict.fromkeys(ranked)) if unique else ranked
        first = listed.index(pid)
        cmc.append([first <= k for k in range(max(RANKS))])
    if not aps:
        return None
    return np.mean(cmc, axis=0), np.mean(aps), np.mean(inps), np.mean(chances), len(aps)


def images(features, pids, exclusion=None, offset=0) -> Images:
    features = torch.as_tensor(np.asarray(features, np.float32))
    features = features.reshape(len(pids), -1)
    codes = np.arange(len(pids)) + offset if exclusion is None else exclusion
    return Images(
        features,
        torch.as_tensor(np.asarray(pids, np.int64)),
        torch.as_tensor(np.asarray(codes, np.int64)),
    )


def run(query, query_pids, gallery, gallery_pids, unique=False, codes=(None, None), **kwargs):
    (found,) = rank(
        images(query, query_pids, codes[0], offset=-(10**6)),
        images(gallery, gallery_pids, codes[1]),
        [torch.arange(len(gallery_pids))],
        unique,
        **kwargs,
    )
    return found


def one_query(pids: list[int], unique: bool = False, ignored: tuple[int, ...] = ()) -> Ranking:
    """Searches for person 7 in a list with the given ranking."""
    codes = [0 if g in ignored else g + 1 for g in range(len(pids))]
    return run([0], [7], np.arange(1, len(pids) + 1), pids, unique, codes=([0], codes))


def figures(ranking: Ranking) -> list[float]:
    return [*ranking.cmc, ranking.mean_ap, ranking.mean_inp, ranking.chance_rank1]


@settings(max_examples=75, deadline=None)
@given(
    st.integers(0, 2**32),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([1, 50, metrics.MAX_KEYS]),
    st.sampled_from([0, metrics.MAX_RANKED]),
)
def test_equals_brute_force_ties_and_duplicates_included(
    seed, unique, num_q, num_g, max_keys, max_ranked
):
    rng = np.random.default_rng(seed)
    query_pids, gallery_pids = rng.integers(5, size=num_q), rng.integers(5, size=num_g)
    places = rng.integers(4, size=num_q), rng.integers(4, size=num_g)
    query, gallery = rng.integers(-3, 4, (num_q, 2)), rng.integers(-3, 4, (num_g, 2))
    trials = [np.sort(rng.permutation(num_g)[: rng.integers(1, num_g + 1)]) for _ in range(3)]
    distance = ((query[:, None] - gallery) ** 2).sum(axis=2)
    ignore = places[0][:, None] == places[1]
    expected = [
        brute_force(distance[:, t], query_pids, gallery_pids[t], ignore[:, t], unique)
        for t in trials
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MAX_KEYS", max_keys)
        patch.setattr(metrics, "MAX_RANKED", max_ranked)

        def found():
            return rank(
                images(query, query_pids, places[0]),
                images(gallery, gallery_pids, places[1]),
                [torch.from_numpy(t) for t in trials],
                unique,
            )

        if None in expected:
            with pytest.raises(ValueError, match="no query has a gallery image of its pid"):
                found()
            return
        for got, (cmc, mean_ap, mean_inp, chance, scored) in zip(found(), expected, strict=True):
            np.testing.assert_allclose(got.cmc, cmc, rtol=1e-12)
            assert got.mean_ap == pytest.approx(mean_ap, rel=1e-12)
            assert got.mean_inp == pytest.approx(mean_inp, rel=1e-12)
            assert got.chance_rank1 == pytest.approx(chance, rel=1e-12)
            assert got.num_query == scored


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_figures_do_not_change_if_the_order_is_kept(seed, unique):
    rng = np.random.default_rng(seed)
    query, gallery = rng.standard_normal((20, 4)), rng.standard_normal((60, 4))
    query_pids, gallery_pids = rng.integers(6, size=20), rng.integers(6, size=60)
    codes = rng.integers(3, size=20), rng.integers(3, size=60)
    before = figures(run(query, query_pids, gallery, gallery_pids, unique, codes))
    # A permutation of the gallery.
    p = rng.permutation(60)
    permuted = run(query, query_pids, gallery[p], gallery_pids[p], unique, (codes[0], codes[1][p]))
    np.testing.assert_allclose(figures(permuted), before, rtol=1e-12)
    # Other numbers for people and locations.
    names = rng.permutation(1000)
    relabelled = run(
        query,
        names[query_pids],
        gallery,
        names[gallery_pids],
        unique,
        tuple(names[c] for c in codes),
    )
    np.testing.assert_allclose(figures(relabelled), before, rtol=1e-12)
    # A monotone change of distances: scaled, rotated and translated.
    rotation, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    changed = [8 * features @ rotation + 5 for features in (query, gallery)]
    moved = run(changed[0], query_pids, changed[1], gallery_pids, unique, codes)
    np.testing.assert_allclose(figures(moved), before, rtol=1e-12)


@pytest.mark.parametrize("unique", [False, True])
def test_a_perfect_model_scores_100_and_a_random_one_chance(unique):
    rng = np.random.default_rng(0)
    query_pids, gallery_pids = rng.integers(20, size=3000), np.repeat(np.arange(20), 5)
    points = 10 * rng.standard_normal((20, 8))
    perfect = run(points[query_pids], query_pids, points[gallery_pids], gallery_pids, unique)
    np.testing.assert_allclose(figures(perfect)[:-1], 1)
    query, gallery = rng.standard_normal((3000, 64)), rng.standard_normal((100, 64))
    randomly = run(query, query_pids, gallery, gallery_pids, unique)
    assert randomly.chance_rank1 == pytest.approx(0.05)
    assert randomly.cmc[0] == pytest.approx(0.05, abs=0.015)


def test_by_hand():
    # Ranked list: wrong, right, wrong, right. AP = (1/2 + 2/4) / 2, INP = 2/4.
    got = one_query([1, 7, 2, 7])
    assert got.cmc[:3].tolist() == [0, 1, 1]
    assert got.mean_ap == pytest.approx(0.5)
    assert got.mean_inp == pytest.approx(0.5)
    assert got.chance_rank1 == pytest.approx(0.5)


def test_a_single_match():
    got = one_query([1, 2, 7, 3])
    assert (got.mean_ap, got.mean_inp) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert got.cmc[:4].tolist() == [0, 0, 1, 1]


def test_ignored_pairs_are_removed_before_counting():
    """The same-location rule: the query ignores the nearest image, whatever its pid."""
    assert one_query([7, 1, 7]).cmc[0] == 1
    ignored = one_query([7, 1, 7], ignored=(0,))
    assert ignored.cmc[:2].tolist() == [0, 1]
    assert ignored.mean_ap == pytest.approx(0.5)
    assert one_query([1, 7, 2], ignored=(0,)).cmc[0] == 1


def test_repeated_pids_count_once_in_cmc_but_not_in_map():
    """The repeated-ID rule: three images of one wrong person count as a single rank."""
    plain, unique = one_query([1, 1, 1, 7]), one_query([1, 1, 1, 7], unique=True)
    assert plain.cmc[:4].tolist() == [0, 0, 0, 1]
    assert unique.cmc[:4].tolist() == [0, 1, 1, 1]
    assert plain.mean_ap == unique.mean_ap == pytest.approx(0.25)


def test_repeated_pids_are_removed_after_the_exclusion():
    # The wrong person's first image is ignored; the second one still takes a rank.
    got = one_query([1, 1, 7], unique=True, ignored=(0,))
    assert got.cmc[:2].tolist() == [0, 1]


def test_queries_without_a_match_are_not_scored():
    got = run([0, 0], [7, 8], [1, 2], [7, 1])
    assert got.num_query == 1
    assert got.cmc[0] == 1


def test_a_pool_too_large_for_16_bit_ranks_gives_the_same_figures():
    # Ranks of up to 16,382 images fit in 16 bits; beyond that, keys before a match are counted.
    rng = np.random.default_rng(0)
    gallery_pids = rng.integers(50, size=20000)
    gallery = rng.integers(0, 3000, 20000)
    got = run([0.0, 5.0], [3, 4], gallery, gallery_pids)
    distance = np.abs(np.array([[0.0], [5.0]]) - gallery)
    expected = brute_force(
        distance, [3, 4], gallery_pids.tolist(), np.zeros((2, 20000), bool).tolist(), False
    )
    assert expected is not None
    assert got.mean_ap == pytest.approx(expected[1], rel=1e-12)
    assert got.mean_inp == pytest.approx(expected[2], rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_features_that_are_not_finite_are_rejected_naming_the_row(value, side):
    features = {"query": [0.0, 1.0, 2.0], "gallery": [0.0, 1.0, 2.0]}
    features[side][2] = value
    with pytest.raises(ValueError, match=f"{side} features, row 2: holds NaN or infinity"):
        run(features["query"], [1, 2, 3], features["gallery"], [1, 2, 3])


def test_equal_features_tie_wherever_they_are_in_the_matrix():
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.standard_normal((7, 300)), 400, axis=0)[rng.permutation(2800)]
    query = np.r_[gallery[:5], rng.standard_normal((30, 300))]
    for kind in ("euclidean", "cosine"):
        found = distances(*(torch.from_numpy(x.astype(np.float32)) for x in (query, gallery)), kind)
        for row in found:
            assert len(row.unique()) == 7
        assert (found[:5].min(dim=1).values == 0).all()
        assert not found.signbit().any()


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
def test_distances_equal_numpys(kind):
    rng = np.random.default_rng(1)
    query, gallery = (rng.standard_normal((n, 16)).astype(np.float32) for n in (9, 1500))
    q, g = query.astype(np.float64), gallery.astype(np.float64)
    if kind == "cosine":
        q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, g))
    expected = ((q[:, None] - g) ** 2).sum(axis=2)
    found = distances(torch.from_numpy(query), torch.from_numpy(gallery), kind)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("max_ranked", [0, metrics.MAX_RANKED])
@pytest.mark.parametrize("unique", [False, True])
def test_cuda_ranks_like_the_cpu(unique, max_ranked, gpu, monkeypatch):
    monkeypatch.setattr(metrics, "MAX_RANKED", max_ranked)
    rng = np.random.default_rng(0)
    query = images(rng.standard_normal((500, 64)), rng.integers(30, size=500), np.arange(500) % 5)
    gallery = images(rng.standard_normal((900, 64)), rng.integers(30, size=900), np.arange(900) % 7)
    trials = [torch.arange(900), torch.arange(0, 900, 3)]
    q, g = (Images(x.features.cuda(), x.pids.cuda(), x.exclusion.cuda()) for x in (query, gallery))
    expected = rank(query, gallery, trials, unique)
    found = rank(q, g, [t.cuda() for t in trials], unique)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(figures(mine), figures(other), rtol=1e-9)


def test_a_batch_is_padded_with_its_last_row():
    rows = torch.arange(6.0).reshape(3, 2)
    assert fill(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert fill(rows, 3) is rows
    assert fill(torch.tensor([False, True]), 4).tolist() == [False, True, True, True]
