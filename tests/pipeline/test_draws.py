"""Stateless draws: their distributions, and that only (seed, epoch, step, position) matters."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.draws import draw, generator, uniforms

FIELDS = ("spectrum", "flip", "brightness")


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32), st.integers(0, 2**32))
def test_draws_are_a_pure_function_and_do_not_depend_on_the_batch_size(seed, epoch, step):
    small = draw(seed, epoch, step, 8, 0.5, 0.1)
    large = draw(seed, epoch, step, 64, 0.5, 0.1)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(small, name), getattr(large, name)[:8])


NAMES = ("plan", "pair", "erase", "crop")


def test_seed_epoch_step_and_name_give_different_streams():
    streams = [(s, n, e, t) for s in (0, 1) for n in NAMES for e in (0, 1) for t in (0, 1)]
    values = {generator(*key).random(4).tobytes() for key in streams}
    assert len(values) == len(streams)


def test_neighbouring_large_seeds_differ():
    """As a list, the key would round them to the same float64."""
    values = {generator(2**63 + i, "plan", 0).random(4).tobytes() for i in range(4)}
    assert len(values) == 4


def test_ranges_and_means():
    draws = draw(0, 1, 2, 20_000, 0.25, 0.1)
    assert 0 <= draws.spectrum.min() < draws.spectrum.max() < 1
    assert abs(draws.flip.mean() - 0.25) < 0.015
    assert 0.9 <= draws.brightness.min() < 0.901
    assert 1.099 < draws.brightness.max() <= 1.1
    assert abs(draws.brightness.mean() - 1) < 0.002
    assert abs(np.corrcoef(draws.spectrum, draws.brightness)[0, 1]) < 0.03


def test_flip_of_0_and_1_and_jitter_of_0_are_exact():
    assert not draw(0, 0, 0, 1000, 0.0, 0.1).flip.any()
    assert draw(0, 0, 0, 1000, 1.0, 0.1).flip.all()
    assert (draw(0, 0, 0, 1000, 0.5, 0.0).brightness == 1).all()


def test_the_first_two_names_keep_their_old_values():
    """Published runs stay reproducible: Philox keyed by (seed, 0) and (seed, 1)."""
    for number, name in enumerate(("plan", "pair")):
        key = np.array([5, number], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 3, 2]))
        expected = rng.random((4, 3), np.float32)
        np.testing.assert_array_equal(uniforms(5, name, 2, 3, 4, 3), expected)
