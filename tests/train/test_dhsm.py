"""Eq. 5-7 by hand, every degenerate case, and the sums of `Mining`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import InputError
from train.dhsm import DhsmOptions, Mining, confidence, hardness, next_probability

unit = st.floats(0, 1)
four = arrays(np.float64, 4, elements=unit)


def test_eq_5_by_hand():
    logits = torch.log(
        torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]])
    )
    pids = torch.tensor([0, 0, 2, 1])
    codes = torch.tensor([1, 1, 3, -1], dtype=torch.int8)  # the last is an infrared counterpart
    sums = Mining(DhsmOptions(), 4, torch.device("cpu"))
    sums.add(sums.of_step(logits, pids, codes))
    sums.add(sums.of_step(logits[:1], pids[:1], torch.tensor([0], dtype=torch.int8)))
    total, count = sums.sums.numpy(), sums.counts.numpy()
    np.testing.assert_allclose(total, [0.8, 1.0, 0.0, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(count, [1, 2, 0, 1])
    r = confidence(total, count, previous=np.array([0.9, 0.9, 0.37, 0.9]))
    np.testing.assert_allclose(r, [0.8, 0.5, 0.37, 0.6], rtol=1e-6)


def test_ending_an_epoch_gives_the_next_p_hat_and_resets_the_sums():
    mining = Mining(DhsmOptions(alpha=0.1), 4, torch.device("cpu"))
    assert mining.probability.tolist() == [0.25] * 4
    mining.add(torch.tensor([[1.8, 0.8, 0.7, 0.0], [2, 1, 1, 0]], dtype=torch.float64))
    next_p_hat = mining.end_epoch()
    np.testing.assert_allclose(mining.r, [0.9, 0.8, 0.7, 0.0])  # X was not drawn and keeps its R
    np.testing.assert_allclose(next_p_hat, [0.08125, 0.1375, 0.19375, 0.5875])
    assert next_p_hat is mining.probability
    assert not mining.sums.any()
    assert not mining.counts.any()


@pytest.mark.parametrize(("enabled", "num_spectra"), [(False, 4), (True, 1), (True, 0)])
def test_p_hat_stays_without_dhsm_or_with_one_spectrum(enabled, num_spectra):
    mining = Mining(DhsmOptions(enabled=enabled), num_spectra, torch.device("cpu"))
    before = mining.probability.copy()
    mining.add(torch.ones(2, num_spectra, dtype=torch.float64))
    assert (mining.end_epoch() == before).all()
    assert (mining.r == 1).all()


def test_easy_spectra_get_more_probability_when_they_are_preferred():
    mining = Mining(DhsmOptions(alpha=0.0, prefer="easy"), 4, torch.device("cpu"))
    mining.add(torch.tensor([[0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1]], dtype=torch.float64))
    np.testing.assert_allclose(mining.end_epoch(), [0.1, 0.2, 0.3, 0.4])


def test_p_hat_starts_where_it_is_told_to_and_stays_there_without_dhsm():
    options = DhsmOptions(enabled=False, start=(1.0, 2.0, 3.0, 2.0))
    mining = Mining(options, 4, torch.device("cpu"))
    expected = [0.125, 0.25, 0.375, 0.25]
    np.testing.assert_allclose(mining.probability, expected)
    mining.add(torch.ones(2, 4, dtype=torch.float64))
    np.testing.assert_allclose(mining.end_epoch(), expected)


@pytest.mark.parametrize(
    "start", [(1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (1.0, math.inf), (1e308, 1e308)]
)
def test_a_start_that_gives_no_probabilities_is_refused(start):
    with pytest.raises(InputError, match=r"--dhsm\.start"):
        DhsmOptions(start=start)


def test_a_start_for_another_number_of_spectra_is_refused():
    with pytest.raises(InputError, match=r"gives 3 probabilities, but --data\.spectra has 4"):
        Mining(DhsmOptions(start=(1.0, 1.0, 1.0)), 4, torch.device("cpu"))


def test_eq_6_by_hand():
    np.testing.assert_allclose(
        hardness(np.array([0.9, 0.8, 0.7, 0.6])), [0.1, 0.2, 0.3, 0.4], rtol=1e-12
    )


def test_eq_7_by_hand():
    old = np.array([0.25, 0.25, 0.25, 0.25])
    new = next_probability(old, np.array([0.9, 0.8, 0.7, 0.6]), alpha=0.1)
    np.testing.assert_allclose(new, [0.115, 0.205, 0.295, 0.385], rtol=1e-12)


def test_all_spectra_mastered_is_uniform():
    np.testing.assert_array_equal(hardness(np.ones(4)), [0.25] * 4)


def test_r_stays_without_samples():
    previous = np.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(confidence(np.zeros(4), np.zeros(4), previous), previous)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_of_0_and_1(alpha):
    old, r = np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.0, 0.5, 0.5, 1.0])
    expected = old if alpha else hardness(r)
    np.testing.assert_allclose(next_probability(old, r, alpha), expected, rtol=1e-12)


@given(four, four, unit)
def test_probabilities_always_sum_to_1_and_stay_in_range(weights, r, alpha):
    old = (weights + 1e-3) / (weights + 1e-3).sum()
    for probability in (hardness(r), next_probability(old, r, alpha)):
        assert probability.sum() == pytest.approx(1, abs=1e-12)
        assert (probability >= 0).all()


@given(four)
def test_a_harder_spectrum_never_gets_a_lower_probability(r):
    order = np.argsort(r)
    assert (np.diff(hardness(r)[order]) <= 1e-15).all()


def test_confidence_is_computed_in_float32_from_half_precision_logits():
    logits = torch.tensor([[11.0, 1.0]], dtype=torch.bfloat16)
    sums = Mining(DhsmOptions(), 1, torch.device("cpu"))
    for _ in range(1000):
        sums.add(sums.of_step(logits, torch.tensor([0]), torch.tensor([0], dtype=torch.int8)))
    total, count = sums.sums, sums.counts
    assert total[0] / count[0] == pytest.approx(1 / (1 + np.exp(-10)), rel=1e-6)


def test_alpha_out_of_range_is_rejected():
    with pytest.raises(InputError, match=r"--dhsm.alpha 1.5: must be in 0…1"):
        DhsmOptions(alpha=1.5)
