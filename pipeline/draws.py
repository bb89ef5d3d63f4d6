"""Stateless randomness: every draw is a function of (seed, purpose, epoch, step, position).

NumPy's Philox is counter-based: the counter holds (epoch, step) and the key (seed, purpose), so a
draw needs no history. A resumed run, another number of ranks, threads or prefetched batches sees
the same values.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float32, Int32
from numpy import ndarray


class Purpose(IntEnum):
    """Keeps the streams of different draws apart."""

    PLAN = 0
    AUGMENTATION = 1


@dataclass(frozen=True, slots=True)
class Draws:
    """What is random about a batch of n originals, apart from which images they are."""

    spectrum: Float32[ndarray, " n"]  # uniform in [0, 1): inverts P̂'s cumulative sum
    flip: Int32[ndarray, " n"]  # 1: the pair is mirrored
    brightness: Float32[ndarray, " n"]  # factor of an infrared counterpart, in [1-δ, 1+δ]


def generator(seed: int, purpose: Purpose, epoch: int, step: int = 0) -> np.random.Generator:
    """The random stream of one step; its position-th value is the draw of that position."""
    key = np.array([seed, purpose], np.uint64)  # a list would become float64 from seed 2**63 on
    # The low counter word counts the values drawn, so two steps never overlap.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, epoch]))


def draw(seed: int, epoch: int, step: int, num_originals: int, flip: float, jitter: float) -> Draws:
    """The draws of one batch; `flip` is a probability, `jitter` is δ."""
    u = generator(seed, Purpose.AUGMENTATION, epoch, step).random((num_originals, 3), np.float32)
    # 20 bits: u stays below a cumulative sum that float32 rounded to a little less than 1, so a
    # spectrum of probability 0 is never drawn.
    return Draws(
        spectrum=np.floor(u[:, 0] * 2**20).astype(np.float32) / np.float32(2**20),
        flip=(u[:, 1] < flip).astype(np.int32),
        brightness=(1 + jitter * (2 * u[:, 2] - 1)).astype(np.float32),
    )
