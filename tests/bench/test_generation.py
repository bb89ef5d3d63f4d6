"""The cost of a second spectrum, from passes of known speed."""

from types import SimpleNamespace

import pytest
import torch

from bench import generation
from bench.generation import LEARNING, MADE, RATIO, STEP, WITH, WITHOUT
from bench.measure import Pass, Samples


def say(with_us: list[float]) -> tuple[dict[str, list[float]], str]:
    """Ratios and text if originals alone take 100 µs each, a translator's 300, a step 1000."""
    told: list[str] = []
    session = SimpleNamespace(
        device=torch.device("cpu"), ratios={}, display=SimpleNamespace(say=told.append)
    )
    constant = {WITHOUT: 100.0, MADE: 300.0, LEARNING: 600.0, STEP: 1000.0}
    passes = {name: [Pass(1e6 / us, us)] * len(with_us) for name, us in constant.items()}
    passes[WITH] = [Pass(1e6 / us, us) for us in with_us]
    generation._say(session, Samples(passes))
    return session.ratios, told[0]


def test_a_translators_image_is_compared_with_a_counterpart():
    ratios, text = say([110.0, 130.0, 160.0])
    assert ratios == {RATIO: [pytest.approx(x) for x in (30, 10, 5)]}
    assert "a counterpart 30 (3.0 %); a translator's image 300 (30.0 %), 10 times" in text


@pytest.mark.parametrize("lost", [90.0, 100.0])
def test_a_counterpart_lost_in_noise_gives_no_ratio(lost):
    ratios, text = say([110.0, lost, 120.0])
    assert ratios == {}
    assert "times as much" not in text
