"""The epoch plan: PK batches (Hermans et al., "In Defense of the Triplet Loss") as a pure function.

An epoch is ceil(N / PK) steps. Its identities are successive permutations of all identities, so
each occurs equally often (±1); each occurrence takes the next images of that identity's shuffled
list (cyclically), so within an identity and modality each image occurs equally often (±1). An
identity with fewer images than a batch needs repeats some. `shuffle` is the paper's baseline, which
has no PK sampling: a permutation of the images, whose last step is filled up from its start.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.records import Index, Modality
from pipeline.draws import generator
from pipeline.errors import InputError
from pipeline.groups import Groups, Part, group
from pipeline.options import SamplingName


@dataclass(frozen=True, slots=True)
class Share:
    """The part of each batch that one of several processes makes: whole identities."""

    rank: int = 0
    size: int = 1  # processes
    local_size: int = 1  # processes on this machine, which share its memory and cores

    def columns(self, p: int, k: int) -> slice:
        """Returns its positions among P·K originals; raises `InputError` if P is not divisible."""
        if p % self.size:
            raise InputError(
                f"--data.p {p}: cannot be shared equally by {self.size} processes; pass a multiple "
                f"of {self.size}, or start a different number"
            )
        n = p // self.size * k
        return slice(self.rank * n, (self.rank + 1) * n)


def check(
    index: Index, p: int, k: int, sampling: SamplingName, groups: Groups | None = None
) -> None:
    """Raises `InputError` if the images cannot fill P x K batches with this `sampling`.

    `groups` is `group(index, sampling)`, if already computed.
    """
    if sampling == "shuffle":
        return
    groups = groups or group(index, sampling)
    pids = groups.pids
    if len(pids) < 2:
        raise InputError(
            f"{index.origin}: the data has {len(pids)} training identities; a batch needs at "
            "least 2: add images of others"
        )
    if p > len(pids):
        raise InputError(
            f"--data.p {p}: the data has only {len(pids)} training identities; "
            f"pass --data.p {len(pids)} or less"
        )
    if sampling == "random":
        return
    for modality, part in zip(Modality, groups.parts, strict=True):
        lacking = pids[part.count == 0]
        if len(lacking):
            raise InputError(
                f"{index.origin}: identity {lacking[0]} has no {modality.name} image "
                f"({len(lacking)} such identities); leave it out, "
                "or pass --data.sampling random"
            )


def num_steps(index: Index, p: int, k: int) -> int:
    """Steps of an epoch: one pass over the images, ceil(N / PK)."""
    return -(-len(index) // (p * k))


def plan_epoch(
    index: Index,
    p: int,
    k: int,
    sampling: SamplingName,
    seed: int,
    epoch: int,
    groups: Groups | None = None,
) -> Int64[ndarray, "steps n"]:
    """Returns the rows of `index` for each step, n = P·K: by identity, RGB images first.

    `groups` is `group(index, sampling)`; to plan many epochs, compute it once.
    """
    rng = generator(seed, "plan", epoch)
    steps = num_steps(index, p, k)
    if sampling == "shuffle":
        return np.resize(rng.permutation(len(index)), (steps, p * k))
    groups = groups or group(index, sampling)
    slots, occurrence = _identity_slots(rng, len(groups.pids), steps, p)
    each = k // len(groups.parts)
    images = np.empty((len(slots), k), np.int64)
    for start, part in zip(range(0, k, each), groups.parts, strict=True):
        images[:, start : start + each] = _next_images(rng, part, slots, occurrence, each)
    return images.reshape(steps, p * k)


def _identity_slots(
    rng: np.random.Generator, num_identities: int, steps: int, p: int
) -> tuple[Int64[ndarray, " slots"], Int64[ndarray, " slots"]]:
    """Returns each slot's identity (P per step, all distinct) and how often it came before."""
    rounds = -(-steps * p // num_identities)
    slots = np.empty(rounds * num_identities, np.int64)
    for r in range(rounds):
        order = rng.permutation(num_identities)
        start = r * num_identities
        # A step that spans two permutations must not hold an identity twice: identities already in
        # the step move behind the ones that it still needs.
        in_step = slots[start - start % p : start]
        missing = p - len(in_step) if len(in_step) else 0
        fresh = np.flatnonzero(~np.isin(order, in_step))[:missing]
        rest = np.delete(order, fresh)
        slots[start : start + num_identities] = np.concatenate([order[fresh], rest])
    occurrence = np.repeat(np.arange(rounds), num_identities)
    return slots[: steps * p], occurrence[: steps * p]


def _next_images(
    rng: np.random.Generator,
    part: Part,
    slots: Int64[ndarray, " slots"],
    occurrence: Int64[ndarray, " slots"],
    k: int,
) -> Int64[ndarray, "slots k"]:
    """Returns for each slot the next k rows of its identity's shuffled images, cyclically."""
    shuffled = _shuffled(rng, part)
    position = occurrence[:, None] * k + np.arange(k)
    return shuffled[part.first[slots, None] + position % part.count[slots, None]]


def _shuffled(rng: np.random.Generator, part: Part) -> Int64[ndarray, " r"]:
    """Returns the part's rows, shuffled within each identity.

    An image's sort key is a random number, then its position within the identity; sorting short
    rows of keys is ten times as fast as sorting all keys at once.
    """
    random = rng.integers(2**32, size=len(part.rows), dtype=np.uint32)
    shuffled = np.empty_like(part.rows)
    start = 0
    for block in part.equal_size_blocks():
        size = block.shape[1]
        keys = random[block].astype(np.uint64) << np.uint64(32)
        keys |= np.arange(size, dtype=np.uint64)
        keys.sort(axis=1)
        keys &= np.uint64(2**32 - 1)
        chosen = np.take_along_axis(block, keys.view(np.int64), axis=1)
        shuffled[start : start + block.size] = part.rows[chosen].reshape(-1)
        start += block.size
    return shuffled
