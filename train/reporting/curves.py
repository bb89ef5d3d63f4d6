"""The report's sections from `metrics.jsonl`: how the training went."""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from train.dhsm import DhsmOptions
from train.reporting.charts import DASHES, Line, lines
from train.reporting.drawing import SERIES, Chart
from train.reporting.page import Section

Record = dict[str, Any]

# Spectra with a colour of their own; other spectra use the rest of the palette in order.
SPECTRUM_COLOURS = {"R": "red", "G": "green", "B": "blue", "X": "gray"}
OTHERS = tuple(name for name in SERIES if name not in SPECTRUM_COLOURS.values())

MARGIN = 0.05  # above and below the curves of the spectra, which start out almost equal

# Names of the paper's losses; line styles of a method's losses, in order.
LABELS = {"loss": "total", "loss_cls": "L_cls", "loss_tri": "L_tri"}
STYLES = (("blue", "-"), ("orange", "--"), ("teal", "-."), ("purple", ":"), ("gray", "--"))


def losses(epochs: Sequence[Record]) -> Section:
    """Returns the total loss and its parts, and the learning rate if it changes."""
    names = [name for name in epochs[-1] if name == "loss" or name.startswith("loss_")]
    curves = [
        _line(epochs, name, LABELS.get(name, name.removeprefix("loss_")), *style)
        for name, style in zip(names, cycle(STYLES), strict=False)
    ]
    charts = [_chart("loss", "Loss", curves, "loss")]
    if len({record["lr"] for record in epochs}) > 1:
        rate = _line(epochs, "lr", "learning rate", "gray")
        charts.append(_chart("lr", "Learning rate", [rate], "learning rate", log=True))
    lead = "Means over the batches of an epoch. The total is the weighted sum of the others."
    if set(names) == set(LABELS):
        lead = (
            "Means over the batches of an epoch. The total (Eq. 4) is the classification loss "
            "L_cls (Eq. 2) plus the weighted triplet loss L_tri (Eq. 3)."
        )
    return Section("losses", "Losses", lead, tuple(charts))


def accuracy(evaluations: Sequence[Record]) -> Chart | None:
    """Returns rank-1 and mAP of the first mode; None if the run was tested only once."""
    if len(evaluations) < 2:
        return None
    curves = [
        _line(evaluations, "rank1", "rank-1", "blue"),
        _line(evaluations, "mAP", "mAP", "orange", dashes="--"),
    ]
    return _chart("accuracy", "Accuracy over epochs", curves, "percent", digits=1)


def spectra(epochs: Sequence[Record], dhsm: DhsmOptions) -> Section:
    """Returns P̂ and R of each spectrum."""
    title = "Spectra"
    names = list(epochs[-1]["probability"])
    if not names:
        return Section(
            "spectra",
            title,
            "This run made no counterparts of RGB images, so there were no spectra to choose from.",
        )
    colours = colours_of(names)
    charts = []
    for name, key, heading, label in (
        ("probability", "probability", "Probability P̂ of each spectrum", "P̂"),
        ("confidence", "confidence", "Confidence R in each spectrum", "R"),
    ):
        curves = [
            Line(
                spectrum,
                [record["epoch"] for record in epochs],
                [record[key][spectrum] for record in epochs],
                colours[spectrum],
                DASHES[i % len(DASHES)],
            )
            for i, spectrum in enumerate(names)
        ]
        values = [value for curve in curves for value in curve.y]
        y_range = (max(0.0, min(values) - MARGIN), max(values) + MARGIN)
        charts.append(_chart(name, heading, curves, label, y_range=y_range))
    final = epochs[-1]["probability"]
    likeliest = max(final, key=final.get)
    drawn = {"hard": "Hard spectra, those with low R", "easy": "Easy spectra, those with high R"}
    mining = (
        f"{drawn[dhsm.prefer]}, are drawn more often (DHSM, α = {dhsm.alpha:g})"
        if dhsm.enabled
        else "DHSM was off: all spectra stayed as likely as at the start"
    )
    lead = (
        f"P̂ is the distribution from which an epoch drew the spectra of its counterparts, R the "
        f"mean probability that the network assigned to the true identity (Eq. 5-7). {mining}. "
    )
    if dhsm.enabled:
        lead += (
            f"In epoch {epochs[-1]['epoch']}, {likeliest} was most likely, {final[likeliest]:.2f}."
        )
    return Section("spectra", title, lead, tuple(charts))


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Returns a palette colour for each spectrum."""
    others = [name for name in names if name not in SPECTRUM_COLOURS]
    return SPECTRUM_COLOURS | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}


def speed(epochs: Sequence[Record]) -> Section:
    """Returns images/s, the share of time spent waiting for data, and seconds per epoch."""
    charts = (
        _chart(
            "throughput",
            "Throughput",
            [_line(epochs, "images_per_second", "throughput", "blue")],
            "images/s",
            digits=0,
        ),
        _chart(
            "data-wait",
            "Waiting for data",
            [_line(epochs, "data_wait", "data wait", "orange", scale=100.0)],
            "share of the time, %",
            digits=1,
        ),
        _chart(
            "seconds",
            "Time per epoch",
            [_line(epochs, "seconds", "time", "teal")],
            "seconds",
            digits=1,
        ),
    )
    total = sum(record["seconds"] for record in epochs)
    bad = epochs[-1]["num_bad_images"]
    lead = (
        f"{len(epochs)} epoch{'s' if len(epochs) > 1 else ''} took {duration(total)}; throughput "
        "counts originals and counterparts."
        + (f" {bad} images could not be read and were replaced: bad_images.tsv." if bad else "")
    )
    return Section("speed", "Speed", lead, charts)


def duration(seconds: float) -> str:
    """Formats a duration for people."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 2:
        return f"{hours:.1f} h"
    return f"{minutes:.1f} min" if minutes >= 2 else f"{seconds:.0f} s"


def _line(
    records: Sequence[Record],
    key: str,
    name: str,
    colour: str,
    dashes: str = "-",
    scale: float = 1.0,
) -> Line:
    x, y = [r["epoch"] for r in records], [scale * r[key] for r in records]
    return Line(name, x, y, colour, dashes)


def _chart(
    name: str,
    title: str,
    curves: Sequence[Line],
    y_label: str,
    log: bool = False,
    digits: int = 3,
    y_range: tuple[float | None, float | None] = (0.0, None),
) -> Chart:
    def number(value: float) -> str:
        return f"{value:.0e}" if log else f"{value:.{digits}f}"

    alt = f"{title}: " + "; ".join(_course(curve, number) for curve in curves)
    return Chart(name, title, lines(curves, "epoch", y_label, y_range, log), alt)


def _course(line: Line, number: Callable[[float], str]) -> str:
    """Describes a curve's start, end and range."""
    first, last = line.x[0], line.x[-1]
    if first == last:
        return f"{line.name} {number(line.y[0])} in epoch {first}"
    return (
        f"{line.name} from {number(line.y[0])} in epoch {first} to {number(line.y[-1])} in epoch "
        f"{last}, lowest {number(min(line.y))}, highest {number(max(line.y))}"
    )
