"""CMC, mAP, mINP against a brute-force reading of the protocol, and hand-worked lists."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.evaluation.metrics import RANKS, rank


def brute_force(distance, query_pids, gallery_pids, ignore, unique):
    """The protocol, one query and one gallery image at a time."""
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
    return np.mean(cmc, axis=0), np.mean(aps), np.mean(inps), np.mean(chances), len(aps)


def run(distance, query_pids, gallery_pids, ignore=None, unique=False):
    distance = torch.as_tensor(distance, dtype=torch.float64)
    ignore = torch.zeros(distance.shape, dtype=torch.bool) if ignore is None else ignore
    return rank(
        distance,
        torch.as_tensor(query_pids),
        torch.as_tensor(gallery_pids),
        torch.as_tensor(ignore),
        unique,
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 9), st.integers(1, 40))
def test_equals_brute_force_ties_included(seed, unique, num_query, num_gallery):
    rng = np.random.default_rng(seed)
    query_pids, gallery_pids = rng.integers(5, size=num_query), rng.integers(5, size=num_gallery)
    distance = rng.integers(6, size=(num_query, num_gallery))  # many ties
    ignore = rng.random((num_query, num_gallery)) < 0.3
    match = (query_pids[:, None] == gallery_pids[None]) & ~ignore
    if not match.any():
        with pytest.raises(ValueError, match="no query has a gallery image of its pid"):
            run(distance, query_pids, gallery_pids, ignore, unique)
        return
    got = run(distance, query_pids, gallery_pids, ignore, unique)
    cmc, mean_ap, mean_inp, chance, scored = brute_force(
        distance, query_pids, gallery_pids, ignore, unique
    )
    np.testing.assert_allclose(got.cmc, cmc, rtol=1e-12)
    assert got.mean_ap == pytest.approx(mean_ap, rel=1e-6)
    assert got.mean_inp == pytest.approx(mean_inp, rel=1e-6)
    assert got.chance_rank1 == pytest.approx(chance, rel=1e-6)
    assert got.num_query == scored


def test_by_hand():
    # Ranked list: wrong, right, wrong, right. AP = (1/2 + 2/4) / 2, INP = 2/4.
    got = run([[1, 2, 3, 4]], [7], [1, 7, 2, 7])
    assert got.cmc[:3].tolist() == [0, 1, 1]
    assert got.mean_ap == pytest.approx(0.5)
    assert got.mean_inp == pytest.approx(0.5)
    assert got.chance_rank1 == pytest.approx(0.5)


def test_ignored_pairs_are_gone_before_anything_is_counted():
    """The same-place rule: the nearest image, of the query's pid or not, does not exist for it."""
    gallery, distance = [7, 1, 7], [[1, 2, 3]]
    assert run(distance, [7], gallery).cmc[0] == 1
    ignored = run(distance, [7], gallery, [[True, False, False]])
    assert ignored.cmc[:2].tolist() == [0, 1]
    assert ignored.mean_ap == pytest.approx(0.5)
    wrong_ignored = run(distance, [7], [1, 7, 2], [[True, False, False]])
    assert wrong_ignored.cmc[0] == 1


def test_repeated_pids_count_once_in_cmc_but_not_in_map():
    """The repeated-ID rule: three images of one wrong person cost a single rank."""
    gallery, distance = [1, 1, 1, 7], [[1, 2, 3, 4]]
    plain, unique = run(distance, [7], gallery), run(distance, [7], gallery, unique=True)
    assert plain.cmc[:4].tolist() == [0, 0, 0, 1]
    assert unique.cmc[:4].tolist() == [0, 1, 1, 1]
    assert plain.mean_ap == unique.mean_ap == pytest.approx(0.25)


def test_repeated_pids_are_removed_after_the_exclusion():
    # The wrong person's first image is ignored; the second one still holds a rank.
    got = run([[1, 2, 3]], [7], [1, 1, 7], [[True, False, False]], unique=True)
    assert got.cmc[:2].tolist() == [0, 1]


def test_queries_without_a_match_are_not_scored():
    got = run([[1, 2], [1, 2]], [7, 8], [7, 1])
    assert got.num_query == 1
    assert got.cmc[0] == 1
