"""Interleaving, steady rates and ratios of the bench suite."""

import json
import subprocess
import time

import pytest

from bench.measure import LEAD, TAIL, Pass, Samples, cpu_seconds, in_turn, spread, steady
from bench.session import figure
from bench.targets import TARGETS, goal, judge
from train.environment import environment


def samples(**rates: list[float]) -> Samples:
    return Samples({name: [Pass(rate, 1.0) for rate in some] for name, some in rates.items()})


def test_sides_alternate_and_warm_up_does_not_count():
    calls, ticks = [], []

    def side(name):
        def run() -> Pass:
            calls.append(name)
            return Pass(float(len(calls)), 0.0)

        return run

    sides = {"a": side("a"), "b": side("b")}
    measured = in_turn(sides, rounds=2, warmup=1, tick=lambda *at: ticks.append(at))
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert (measured.rates("a"), measured.rates("b")) == ([4.0, 5.0], [3.0, 6.0])
    assert ticks == [(i, 6) for i in range(6)]


def test_ratios_are_taken_within_a_round():
    some = samples(a=[2.0, 40.0, 6.0], b=[1.0, 10.0, 6.0], c=[5.0, 5.0, 5.0])
    assert some.ratios("a", "b") == [2.0, 4.0, 1.0]
    assert spread(some.ratios("a", "b"))["median"] == 2.0
    assert some.best_of(["b", "c"]) == "b"


def test_percentiles_by_hand():
    assert spread(list(range(101))) == {
        "median": 50,
        "min": 0,
        "p5": 5,
        "p95": 95,
        "p99": 99,
        "max": 100,
    }


def test_only_the_middle_of_a_pass_is_timed():
    steps, slow = 5, 0.01

    def batches():
        for n in range(LEAD + steps + TAIL):
            time.sleep(slow if LEAD <= n < LEAD + steps else 10 * slow)
            yield n

    passing = batches()
    done = steady(passing, steps, images=4)
    assert next(passing) == LEAD + steps
    # A slower batch before or after them would reduce it to 0.33 of that.
    assert 0.5 * 4 / slow < done.rate <= 1.01 * 4 / slow
    assert done.cpu_us < 0.5 * 1e6 / done.rate  # it slept


def test_a_pass_that_is_too_short_fails():
    with pytest.raises(AssertionError, match="the pass ended after 2 of 3 batches"):
        steady(iter(range(LEAD + 2)), 3, 1)


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_counts_this_process_and_its_workers():
    before = cpu_seconds()
    spin(0.1)
    assert cpu_seconds() - before == pytest.approx(0.1, abs=0.08)
    worker = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        before = cpu_seconds()
        while cpu_seconds() - before < 0.25:  # an endless loop if the worker is not counted
            time.sleep(0.01)
    finally:
        worker.kill()
        worker.wait()


def test_the_environment_names_what_figures_depend_on():
    about = environment()
    assert about["num_cores"] >= 1
    assert about["packages"]["torch"]
    json.dumps(about)


def test_a_target_is_met_missed_or_not_measured():
    judged = judge({"cached_over_streaming": [2.4, 2.6, 2.7], "decodes_per_image": [0.6]}, False)
    assert list(judged) == list(TARGETS)
    assert judged["cached_over_streaming"]["met"] is True
    assert judged["cached_over_streaming"]["measured"] == 2.6
    assert judged["cached_over_streaming"]["samples"] == [2.4, 2.6, 2.7]
    assert judged["decodes_per_image"]["met"] is False
    absent = judged["streaming_over_best_peer"]
    assert (absent["measured"], absent["samples"], absent["met"]) == (None, None, None)
    waiting = judge({"data_wait_cached": [0.02]}, on_gpu=True)["data_wait_cached"]
    assert (waiting["at_most"], waiting["met"]) == (0.01, False)
    assert judge({"data_wait_cached": [0.02]}, on_gpu=False)["data_wait_cached"]["met"] is None


def test_figures_have_three_digits():
    some = {0: "0", 0.01234: "0.0123", 0.5: "0.500", 1.1: "1.10", 123.4: "123"}
    assert [figure(x) for x in some] == list(some.values())


def test_goals_are_formatted_for_people():
    bounds = {(2.0, None): "≥ 2", (None, 0.01): "≤ 0.01", (0.5, 0.5): "= 0.5", (None, None): ""}
    assert [goal(*pair) for pair in bounds] == list(bounds.values())
