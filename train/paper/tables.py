"""An experiment's tables: our figures and the paper's in separate columns; CSV, Markdown, PNG."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD as HEADS
from rich.table import Table
from scipy import stats

from train import metrics, run_folder
from train.live.display import Display
from train.paper import table_plot
from train.paper.rows import FIGURES, Figures

POWER, MAX_SEEDS = 0.8, 1000
ROUNDING = 1e-9  # percent; differences this close to each other are equal
SHORT = {"rank1": "R1", "rank10": "R10", "rank20": "R20", "mAP": "mAP"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an experiment: its runs' results (None: no figures) and the paper's figures."""

    label: str
    paper: Figures | None
    outcomes: list[dict[str, Any] | None]
    first_stage: str | None = None  # the row whose run is its first stage
    num_untrained: int = 0  # runs that could not be trained; the others without figures diverged
    search: str = ""  # of both figures, if the table has rows of several

    @property
    def num_diverged(self) -> int:
        """How many runs became NaN, infinite or one point."""
        return sum(outcome is None for outcome in self.outcomes) - self.num_untrained

    def values(self, figure: str) -> list[float]:
        """Returns the figure's values over the runs that converged."""
        return [outcome[figure] for outcome in self.outcomes if outcome]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation (n - 1); NaN if there are too few values."""
    mean = float(np.mean(values)) if values else float("nan")
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def paired_difference(row: Row, other: Row, figure: str) -> tuple[float, float, float, float]:
    """Returns (mean, low, high, p) of `row` - `other`, paired by seed; all NaN below two seeds.

    The 95 % interval and p come from Student's t.
    """
    found = _differences(row, other, figure)
    if len(found) < 2:
        return (float("nan"),) * 4
    mean, error = found.mean(), _deviation(found) / np.sqrt(len(found))
    if error == 0:
        return float(mean), float(mean), float(mean), float("nan")
    reach = stats.t.ppf(0.975, len(found) - 1) * error
    p = 2 * stats.t.sf(abs(mean / error), len(found) - 1)
    return float(mean), float(mean - reach), float(mean + reach), float(p)


def seeds_needed(row: Row, other: Row, figure: str) -> int | None:
    """Returns how many seeds a true difference of one point needs to be found, 4 times in 5.

    That is a power of 0.8 at p < 0.05, two-sided, for Student's paired t with the deviation of the
    differences seen here. None below two seeds, without any deviation, or above `MAX_SEEDS`.
    """
    found = _differences(row, other, figure)
    deviation = _deviation(found) if len(found) > 1 else 0.0
    if deviation == 0:
        return None
    for n in range(2, MAX_SEEDS + 1):
        limit = stats.t.ppf(0.975, n - 1)
        if stats.nct.sf(limit, n - 1, np.sqrt(n) / deviation) >= POWER:
            return n
    return None


def _differences(row: Row, other: Row, figure: str) -> np.ndarray:
    pairs = zip(row.outcomes, other.outcomes, strict=True)
    return np.array([a[figure] - b[figure] for a, b in pairs if a and b])


def _deviation(found: np.ndarray) -> float:
    """Returns the sample standard deviation; 0 if only rounding separates the values."""
    return 0.0 if np.ptp(found) < ROUNDING else float(found.std(ddof=1))


def write(
    stem: Path, title: str, ours: str, theirs: str, rows: list[Row], display: Display
) -> None:
    """Shows the table and writes `stem`.md, .csv (one line per row), -runs.csv (per run) and .png.

    `ours` names the data set of the runs, `theirs` that of the paper's figures.
    """
    display.console.print(_shown(title, ours, theirs, rows))
    files = {
        ".md": _markdown(title, ours, theirs, rows).encode(),
        ".csv": _csv(_summary_lines(ours, theirs, rows)).encode(),
        "-runs.csv": _csv(_run_lines(ours, rows)).encode(),
    }
    picture = table_plot.draw(title, ours, theirs, rows)
    if picture is None:
        display.say("no picture: needs matplotlib; uv sync --group report")
    else:
        files[".png"] = picture
    for ending, content in files.items():
        file = stem.with_name(stem.name + ending)
        run_folder.write(file, content)
        display.say(str(file))


def _cells(row: Row, between: str = " ") -> list[str]:
    """Returns our figures, then the paper's, as text; `between` separates mean and deviation."""
    cells = []
    for figure in FIGURES:
        mean, std = mean_std(row.values(figure))
        spread = "" if np.isnan(std) else f"{between}± {std:.1f}"
        cells.append("–" if np.isnan(mean) else f"{mean:.1f}{spread}")
    if row.num_diverged:
        cells[0] += f"{between}({row.num_diverged} diverged)"
    return cells + ([f"{x:.1f}" for x in row.paper] if row.paper else ["–"] * len(FIGURES))


