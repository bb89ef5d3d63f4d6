"""Interleaving, steady rates and ratios of the bench suite."""

import json
import time

import pytest
from rich.console import Console

from bench.measure import LEAD, TAIL, Samples, environment, in_turn, report, spread, steady_rate


def test_sides_run_in_turn_and_warm_up_does_not_count():
    calls = []

    def side(name):
        def run() -> float:
            calls.append(name)
            return float(len(calls))

        return run

    samples = in_turn({"a": side("a"), "b": side("b")}, rounds=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert samples.rates == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_ratios_are_those_of_a_round():
    samples = Samples({"a": [2.0, 40.0, 6.0], "b": [1.0, 10.0, 6.0]})
    assert samples.ratios("a", "b") == [2.0, 4.0, 1.0]
    assert spread(samples.ratios("a", "b"))["median"] == 2.0
    assert samples.median("a") == 6.0


def test_only_the_middle_of_a_pass_is_timed():
    steps, slow = 5, 0.005

    def batches():
        for n in range(LEAD + steps + TAIL):
            time.sleep(slow if LEAD <= n < LEAD + steps else 10 * slow)
            yield n

    passing = batches()
    rate = steady_rate(passing, steps, batch_size=4)
    assert next(passing) == LEAD + steps
    assert rate == pytest.approx(4 / slow, rel=0.3)


def test_a_pass_that_is_too_short_is_noticed():
    with pytest.raises(AssertionError, match="the pass ended after 2 of 3 batches"):
        steady_rate(iter(range(LEAD + 2)), 3, 1)


def test_the_report_is_a_table_and_one_json_line(capsys):
    samples = Samples({"ours": [30.0, 10.0, 20.0], "theirs": [10.0, 10.0, 10.0]})
    result = report(Console(), "peers", samples, "theirs", {"steps": 7})
    printed = capsys.readouterr().out
    assert json.loads(printed.strip().splitlines()[-1]) == result
    assert result["sides"]["ours"]["ratio"]["median"] == 2.0
    assert result["sides"]["ours"]["samples"] == [30.0, 10.0, 20.0]
    assert (result["base"], result["steps"]) == ("theirs", 7)


def test_the_environment_names_what_figures_depend_on():
    about = environment()
    assert about["num_cores"] >= 1
    assert about["packages"]["torch"]
    json.dumps(about)
