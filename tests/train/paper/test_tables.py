"""An experiment's tables: means and intervals by hand, our and the paper's figures apart."""

import csv
import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from train.live.display import Display
from train.metrics import FIGURES
from train.paper import table_plot
from train.paper.tables import Row, mean_std, paired_difference, seeds_needed, write


def outcome(seed: int, rank1: float) -> dict:
    mode = dict.fromkeys(FIGURES, 2 * rank1) | {"rank1": rank1, "chance_rank1": 1.0}
    mode["protocol"] = "sysu all-search"
    return mode | {"seed": seed, "seconds": 1.5}


def row(label: str, *rank1: float | None, paper=(1.1, 2.2, 3.3, 4.4)) -> Row:
    found = [None if x is None else outcome(seed, float(x)) for seed, x in enumerate(rank1)]
    return Row(label, paper, found)


def test_mean_and_deviation_of_a_sample():
    assert mean_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)))
    assert mean_std([2.0])[0] == 2.0
    assert math.isnan(mean_std([2.0])[1])
    assert math.isnan(mean_std([])[0])


def test_paired_difference_equals_scipys_paired_t_test():
    a, b = [5.0, 4.0, 7.0, 6.5], [4.0, 3.9, 5.0, 7.0]
    mean, low, high, p = paired_difference(row("a", *a), row("b", *b), "rank1")
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert (mean, p) == (pytest.approx(0.65), pytest.approx(expected.pvalue))
    assert (low, high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize("deviation", [0.3, 0.7, 1.0, 2.0])
def test_so_many_seeds_find_a_point_four_times_in_five(deviation):
    rng = np.random.default_rng(0)
    seen = rng.normal(size=8)
    seen *= deviation / seen.std(ddof=1)
    needed = seeds_needed(row("a", *seen), row("b", *[0.0] * 8), "rank1")
    assert needed

    def power(n: int) -> float:
        found = stats.ttest_1samp(rng.normal(1, deviation, (20_000, n)), 0, axis=1)
        return float((found.pvalue < 0.05).mean())

    assert power(needed) > 0.79
    assert needed == 2 or power(needed - 1) < 0.81


def test_figures_without_a_deviation_say_nothing_of_the_seeds_needed(tmp_path, capsys):
    full, same = row("a", 100, 100), row("b", 100, 100)
    assert seeds_needed(full, same, "rank1") is None
    write(tmp_path / "t", "A table", "our people", "SYSU-MM01", [full, same], Display())
    assert "| b | +0.00, no deviation |" in (tmp_path / "t.md").read_text()
    write(tmp_path / "t", "A table", "our people", "SYSU-MM01", [full], Display())
    assert "Difference" not in (tmp_path / "t.md").read_text()


@pytest.mark.parametrize("hits", [((13, 14), (12, 13)), ((7, 14, 33), (5, 12, 31))])
def test_differences_that_only_rounding_separates_have_no_deviation(hits):
    """100 x 0.14 - 100 x 0.13 is not quite 1, which made p = 6e-16 of two equal differences."""
    a, b = (row("", *(100 * (n / 100) for n in of_row)) for of_row in hits)
    mean, low, high, p = paired_difference(a, b, "rank1")
    assert low == mean == high == pytest.approx(hits[0][0] - hits[1][0])
    assert math.isnan(p)
    assert seeds_needed(a, b, "rank1") is None


def test_only_seeds_finished_by_both_are_paired():
    found = paired_difference(row("a", 5, None, 7, 4), row("b", 4, 1, None, 2), "rank1")
    assert found[0] == pytest.approx(1.5)
    assert all(map(math.isnan, paired_difference(row("a", 5), row("b", 4), "rank1")))


def test_rows_of_different_searches_are_not_subtracted(tmp_path, capsys):
    searches = ("RegDB, visible to thermal", "RegDB, thermal to visible")
    made = [
        dataclasses.replace(row(f"{label} {i}", *x), search=search)
        for i, search in enumerate(searches)
        for label, x in (("a", (1 + 10 * i, 4 + 20 * i)), ("b", (2 + 10 * i, 6 + 20 * i)))
    ]
    write(tmp_path / "t", "A table", "ours", "RegDB", made, Display())
    differences = (tmp_path / "t.md").read_text().split("Difference from ")[1:]
    assert [part.partition(",")[0] for part in differences] == ["a 0", "a 1"]
    for i, part in enumerate(differences):
        (line,) = [line for line in part.splitlines() if line.startswith(("| a", "| b"))]
        assert line.startswith(f"| b {i} | +1.50 [")
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [line["paper_data"] for line in lines] == [s for s in searches for _ in "ab"]


def test_files_keep_our_figures_and_the_papers_apart(tmp_path, capsys):
    rows = [row("none", 1, 3), row("gray", 5, None), row("gray R", None, None, paper=None)]
    write(tmp_path / "t", "A table", "our people", "SYSU-MM01", rows, Display())
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [line["row"] for line in lines] == ["none", "gray", "gray R"]
    assert [float(line["rank1"]) for line in lines[:2]] == [2, 5]
    assert [line["diverged"] for line in lines] == ["0", "1", "2"]
    assert {line["data"] for line in lines} == {"our people"}
    assert [line["paper_rank1"] for line in lines] == ["1.1", "1.1", ""]
    assert [line["paper_data"] for line in lines] == ["SYSU-MM01", "SYSU-MM01", ""]
    runs = list(csv.DictReader((tmp_path / "t-runs.csv").open()))
    assert [(line["row"], line["seed"], line["rank1"]) for line in runs] == [
        ("none", "0", "1.0"),
        ("none", "1", "3.0"),
        ("gray", "0", "5.0"),
    ]
    text = (tmp_path / "t.md").read_text()
    assert (
        "| none | 2.0 ± 1.4 | 4.0 ± 2.8 | 4.0 ± 2.8 | 4.0 ± 2.8 | 1.1 | 2.2 | 3.3 | 4.4 |" in text
    )
    assert "| gray | 5.0 (1 diverged)" in text
    assert "| gray R | – (2 diverged) | – | – | – | – |" in text
    assert "| gray R | – | – | – | – |" in text  # the differences
    assert "nan" not in text
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "our people" in printed
    assert "SYSU-MM01" in printed


def test_labels_give_the_number_of_spectra():
    assert table_plot.number_of_spectra(["none", "gray", "gray R G B"]) == [0, 1, 4]
    assert table_plot.number_of_spectra(["CDP", "none"]) is None


def test_seconds_include_those_of_a_first_stage_and_the_table_says_so(tmp_path, capsys):
    rows = [row("TONE", 1, 2), Row("HCML", None, [outcome(0, 1.0), None], "TONE")]
    rows[1].outcomes[0]["seconds"] = 20.0
    write(tmp_path / "t", "A table", "our people", "SYSU-MM01", rows, Display())
    text = (tmp_path / "t.md").read_text()
    assert (
        "Seconds: training, mean of the runs. Those of HCML include its first stage, TONE." in text
    )
    assert [line.split("|")[-2].strip() for line in text.splitlines() if line.startswith("| ")][
        :3
    ] == ["seconds", "2", "20"]
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [(line["seconds"], line["first_stage"]) for line in lines] == [
        ("1.5", ""),
        ("20.0", "TONE"),
    ]
