"""Which steps of the real run are timed, and how many."""

import dataclasses

import pytest
import torch

from bench.end_to_end import GPU_STEPS, enough_steps, times
from bench.measure import LEAD, TAIL, spread
from bench.suite import make_session
from train.live.display import Display


def test_the_step_after_an_idle_gpu_is_not_counted():
    """Steps of 20, 20 and 30 ms follow one that started with an idle GPU."""
    ends = [1.0, 1.5, 1.52, 1.54, 1.57]
    waits = [(1.0, 1.48), (1.5, 1.507), (1.52, 1.52), (1.54, 1.54)]
    step_ms, wait = times(ends, waits)
    assert step_ms == pytest.approx([20, 20, 30])
    assert wait == pytest.approx(0.1)


def test_a_gpu_round_has_enough_steps_for_a_99th_percentile(people, capsys):
    quick = make_session("demo", people, torch.device("cpu"), Display(), quick=True)
    assert enough_steps(quick, 1000) is quick
    on_gpu = dataclasses.replace(quick, device=torch.device("cuda"), quick=False, steps=20)
    many = enough_steps(on_gpu, LEAD + GPU_STEPS + TAIL).steps
    assert many - 1 >= 60
    assert capsys.readouterr().out == ""
    one_slow = [1.0] * (many - 2) + [9.0]
    assert spread(one_slow)["p99"] == 1.0

    assert enough_steps(on_gpu, LEAD + 30 + TAIL).steps == 30
    assert "an epoch has 40 batches: 30 steps per round" in capsys.readouterr().out
    assert enough_steps(on_gpu, 5).steps == 20  # rejected later by the loader's side
