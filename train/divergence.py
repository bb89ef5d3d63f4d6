"""What ends a run that has nothing left to learn: a loss that is not finite, or collapsed features.

Batch-hard triplet loss can drive all features into one point (Hermans et al., "In Defense of the
Triplet Loss for Person Re-Identification", 2017, section 3.3). Every distance is then 0, the
triplet loss its margin, the cross-entropy ln M; nothing is NaN, and retrieval is at chance.
"""

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from train.checkpoint import Progress

COLLAPSED = "collapsed.json"  # in the folder of a run that was stopped
SPREAD = "spread"  # a step's last figure, after its losses
SMALL = 0.05  # of the first step's spread
CLOSE = 0.05  # relative to a loss's value when all features are one point
MENDS = "--optimizer.warmup-epochs 1, --loss.triplet-kind soft-margin or a lower --optimizer.lr"


class DivergedError(ArithmeticError):
    """The run cannot become anything; the message says what happened and what may help."""


class NotFiniteError(DivergedError):
    """The loss is NaN or infinite; the message names the step, from 1, which is also in `step`."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class CollapsedError(DivergedError):
    """All features are one point, and were throughout the last epoch."""


def check_finite(
    losses: Float32[Tensor, "steps names"], names: tuple[str, ...], epoch: int, precision: str
) -> None:
    """Raises `NotFiniteError` naming the epoch's first step whose loss is NaN or infinite."""
    bad = (~losses.isfinite()).any(dim=1).nonzero()
    if len(bad):
        step = int(bad[0])
        values = ", ".join(f"{n} {x}" for n, x in zip(names, losses[step].tolist(), strict=True))
        mend = "a lower --optimizer.lr" + ("" if precision == "off" else " or --precision off")
        raise NotFiniteError(
            f"loss is {losses[step, 0].item()} at epoch {epoch}, step {step + 1} ({values}); "
            f"training stopped, earlier checkpoints are kept; try {mend}",
            step + 1,
        )


@torch.no_grad()
def spread(features: Float32[Tensor, "n d"]) -> Float32[Tensor, ""]:
    """Root mean square distance of features from their mean."""
    return (features - features.mean(dim=0)).square().sum(dim=1).mean().sqrt()


def collapsed(
    seen: Float32[Tensor, "steps names"],
    names: tuple[str, ...],
    first_spread: float,
    at_one_point: dict[str, float],
) -> Bool[Tensor, " steps"]:
    """At which steps were all features one point, or so close that no loss could tell?

    `seen` holds the figures of steps, `names` says which, and `at_one_point` what losses are when
    all features are the same: a step counts if its spread and each of these losses say so.
    """
    columns = dict(zip(names, seen.unbind(dim=1), strict=True))
    signs = columns[SPREAD] < SMALL * first_spread
    for name, value in at_one_point.items():
        signs &= (columns[f"loss_{name}"] - value).abs() < CLOSE * value
    return signs


def num_last(signs: Bool[Tensor, " steps"]) -> int:
    """How many of the last steps, without a break, show a collapse."""
    others = (~signs).nonzero()
    return len(signs) - (int(others[-1]) + 1 if len(others) else 0)


def watch(
    at: Progress,
    seen: Float32[Tensor, "seen names"],
    names: tuple[str, ...],
    at_one_point: dict[str, float],
    steps: int,
) -> str:
    """Keeps in `at` since which step all features have been one point.

    `seen` are figures of the running epoch's first steps, of which it has `steps`. Returns what to
    tell when that begins, else nothing.
    """
    if not len(seen):
        return ""
    at.first_spread = at.first_spread or float(seen[0, -1])
    num = num_last(collapsed(seen, names, at.first_spread, at_one_point))
    if num == 0:
        at.collapsed_since = 0
    elif at.collapsed_since == 0:
        at.collapsed_since = (at.epoch - 1) * steps + len(seen) - num + 1
        return told(at, seen[-1], names, at_one_point)
    return ""


def told(
    at: Progress,
    last: Float32[Tensor, " names"],
    names: tuple[str, ...],
    at_one_point: dict[str, float],
) -> str:
    """A collapse in one line, by the figures of the `last` step."""
    figures = dict(zip(names, last.tolist(), strict=True))
    losses = "".join(
        f", loss_{name} is {figures[f'loss_{name}']:.3f}, of one point {value:.3f}"
        for name, value in at_one_point.items()
    )
    return (
        f"all features have collapsed into one point since step {at.collapsed_since} (their spread "
        f"is {100 * figures[SPREAD] / at.first_spread:.2g} % of the first step's{losses}), and "
        f"retrieval is at chance; try {MENDS}"
    )


def said(since: int) -> dict[str, str]:
    """What the result of collapsed features must say, under "collapse"; empty if they are not."""
    if not since:
        return {}
    return {"collapse": f"all features have been one point since step {since}; figures are chance"}
