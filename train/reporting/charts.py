"""The kinds of chart: pure functions from numbers to a matplotlib figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from train.reporting.drawing import LIGHT, SERIES, axes_of

DASHES = ("-", "--", "-.", ":")
MANY_POINTS = 30  # without a mark at each
KIND_MARKS = ("o", "s", "^")


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve; `colour` is a name of the palette."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashes: str = "-"


def lines(
    curves: Sequence[Line],
    x_label: str,
    y_label: str,
    y_range: tuple[float | None, float | None] = (0, None),
    log: bool = False,
) -> Figure:
    """Curves over whole numbers: epochs or ranks."""
    with axes_of() as axes:
        for curve in curves:
            axes.plot(
                curve.x,
                curve.y,
                curve.dashes,
                color=LIGHT[curve.colour],
                marker="o" if len(curve.x) < MANY_POINTS else "",
                label=curve.name,
            )
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(*y_range)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(curves) > 1:
            longest = max(len(curve.name) for curve in curves)
            _legend(axes, columns=4 if longest < 10 else 2)
        return axes.figure


def histograms(
    groups: Mapping[str, tuple[Int64[ndarray, " bins"], str]],
    edges: Float[ndarray, " edges"],
    x_label: str,
) -> Figure:
    """Each group's (counts, colour) in bins, drawn as shares of the group."""
    with axes_of() as axes:
        for (name, (counts, colour)), dashes in zip(groups.items(), DASHES, strict=False):
            share = 100 * counts / counts.sum()
            axes.stairs(share, edges, fill=True, color=LIGHT[colour], alpha=0.22)
            axes.stairs(
                share, edges, color=LIGHT[colour], linestyle=dashes, linewidth=1.5, label=name
            )
        axes.set(xlabel=x_label, ylabel="share of the pairs, %")
        axes.set_ylim(0, None)
        _legend(axes, columns=2)
        return axes.figure


def scatter(
    xy: Float[ndarray, "n 2"],
    pids: Int64[ndarray, " n"],
    kinds: Int64[ndarray, " n"],
    kind_names: Sequence[str],
) -> Figure:
    """Points of a plane: a colour a person, a mark a kind."""
    with axes_of(height_in=4.8) as axes:
        people = np.unique(pids)
        colours = [LIGHT[SERIES[i % len(SERIES)]] for i in range(len(people))]
        for pid, colour in zip(people, colours, strict=True):
            for kind, mark in enumerate(KIND_MARKS):
                chosen = (pids == pid) & (kinds == kind)
                hollow = "none" if kind == 2 else colour
                axes.scatter(*xy[chosen].T, s=20, marker=mark, facecolors=hollow, edgecolors=colour)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        axes.spines[["left", "bottom"]].set_color(LIGHT["line"])
        axes.set_aspect("equal", "datalim")
        marks = [
            Line2D([], [], ls="", marker=mark, mec=LIGHT["ink"], label=name, mfc=face)
            for mark, name, face in zip(
                KIND_MARKS, kind_names, (LIGHT["ink"], LIGHT["ink"], "none"), strict=True
            )
        ]
        axes.figure.legend(handles=marks, loc="outside upper left", ncols=3, handletextpad=0)
        patches = [
            Line2D([], [], ls="", marker="o", color=colour, label=f"pid {pid}")
            for pid, colour in zip(people, colours, strict=True)
        ]
        axes.figure.legend(
            handles=patches,
            loc="outside lower left",
            ncols=5,
            handletextpad=0,
            columnspacing=0.6,
            fontsize=9,
        )
        return axes.figure


def _legend(axes: Any, columns: int) -> None:
    """Above the axes, where it hides nothing."""
    axes.figure.legend(
        loc="outside upper left",
        ncols=columns,
        handlelength=1.6,
        columnspacing=1.2,
        borderpad=0,
    )
