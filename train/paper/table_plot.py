"""The picture of an experiment: our figures and the paper's, in separate panels."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

COLORS = {"rank1": "#4c78a8", "mAP": "#f58518"}
INK, QUIET = "#1f2933", "#616e7c"


def draw(title: str, ours: str, theirs: str, rows: Sequence[Any]) -> bytes | None:
    """Draws rank-1 and mAP of each row (`tables.Row`) as PNG; returns None without matplotlib.

    If all labels are sets of spectra, adds the paper's Fig. 8: the mean over rows with the same
    number of spectra, against that number.
    """
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sides = [(f"ours: {ours}", [_ours(row) for row in rows])]
    if any(row.paper for row in rows):
        sides.append((f"the paper's: {theirs}", [_theirs(row) for row in rows]))
    counts = number_of_spectra([row.label for row in rows])
    with plt.rc_context({"font.size": 9, "text.color": INK, "axes.labelcolor": INK}):
        height = 1.2 + 0.42 * len(rows) + (2.8 if counts else 0)
        figure = plt.figure(figsize=(5.6 * len(sides), height), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        ratios = [0.42 * len(rows) + 0.6] + ([2.8] if counts else [])
        grid = figure.add_gridspec(len(ratios), len(sides), height_ratios=ratios)
        for i, (heading, figures) in enumerate(sides):
            _bars(figure.add_subplot(grid[0, i]), heading, [row.label for row in rows], figures)
            if counts:
                _against_number(figure.add_subplot(grid[1, i]), counts, figures)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper right", ncols=2, frameon=False)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
        plt.close(figure)
    return png.getvalue()


def number_of_spectra(labels: Sequence[str]) -> list[int] | None:
    """Returns the number of spectra in each label; None if not all labels are sets of spectra."""
    sets = [label.split() for label in labels]
    known = {"none", "gray", "R", "G", "B"}
    if not all(known.issuperset(names) for names in sets):
        return None
    return [len(set(names) - {"none"}) for names in sets]


def _ours(row: Any) -> dict[str, tuple[float, float]]:
    """Returns figure → (mean, deviation); NaN without values."""
    found = {}
    for name in COLORS:
        values = row.values(name)
        mean = float(np.mean(values)) if values else float("nan")
        found[name] = mean, float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return found


def _theirs(row: Any) -> dict[str, tuple[float, float]]:
    rank1, _, _, mean_ap = row.paper or (float("nan"),) * 4
    return {"rank1": (rank1, 0.0), "mAP": (mean_ap, 0.0)}


def _bars(
    axes: Any, heading: str, labels: Sequence[str], figures: list[dict[str, tuple[float, float]]]
) -> None:
    for j, (name, color) in enumerate(COLORS.items()):
        means = [of_row[name][0] for of_row in figures]
        errors = [of_row[name][1] for of_row in figures]
        positions = np.arange(len(labels)) + 0.4 * (j - 0.5)
        axes.barh(positions, means, height=0.36, color=color, label=name.replace("rank1", "rank-1"))
        axes.errorbar(means, positions, xerr=errors, fmt="none", ecolor=INK, elinewidth=1)
        for position, mean, error in zip(positions, means, errors, strict=True):
            if np.isfinite(mean):
                axes.text(mean + error, position, f"  {mean:.1f}", va="center", fontsize=8)
    top = np.nanmax([[sum(of_row[name]) for name in COLORS] for of_row in figures] + [[0.0, 0.0]])
    axes.set_xlim(0, 1.18 * top or 1)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("percent")
    _finish(axes, heading)


def _against_number(
    axes: Any, counts: Sequence[int], figures: list[dict[str, tuple[float, float]]]
) -> None:
    numbers = sorted(set(counts))
    for name, color in COLORS.items():
        means = [
            float(np.mean([f[name][0] for f, c in zip(figures, counts, strict=True) if c == n]))
            for n in numbers
        ]
        axes.plot(numbers, means, marker="o", color=color, label=name.replace("rank1", "rank-1"))
    axes.set_xticks(numbers)
    axes.set_xlabel("number of spectra")
    axes.set_ylabel("percent")
    _finish(axes, "Fig. 8: mean over sets of the same size")


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
