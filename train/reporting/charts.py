"""The charts: pure functions from numbers to a matplotlib figure."""

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
MANY_POINTS = 30  # from here on, draw no markers
MAX_TICKS = 8
COLUMNS = {4: 6, 3: 10, 2: 22, 1: 10**6}  # legend columns → maximum letters of a name
KIND_MARKS = ("o", "s", "^")


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve; `colour` is a name in the palette."""

    name: str
    x: Sequence[int]
    y: Sequence[float]
    colour: str
    dashes: str = "-"


def lines(
    curves: Sequence[Line],
    x_label: str,
    y_label: str,
    y_range: tuple[float | None, float | None] = (0.0, None),
    log: bool = False,
    x_ticks: Sequence[int] = (),
) -> Figure:
    """Draws curves over integers: epochs or ranks."""
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
        if x_ticks or len(curves[0].x) <= MAX_TICKS:
            axes.set_xticks(x_ticks or curves[0].x)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(MAX_TICKS, integer=True, min_n_ticks=1))
        if len(curves) > 1:
            longest = max(len(curve.name) for curve in curves)
            _legend(axes, next(n for n, most in COLUMNS.items() if longest <= most))
        return axes.figure


def histograms(
    groups: Mapping[str, tuple[Int64[ndarray, " bins"], str]],
    edges: Float[ndarray, " edges"],
    x_label: str,
) -> Figure:
    """Draws each group's binned (counts, colour) as shares of the group."""
    with axes_of() as axes:
        for (name, (counts, colour)), dashes in zip(groups.items(), DASHES, strict=False):
            share = 100 * counts / counts.sum()
            axes.stairs(share, edges, fill=True, color=LIGHT[colour], alpha=0.22)
            axes.stairs(
                share, edges, color=LIGHT[colour], linestyle=dashes, linewidth=1.5, label=name
            )
        axes.set(xlabel=x_label, ylabel="share of the pairs, %")
        axes.set_ylim(0, None)
        _legend(axes, 2)
        return axes.figure


def scatter(
    xy: Float[ndarray, "n 2"],
    pids: Int64[ndarray, " n"],
    kinds: Int64[ndarray, " n"],
    kind_names: Sequence[str],
) -> Figure:
    """Draws points in the plane, coloured by person, with a marker per kind."""
    with axes_of(height_in=4.5) as axes:
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
        of_people = [
            Line2D([], [], ls="", marker="o", color=colour, label=f"pid {pid}")
            for pid, colour in zip(people, colours, strict=True)
        ]
        _legend(axes, 3, handles=marks, handlelength=1, handletextpad=0.3)
        of_kinds = axes.add_artist(axes.get_legend())  # a second legend would replace it
        of_kinds.set_clip_on(False)  # otherwise the layout leaves no room for it
        below = {"loc": "upper left", "bbox_to_anchor": (0, -0.01)}
        _legend(axes, 5, handles=of_people, handlelength=1, handletextpad=0.3, fontsize=9, **below)
        return axes.figure


def _legend(axes: Any, columns: int, **overrides: Any) -> None:
    """Draws a legend, by default above the axes, where it hides nothing."""
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1.01), "borderaxespad": 0, "borderpad": 0}
    axes.legend(**above | {"ncols": columns, "handlelength": 1.8, "columnspacing": 1} | overrides)
