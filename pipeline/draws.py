"""Stateless randomness: every draw is a function of (seed, name, epoch, step, position).

NumPy's Philox is counter-based: the counter holds (epoch, step), the key (seed, name). A draw needs
no history, so a resumed run, or one with another number of ranks, threads or prefetched batches,
sees the same values. A new name does not change other names' values.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64
from numpy import ndarray

# The first two names keep the numbers they had before names existed, so old runs stay reproducible.
KEYS = {"plan": 0, "pair": 1}


@dataclass(frozen=True, slots=True)
class Originals:
    """What is known about a batch's n originals before they are decoded."""

    infrared: Bool[ndarray, " n"]
    labels: Int64[ndarray, " n"]  # class index, 0…M-1
    probability: Float32[ndarray, " spectra"]  # P̂


# Turns uniforms [n, count] into the graph's named inputs, arrays whose first axis is n.
Host = Callable[[Float32[ndarray, "n count"], Originals], dict[str, ndarray]]


@dataclass(frozen=True, slots=True)
class Draw:
    """A request for `count` uniform numbers in [0, 1) per original, and what to make of them."""

    name: str
    count: int
    host: Host


@dataclass(frozen=True, slots=True)
class Pair:
    """The random values of n pairs."""

    spectrum: Float32[ndarray, " n"]  # uniform in [0, 1): inverts P̂'s cumulative sum
    flip: Int32[ndarray, " n"]  # 1: the pair is mirrored
    brightness: Float32[ndarray, " n"]  # factor of an infrared counterpart, in [1-δ, 1+δ]


def generator(seed: int, name: str, epoch: int, step: int = 0) -> np.random.Generator:
    """Returns the random stream of one step; its i-th value belongs to position i."""
    number = KEYS.get(name)
    if number is None:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    key = np.array([seed, number], np.uint64)  # a list would become float64 from seed 2**63 on
    # The low counter word counts the values drawn, so two steps never overlap.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, epoch]))


def uniforms(
    seed: int, name: str, epoch: int, step: int, num_originals: int, count: int
) -> Float32[ndarray, "n count"]:
    """Draws `count` uniform numbers in [0, 1) for each original of a batch."""
    return generator(seed, name, epoch, step).random((num_originals, count), np.float32)


def pair(u: Float32[ndarray, "n 3"], flip: float, jitter: float) -> Pair:
    """Turns a batch's "pair" uniforms into draws; `flip` is a probability, `jitter` is δ."""
    # 20 bits: u stays below a cumulative sum that float32 rounded to a little less than 1, so a
    # spectrum of probability 0 is never drawn.
    return Pair(
        spectrum=np.floor(u[:, 0] * 2**20).astype(np.float32) / np.float32(2**20),
        flip=(u[:, 1] < flip).astype(np.int32),
        brightness=(1 + jitter * (2 * u[:, 2] - 1)).astype(np.float32),
    )


def draw(seed: int, epoch: int, step: int, num_originals: int, flip: float, jitter: float) -> Pair:
    """Returns the pair draws of one training batch."""
    return pair(uniforms(seed, "pair", epoch, step, num_originals, 3), flip, jitter)