def _shown(title: str, ours: str, theirs: str, rows: list[Row]) -> Table:
    seeds = len(rows[0].outcomes)
    over = f"mean ± std of {seeds} seeds" if seeds > 1 else "one seed"
    chance = mean_std([x for row in rows for x in row.values("chance_rank1")])[0]
    caption = (
        f"left: {ours}, {over}, percent, chance R1 {chance:.1f}; right: published for {theirs}"
    )
    table = Table(title=title, caption=caption, box=HEADS, padding=0, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in SHORT.values():
        table.add_column(name, justify="right", no_wrap=True)
    for name in SHORT.values():
        table.add_column(f"paper\n{name}", justify="right", style="dim", no_wrap=True)
    for row in rows:
        table.add_row(row.label, *_cells(row, "\n"))
    return table


def _markdown(title: str, ours: str, theirs: str, rows: list[Row]) -> str:
    seeds = len(rows[0].outcomes)
    heads = ["", *SHORT.values(), *(f"paper {name}" for name in SHORT.values()), "seconds"]
    lines = [
        f"# {title}",
        "",
        f"Percent. First four columns: {ours}, mean ± standard deviation of {seeds} seed(s). Next "
        f"four: published by its paper for {theirs}; comparable only if the data are the same. "
        f"Seconds: training, mean of the runs.{_of_first_stages(rows)}",
        "",
        f"| {' | '.join(heads)} |",
        f"|---{'|---:' * (len(heads) - 1)}|",
        *(f"| {' | '.join([row.label, *_cells(row), _seconds(row)])} |" for row in rows),
    ]
    for of_search in _by_search(rows) if seeds > 1 else []:
        first, *others = of_search
        if not others:
            continue
        lines += [
            "",
            f"Difference from {first.label}, by seed: mean [95 % interval], p (Student's t); n: "
            "seeds that a true difference of one point needs to be found, 4 times in 5.",
            "",
            f"| | {' | '.join(SHORT.values())} |",
            f"|---{'|---:' * len(SHORT)}|",
        ]
        for row in others:
            found = [
                (*paired_difference(row, first, figure), seeds_needed(row, first, figure))
                for figure in FIGURES
            ]
            cells = [_difference_cell(*of_figure) for of_figure in found]
            lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _by_search(rows: list[Row]) -> list[list[Row]]:
    """Returns the rows of each search: figures of different searches cannot be subtracted."""
    searches = dict.fromkeys(row.search for row in rows)
    return [[row for row in rows if row.search == search] for search in searches]


def _difference_cell(mean: float, low: float, high: float, p: float, n: int | None) -> str:
    if np.isnan(mean):
        return "–"
    if np.isnan(p):  # the same difference on every seed says nothing of its spread
        return f"{mean:+.2f}, no deviation"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], {p:.2g}, n {n or f'> {MAX_SEEDS}'}"


def _seconds(row: Row) -> str:
    mean = mean_std(row.values("seconds"))[0]
    return "–" if np.isnan(mean) else f"{mean:.0f}"


def _of_first_stages(rows: list[Row]) -> str:
    """Says which rows' seconds include those of another row, whose run they continued."""
    told = ((row.label, row.first_stage) for row in rows if row.first_stage)
    return "".join(f" Those of {label} include its first stage, {first}." for label, first in told)


def _summary_lines(ours: str, theirs: str, rows: list[Row]) -> list[dict[str, Any]]:
    lines = []
    for row in rows:
        line: dict[str, Any] = {"row": row.label, "data": ours}
        line["runs"] = len(row.outcomes) - row.num_untrained
        line["diverged"] = row.num_diverged
        for figure in FIGURES:
            mean, std = mean_std(row.values(figure))
            line |= {figure: round(mean, 4), f"{figure}_std": round(std, 4)}
        line["seconds"] = round(mean_std(row.values("seconds"))[0], 1)
        line["first_stage"] = row.first_stage or ""  # whose seconds are included
        line["paper_data"] = (row.search or theirs) if row.paper else ""
        paper = row.paper or ("",) * len(FIGURES)
        line |= {f"paper_{name}": x for name, x in zip(FIGURES, paper, strict=True)}
        lines.append(line)
    return lines


def _run_lines(ours: str, rows: list[Row]) -> list[dict[str, Any]]:
    """Returns one line per run."""
    return [
        {
            "row": row.label,
            "data": ours,
            "seed": outcome["seed"],
            "seconds": round(outcome["seconds"], 1),
            "mode": outcome["protocol"],
            **{name: round(outcome[name], 4) for name in (*metrics.FIGURES, "chance_rank1")},
        }
        for row in rows
        for outcome in row.outcomes
        if outcome
    ]


def _csv(lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()
