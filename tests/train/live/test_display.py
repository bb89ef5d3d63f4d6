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


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({"cls": 5.0, "ranking": 1.5, "intra": 0.25}, "cls 5.000 ranking 1.500 intra 0.250"),
        ({"cls": 5.0, "tri": 0.3}, "data wait 10.0 %"),
    ],
)
def test_losses_of_the_methods_own_are_shown_beside_the_total(losses, expected, capsys):
    record = {name: value for name, value in EPOCH.items() if not name.startswith("loss_")}
    record |= {"loss": 6.775, "data_wait": 0.1, "probability": {}, "num_bad_images": 0}
    display = Display()
    with display.training(epochs=1, steps=1):
        display.epoch(record | {f"loss_{name}": value for name, value in losses.items()})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("epoch   1  loss 6.775  ")
    assert line.split("  ")[-1] == expected


def test_batches_hold_pairs_only_with_counterparts():
    assert (unit(DataOptions()), unit(DataOptions(spectra=()))) == ("pairs", "images")


def test_a_terminal_without_columns_shows_lines(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    Display().say("a line")
    assert capsys.readouterr().out == "a line\n"
