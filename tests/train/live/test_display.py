"""What a run prints: nothing that its method does not have."""

import pytest

from pipeline.options import DataOptions, unit
from tests.train.test_run_folder import EPOCH
from train.live.display import Display


@pytest.mark.parametrize(("spectra", "expected"), [({"R": 1.0}, ["P̂ R 1.00"]), ({}, [])])
def test_only_a_method_with_counterparts_shows_probabilities(spectra, expected, capsys):
    record = EPOCH | {"probability": spectra, "confidence": spectra, "num_bad_images": 0}
    display = Display()
    with display.training(epochs=1, steps=1):
        display.epoch(record)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("epoch   1")
    assert [f"P̂ {words}" for words in line.split("  P̂ ")[1:]] == expected


def test_batches_hold_pairs_only_with_counterparts():
    assert (unit(DataOptions()), unit(DataOptions(spectra=()))) == ("pairs", "images")
