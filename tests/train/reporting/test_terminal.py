"""Output on terminals with limited encodings, and of undecodable file names."""

import io
import sys

import numpy as np
import pytest

from tests.front_door import SMALL, call
from train.live.display import Display
from train.live.terminal import HANDLER, spelled

ENCODINGS = ("ascii", "latin-1", "gbk", "utf-8")
FIGURES = dict.fromkeys(("rank1", "rank5", "rank10", "rank20", "mAP", "mINP"), 50.0)
RESULT = {
    **FIGURES,
    "protocol": "people [/red] P̂",
    "distance": "cosine",
    "chance_rank1": 2.0,
    "num_trials": 2,
    "std": FIGURES,
    "num_query": 7,
    "num_gallery": 9,
}


def terminal(monkeypatch, encoding: str) -> dict[str, io.TextIOWrapper]:
    """Streams with strict encoding errors, like Python's."""
    streams = {
        name: io.TextIOWrapper(io.BytesIO(), encoding, write_through=True)
        for name in ("stdout", "stderr")
    }
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    return streams


def shown(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_training_works_with_any_terminal_encoding(people, tmp_path, monkeypatch, encoding):
    streams = terminal(monkeypatch, encoding)
    args = ("--data.root", people, "--run-dir", tmp_path / "r", *SMALL, "--epochs", "1")
    if encoding in ("ascii", "gbk"):  # these train a run; the others show less
        assert call("train", "demo", *args) == 0
        assert "P^ R 0.25" in shown(streams["stdout"])
        assert call("train", "demo", *args) == 2
        assert "holds a run" in shown(streams["stderr"])
    assert call("--help") == 0
    assert call("experiment") == 2
    assert call("train", "demo", "--nope") == 2
    assert call("eval", tmp_path / "…/P̂ \udcff") == 2
    expected = "…" if encoding in ("gbk", "utf-8") else "..."
    assert f"PRESET [--option {expected}]" in shown(streams["stdout"])
    assert f"/{expected}/{spelled('P̂', encoding)} \\xff: is not a run folder" in shown(
        streams["stderr"]
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_stay_aligned(monkeypatch, encoding):
    stream = terminal(monkeypatch, encoding)["stdout"]
    stream.reconfigure(errors=HANDLER)
    Display().result(RESULT)
    printed = shown(stream)
    spelling = "+/- 50.0" if encoding == "ascii" else "± 50.0"
    assert printed.count(spelling) == 6
    assert "[/red]" in printed  # part of a CSV file's name, not markup
    if encoding == "ascii":
        rows = [line for line in printed.splitlines() if line.startswith("|") and "-+-" not in line]
        assert len({tuple(np.flatnonzero([c == "|" for c in row])) for row in rows}) == 1


def test_a_deviation_of_zero_is_explained(capsys):
    equal = RESULT | {"std": dict.fromkeys(FIGURES, 7e-15), "protocol": "multi-shot"}
    varies = RESULT | {"std": FIGURES | {"rank1": 0.0}}
    for result, explained in (
        (RESULT | {"modes": [varies, equal]}, True),
        (RESULT | {"modes": [varies, varies]}, False),
        (equal | {"num_trials": 1}, False),
    ):
        Display().result(result)
        assert ("all its trials came out the same" in capsys.readouterr().out) == explained


def test_names_in_brackets_are_shown_unchanged(capsys):
    Display().say("run       runs/[/x] [red]a[/red]")
    assert capsys.readouterr().out == "run       runs/[/x] [red]a[/red]\n"


def test_every_spelling_is_ascii():
    text = "P̂ … ± × → – ─ │ ╭ ✓ α δ λ é 行 \udcff"
    assert spelled(text, "ascii") == r"P^ ... +/- x -> - - | + v alpha delta lambda e ? \xff"
    assert spelled(text, "utf-8") == text.replace("\udcff", r"\xff")
