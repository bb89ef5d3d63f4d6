"""Dynamic Hard Spectrum Mining (section III-D): harder spectra are drawn more often.

During an epoch, `Mining` sums the probability that the network assigns to the true identity of each
counterpart, on the device and without host syncs. At the end of the epoch, Eq. 5-7 turn the sums
into the next epoch's P̂, in float64 on the host.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int8, Int64
from numpy import ndarray
from torch import Tensor

from pipeline.errors import InputError


@dataclass(frozen=True, slots=True)
class DhsmOptions:
    """Dynamic Hard Spectrum Mining."""

    enabled: bool = True
    """Update P̂ after each epoch if there are several spectra; off: P̂ stays as it starts, all
    spectra equally likely (CDP without DHSM)."""

    alpha: float = 0.1
    """α of Eq. 7: weight of the old P̂ in the new one."""

    prefer: Literal["hard", "easy"] = "hard"
    """Which spectra get more probability: hard ones (Eq. 6), or easy ones, as a control."""

    start: tuple[float, ...] = ()
    """P̂ of the first epoch, in the order of --data.spectra, scaled to sum to 1; empty: uniform.
    Without updates, P̂ of every epoch."""

    def __post_init__(self) -> None:
        if self.start and not all(0 < p < math.inf for p in (*self.start, sum(self.start))):
            raise InputError(f"--dhsm.start {self.start}: each must be finite and greater than 0")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"--dhsm.alpha {self.alpha}: must be in 0…1")


class Mining:
    """DHSM's state: the current epoch's P̂, R, and the epoch's sums so far."""

    def __init__(
        self,
        options: DhsmOptions,
        num_spectra: int,
        device: torch.device,
        total: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> None:
        """Starts with zero R; `total` sums over the processes that share a batch.

        Raises `InputError` if the options' P̂ is of another number of spectra.
        """
        if options.start and len(options.start) != num_spectra:
            raise InputError(
                f"--dhsm.start {options.start}: gives {len(options.start)} probabilities, but "
                f"--data.spectra has {num_spectra}; give one for each"
            )
        self._options = options
        self._total = total
        self._codes = torch.arange(num_spectra, device=device)
        start = np.array(options.start or [1.0] * num_spectra)
        self.probability = start / start.sum()
        self.r = np.zeros(num_spectra)
        self.sums = torch.zeros(num_spectra, dtype=torch.float64, device=device)
        self.counts = torch.zeros(num_spectra, dtype=torch.float64, device=device)

    @torch.no_grad()
    def of_step(
        self,
        logits: Float[Tensor, "n m"],
        pids: Int64[Tensor, " n"],
        spectrum: Int8[Tensor, " n"],
    ) -> Float64[Tensor, "2 spectra"]:
        """Returns (Σ p_i, count) per spectrum over a step's counterparts; Eq. 5's sums.

        `logits` come from the training forward pass. Counterparts of infrared originals have
        spectrum -1 and are left out.
        """
        probability = logits.float().softmax(dim=1).gather(1, pids[:, None]).double()
        # A matrix product, unlike a scatter, sums in a fixed order.
        of_spectrum = (spectrum[None, :] == self._codes[:, None]).double()
        return torch.stack([(of_spectrum @ probability).squeeze(1), of_spectrum.sum(dim=1)])

    def add(self, of_step: Float64[Tensor, "2 spectra"]) -> None:
        """Adds a step's sums and counts, totalled over processes, to the epoch's."""
        sums, counts = self._total(of_step)
        self.sums += sums
        self.counts += counts

    def end_epoch(self) -> Float64[ndarray, " spectra"]:
        """Computes R (Eq. 5) and the next P̂, stores both, resets the sums, and returns P̂.

        P̂ stays unchanged if DHSM is off or there are fewer than two spectra.
        """
        sums, counts = self.sums.cpu().numpy().copy(), self.counts.cpu().numpy().copy()
        self.sums.zero_()
        self.counts.zero_()
        self.r = confidence(sums, counts, self.r)
        if self._options.enabled and len(self.r) > 1:
            r = self.r if self._options.prefer == "hard" else 1 - self.r
            self.probability = next_probability(self.probability, r, self._options.alpha)
        return self.probability


def confidence(
    sums: Float64[ndarray, " spectra"],
    counts: Float64[ndarray, " spectra"],
    previous: Float64[ndarray, " spectra"],
) -> Float64[ndarray, " spectra"]:
    """Returns R, Eq. 5: the mean confidence per spectrum; one without samples keeps its last R."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), previous)


def hardness(r: Float64[ndarray, " spectra"]) -> Float64[ndarray, " spectra"]:
    """Returns P, Eq. 6: each spectrum's share of the total 1 - R; uniform if that total is 0."""
    missing = np.clip(1 - r, 0, 1)
    total = missing.sum()
    return missing / total if total > 0 else np.full(len(r), 1 / len(r))


def next_probability(
    probability: Float64[ndarray, " spectra"], r: Float64[ndarray, " spectra"], alpha: float
) -> Float64[ndarray, " spectra"]:
    """Returns the next epoch's P̂, Eq. 7: P̂ ← α·P̂ + (1 - α)·P, renormalised against rounding."""
    mixed = alpha * probability + (1 - alpha) * hardness(r)
    return mixed / mixed.sum()
