"""Detects runs that cannot succeed: a loss that is not finite, or collapsed features.

Batch-hard triplet loss can drive all features into one point (Hermans et al., "In Defense of the
Triplet Loss for Person Re-Identification", 2017, section 3.3). Then every distance is 0, the
triplet loss equals its margin and the cross-entropy ln M; nothing is NaN, and retrieval is at
chance.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from train.checkpoint import Progress

COLLAPSED = "collapsed.json"  # in the folder of a run that was stopped
SPREAD = "spread"  # a step's last figure, after its losses
# A step shows a collapse if its spread is less than this share of the first step's …
SMALL = 0.05
# … and each loss this close to its value when all features are one point, relative to that value.
# Batches of collapsed features still flicker: L_tri up to a third above its margin.
CLOSE = {"cls": 0.05}
CLOSE_OTHERS = 0.2
MENDS = "--loss.triplet-weight 0.01 or a lower --optimizer.lr"  # bench/NOTES.md
WINDOW = 20  # steps to look at; the share MOST of them must show a collapse
MOST = 0.8


class DivergedError(ArithmeticError):
    """The run cannot succeed; the message says what happened and what may help."""


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
def spread(
    features: Float32[Tensor, "n d"], gather: Callable[[Tensor], Tensor]
) -> Float32[Tensor, ""]:
    """Returns the root mean square distance of the global batch's features from their mean.

    `features` are this rank's, as many as each other rank's. Gathers a mean of each rank, not its
    features.
    """
    mean = features.mean(dim=0)
    within = (features - mean).square().sum(dim=1).mean()
    ranks = gather(torch.cat([mean, within[None]])[None])
    means = ranks[:, :-1]
    between = (means - means.mean(dim=0)).square().sum(dim=1).mean()
    return (ranks[:, -1].mean() + between).sqrt()


def collapsed(
    seen: Float32[Tensor, "steps names"],
    names: tuple[str, ...],
    first_spread: float,
    at_one_point: dict[str, float],
) -> Bool[Tensor, " steps"]:
    """Returns at which steps all features were, as far as figures show, one point.

    `seen` holds the figures called `names`, and `at_one_point` the values of losses when all
    features are equal: a step counts if its spread and each of these losses agree.
    """
    columns = dict(zip(names, seen.unbind(dim=1), strict=True))
    signs = columns[SPREAD] < SMALL * first_spread
    for name, value in at_one_point.items():
        close = CLOSE.get(name, CLOSE_OTHERS) * value
        signs &= (columns[f"loss_{name}"] - value).abs() < close
    return signs


def watch(
    at: Progress,
    seen: Float32[Tensor, "seen names"],
    names: tuple[str, ...],
    at_one_point: dict[str, float],
    steps: int,
) -> str:
    """Records in `at` since which step all features have been one point.

    `seen` holds the figures of the current epoch's first steps, of `steps` in all. Returns a
    message when a collapse begins, otherwise "".
    """
    if len(seen):
        at.first_spread = at.first_spread or float(seen[0, -1])
    if len(seen) < min(WINDOW, steps):
        return ""
    signs = collapsed(seen[-WINDOW:], names, at.first_spread, at_one_point)
    if signs.float().mean() < MOST:
        at.collapsed_since = 0
    elif at.collapsed_since == 0:
        earliest = len(seen) - len(signs) + int(signs.nonzero()[0])
        at.collapsed_since = (at.epoch - 1) * steps + earliest + 1
        return told(at, seen[-1], names, at_one_point)
    return ""


def told(
    at: Progress,
    last: Float32[Tensor, " names"],
    names: tuple[str, ...],
    at_one_point: dict[str, float],
) -> str:
    """Describes a collapse in one line, with the figures of the `last` step."""
    figures = dict(zip(names, last.tolist(), strict=True))
    losses = "".join(
        f", loss_{name} is {figures[f'loss_{name}']:.3f}, at one point {value:.3f}"
        for name, value in at_one_point.items()
    )
    return (
        f"all features have collapsed into one point since step {at.collapsed_since} (their spread "
        f"is {100 * figures[SPREAD] / at.first_spread:.2g} % of the first step's{losses}), and "
        f"retrieval is at chance; try {MENDS}"
    )


def said(since: int) -> dict[str, str]:
    """Returns the entry that discloses a collapse in a result; {} without one."""
    if not since:
        return {}
    return {"collapse": f"all features have been one point since step {since}; figures are chance"}
