"""The epoch plan: exact P x K batches, even coverage, a pure function of (seed, epoch)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.records import Index, Modality
from pipeline.draws import generator
from pipeline.errors import InputError
from pipeline.groups import group
from pipeline.sampler import _identity_slots, check, num_steps, plan_epoch
from tests.conftest import make_index

image_counts = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=14)


@st.composite
def cases(draw):
    counts = draw(image_counts)
    p = draw(st.integers(2, len(counts)))
    k = draw(st.sampled_from([2, 4, 6]))
    return make_index(counts), p, k, draw(st.integers(0, 2**63)), draw(st.integers(0, 10**6))


def by_one_sort(index, p, k, sampling, seed, epoch):
    """The former plan, which sorted all images in each epoch; the current one must equal it."""

    def next_images(identity, k):
        draws = rng.integers(2**32, size=len(identity), dtype=np.uint64)
        shuffled = np.argsort((identity.astype(np.uint64) << np.uint64(32)) | draws, kind="stable")
        count = np.bincount(identity, minlength=len(pids))
        first = np.cumsum(count) - count
        position = occurrence[:, None] * k + np.arange(k)
        return shuffled[first[slots, None] + position % count[slots, None]]

    rng = generator(seed, "plan", epoch)
    steps = -(-len(index) // (p * k))
    pids, identity = np.unique(index.pids, return_inverse=True)
    slots, occurrence = _identity_slots(rng, len(pids), steps, p)
    if sampling == "random":
        return next_images(identity, k).reshape(steps, p * k)
    parts = [np.flatnonzero(index.modality == modality) for modality in Modality]
    halves = [rows[next_images(identity[rows], k // 2)] for rows in parts]
    return np.concatenate(halves, axis=1).reshape(steps, p * k)


def shuffled_rows(index: Index, seed: int) -> Index:
    order = np.random.default_rng(seed).permutation(len(index))
    columns = (index.paths, index.pids, index.camids, index.modality)
    return Index(index.root, *(column[order] for column in columns))


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(["balanced", "random"]))
def test_the_plan_equals_one_sort_over_all_images(case, sampling):
    index, p, k, seed, epoch = case
    index = shuffled_rows(index, seed % 1000)
    expected = by_one_sort(index, p, k, sampling, seed, epoch)
    assert (plan_epoch(index, p, k, sampling, seed, epoch) == expected).all()
    groups = group(index, sampling)
    assert (plan_epoch(index, p, k, sampling, seed, epoch, groups) == expected).all()


def test_equal_random_numbers_keep_the_order_of_rows(monkeypatch):
    """Of 2**32 numbers two are seldom equal; with most bits removed they often are."""

    class Coarse(np.random.Generator):
        def integers(self, high, size, dtype):
            return super().integers(high, size=size, dtype=dtype) >> dtype(30)

    def coarse(*args):
        return Coarse(true_generator(*args).bit_generator)

    true_generator = generator
    monkeypatch.setattr("pipeline.sampler.generator", coarse)
    monkeypatch.setitem(by_one_sort.__globals__, "generator", coarse)
    index = shuffled_rows(make_index([(9, 7), (30, 40), (9, 40)]), 0)
    for sampling in ("balanced", "random"):
        expected = by_one_sort(index, 3, 4, sampling, 0, 1)
        assert (plan_epoch(index, 3, 4, sampling, 0, 1) == expected).all()


@pytest.mark.parametrize("sampling", ["balanced", "random"])
def test_a_large_plan_equals_one_sort(sampling):
    """Identities of 1 to 1,000 images in a modality."""
    sizes = np.random.default_rng(0).zipf(1.5, (500, 2)).clip(1, 1000)
    index = shuffled_rows(make_index([(int(rgb), int(ir)) for rgb, ir in sizes]), 1)
    groups = group(index, sampling)
    plan = plan_epoch(index, 16, 4, sampling, 7, 3, groups)
    assert (plan == by_one_sort(index, 16, 4, sampling, 7, 3)).all()


@settings(max_examples=80, deadline=None)
@given(cases())
def test_balanced_batches_hold_p_identities_with_half_of_k_in_each_modality(case):
    index, p, k, seed, epoch = case
    plan = plan_epoch(index, p, k, "balanced", seed, epoch)
    assert plan.shape == (-(-len(index) // (p * k)), p * k)
    for rows in plan.reshape(len(plan), p, k):
        pids = index.pids[rows]
        assert (pids == pids[:, :1]).all()
        assert len(np.unique(pids[:, 0])) == p
        assert (index.modality[rows] == [0] * (k // 2) + [1] * (k // 2)).all()
        for of_identity in rows:
            for half in (of_identity[: k // 2], of_identity[k // 2 :]):
                same = (index.pids == index.pids[half[0]]) & (
                    index.modality == index.modality[half[0]]
                )
                # Repeats only where the identity has too few images.
                assert len(np.unique(half)) == min(k // 2, same.sum())


@settings(max_examples=80, deadline=None)
@given(cases())
def test_random_batches_hold_p_identities_with_k_images(case):
    index, p, k, seed, epoch = case
    plan = plan_epoch(index, p, k, "random", seed, epoch)
    for rows in plan.reshape(len(plan), p, k):
        pids = index.pids[rows]
        assert (pids == pids[:, :1]).all()
        assert len(np.unique(pids[:, 0])) == p
        for of_identity in rows:
            available = (index.pids == index.pids[of_identity[0]]).sum()
            assert len(np.unique(of_identity)) == min(k, available)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_an_epoch_covers_identities_and_their_images_evenly(case):
    index, p, k, seed, epoch = case
    plan = plan_epoch(index, p, k, "balanced", seed, epoch)
    _, times = np.unique(index.pids[plan.reshape(-1, k)[:, 0]], return_counts=True)
    seen = np.zeros(len(np.unique(index.pids)), int)
    seen[: len(times)] = times  # an identity that was never drawn counts 0
    assert seen.max() - seen.min() <= 1
    uses = np.bincount(plan.ravel(), minlength=len(index))
    for pid in np.unique(index.pids):
        for modality in (0, 1):
            of_group = uses[(index.pids == pid) & (index.modality == modality)]
            assert of_group.max() - of_group.min() <= 1


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_plan_depends_on_seed_and_epoch_only(case):
    index, p, k, seed, epoch = case
    plan = plan_epoch(index, p, k, "balanced", seed, epoch)
    plan_epoch(index, p, k, "balanced", seed + 1, epoch + 1)
    assert (plan == plan_epoch(index, p, k, "balanced", seed, epoch)).all()


def test_epochs_and_seeds_differ():
    index = make_index([(6, 6)] * 12)
    plans = [
        plan_epoch(index, 4, 4, "balanced", seed, epoch).tobytes()
        for seed, epoch in [(0, 1), (0, 2), (1, 1), (1, 2)]
    ]
    assert len(set(plans)) == 4


def test_a_balanced_set_is_covered_exactly_once_an_epoch():
    index = make_index([(6, 6)] * 8)
    plan = plan_epoch(index, 4, 4, "balanced", seed=5, epoch=1)
    assert sorted(plan.ravel()) == list(range(len(index)))


def test_an_epoch_is_one_pass_over_the_images():
    assert num_steps(make_index([(8, 8)] * 4), 2, 4) == 8
    assert num_steps(make_index([(8, 8)] * 3 + [(8, 9)]), 2, 4) == 9


@pytest.mark.parametrize(
    ("counts", "p", "sampling", "message"),
    [
        ([(2, 2)] * 3, 4, "balanced", "--data.p 4: the data has only 3 training identities"),
        ([(2, 2)], 4, "balanced", "/none: the data has 1 training identities; a batch needs at le"),
        ([(2, 2)] * 3, 4, "random", "only 3 training identities; pass --data.p 3 or less"),
        ([(2, 2), (2, 0), (2, 2)], 2, "balanced", "identity 13 has no IR image"),
        ([(2, 2), (0, 2), (0, 2)], 2, "balanced", r"identity 13 has no RGB image \(2 such"),
    ],
)
def test_batches_that_the_data_cannot_fill_are_refused(counts, p, sampling, message):
    with pytest.raises(InputError, match=message):
        check(make_index(counts), p, 2, sampling)


def test_one_modality_is_enough_for_random_sampling():
    index = make_index([(2, 0), (3, 0), (0, 4)])
    check(index, 2, 2, "random")
    assert plan_epoch(index, 2, 2, "random", 0, 1).shape == (3, 4)


def test_shuffle_takes_every_image_once_and_fills_the_last_step():
    index = make_index([(3, 1), (9, 0), (2, 2)])  # 17 images; identity 1 has no infrared one
    check(index, p=8, k=2, sampling="shuffle")  # no requirement on identities
    plan = plan_epoch(index, 3, 2, "shuffle", seed=1, epoch=1)
    assert plan.shape == (3, 6)
    assert sorted(plan.ravel()[:17]) == list(range(17))
    assert plan.ravel()[17] == plan[0, 0]
    assert (plan == plan_epoch(index, 3, 2, "shuffle", seed=1, epoch=1)).all()
    assert (plan != plan_epoch(index, 3, 2, "shuffle", seed=1, epoch=2)).any()
