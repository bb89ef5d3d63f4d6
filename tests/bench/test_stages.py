"""The decoder sweep of `cdp bench decoder`, which needs a GPU, on the CPU's decoder."""

import pytest
import torch

from bench import stages, suite
from bench.session import Session
from model.options import ModelOptions
from pipeline.options import DataOptions
from train.config import Config
from train.live.display import Display
from train.methods.base import Method
from train.presets import PRESETS, Preset


@pytest.fixture
def session(people, monkeypatch) -> Session:
    tiny = Config(
        data=DataOptions(height_px=32, width_px=16, p=2, k=2, threads=2),
        method=Method(model=ModelOptions(backbone="test_resnet", weights="none")),
    )
    monkeypatch.setitem(PRESETS, "tiny", Preset("", tiny))
    monkeypatch.setattr(suite, "QUICK_ROUNDS", 1)
    return suite.make_session("tiny", people, torch.device("cpu"), Display(), quick=True)


def test_decoders_are_compared_with_dalis_default(session):
    stages._compare_decoders(session, steps=2)
    (record,) = session.comparisons
    assert record["base"] == "hw 0.65"
    assert list(record["sides"]) == [f"hw {load}" for load in (0.0, 0.3, 0.65, 0.9)]
    assert record["left_out"] == {}


def test_a_rejected_decoder_is_left_out_with_a_remark(session, monkeypatch, capsys):
    monkeypatch.setattr(stages, "HARDWARE_LOADS", (1.5, 0.3))
    stages._compare_decoders(session, steps=2)
    (record,) = session.comparisons
    assert list(record["sides"]) == ["hw 0.3"]
    assert record["base"] == "hw 0.3"
    assert list(record["left_out"]) == ["hw 1.5"]
    assert "1.5: must be in 0…1" in record["left_out"]["hw 1.5"]
    assert "hw 1.5 left out" in capsys.readouterr().out

    monkeypatch.setattr(stages, "HARDWARE_LOADS", (1.5,))
    stages._compare_decoders(session, steps=2)
    assert len(session.comparisons) == 1  # nothing left to compare
