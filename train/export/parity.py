"""Checks that an exported file computes the same features as the trained network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.export.formats import Run
from train.export.network import Inputs

TOLERANCE = 1e-4  # of a feature's length; another order of summation gives about 1e-6 (float32)


class ParityError(RuntimeError):
    """An exported file does not reproduce the trained network's features."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest difference between two networks' features of the same images."""

    absolute: float  # between single numbers
    relative: float  # length of the difference / length of the feature, per image

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; False for NaN."""
        return self.relative <= TOLERANCE


@torch.inference_mode()
def compare(run: Run, trained: Run, batches: Sequence[Inputs]) -> Parity:
    """Returns the largest differences over all batches; infinite if the features' shapes differ."""
    parities = [_difference(run(batch), trained(batch)) for batch in batches]
    columns = torch.tensor([[p.absolute, p.relative] for p in parities], dtype=torch.float64)
    return Parity(*columns.amax(dim=0).tolist())  # amax keeps NaN


def _difference(found: Tensor, expected: Tensor) -> Parity:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return Parity(float("inf"), float("inf"))
    difference = found.double() - expected.double()
    length = torch.linalg.vector_norm(expected.double(), dim=1).clamp_min(1e-30)
    relative = torch.linalg.vector_norm(difference, dim=1) / length
    return Parity(float(difference.abs().amax()), float(relative.amax()))
