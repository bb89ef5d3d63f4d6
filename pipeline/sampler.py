"""The epoch plan: PK batches (Hermans et al., "In Defense of the Triplet Loss") as a pure function.

An epoch is ceil(N / PK) steps. Its identities are permutations of all identities one after another,
so each occurs equally often (±1); each occurrence takes the next images of that identity's shuffled
list (cyclic), so within an identity and modality each image occurs equally often (±1). An identity
with fewer images than a batch asks of it repeats some. `shuffle` is the paper's baseline without PK
sampling: a permutation of the images, whose last step is filled from its start.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.records import Index, Modality
from pipeline.draws import Purpose, generator
from pipeline.errors import InputError
from pipeline.options import SamplingName


@dataclass(frozen=True, slots=True)
class Share:
    """The part of each batch that one of several processes makes: whole identities."""

    rank: int = 0
    size: int = 1  # processes
    local_size: int = 1  # of them on this machine, whose memory and cores they share

    def columns(self, p: int, k: int) -> slice:
        """Its places among a batch's P·K originals; `InputError` if P cannot be shared equally."""
        if p % self.size:
            raise InputError(
                f"--data.p {p}: cannot be shared equally by {self.size} processes; pass a multiple "
                f"of {self.size}, or start another number of them"
            )
        n = p // self.size * k
        return slice(self.rank * n, (self.rank + 1) * n)


def check(index: Index, p: int, k: int, sampling: SamplingName) -> None:
    """Raises `InputError` when the images cannot fill P x K batches the way `sampling` asks."""
    if sampling == "shuffle":
        return
    pids = np.unique(index.pids)
    if p > len(pids):
        raise InputError(
            f"--data.p {p}: the data has only {len(pids)} training identities ({index.root}); "
            f"pass --data.p {max(2, len(pids))} or less"
        )
    if sampling == "random":
        return
    for modality in Modality:
        lacking = np.setdiff1d(pids, index.pids[index.modality == modality])
        if len(lacking):
            raise InputError(
                f"{index.root}: identity {lacking[0]} has no {modality.name} image "
                f"({len(lacking)} such identities); take it off the id list, "
                "or pass --data.sampling random"
            )


def num_steps(index: Index, p: int, k: int) -> int:
    """Steps of an epoch: one pass over the images, ceil(N / PK)."""
    return -(-len(index) // (p * k))


def plan_epoch(
    index: Index, p: int, k: int, sampling: SamplingName, seed: int, epoch: int
) -> Int64[ndarray, "steps n"]:
    """Rows of `index` for each step, n = P·K: identity after identity, its RGB images first."""
    rng = generator(seed, Purpose.PLAN, epoch)
    steps = num_steps(index, p, k)
    if sampling == "shuffle":
        return np.resize(rng.permutation(len(index)), (steps, p * k))
    pids, identity = np.unique(index.pids, return_inverse=True)
    slots, occurrence = _identity_slots(rng, len(pids), steps, p)
    if sampling == "random":
        images = _next_images(rng, identity, len(pids), slots, occurrence, k)
    else:
        of_modality = []
        for modality in Modality:
            rows = np.flatnonzero(index.modality == modality)
            picked = _next_images(rng, identity[rows], len(pids), slots, occurrence, k // 2)
            of_modality.append(rows[picked])
        images = np.concatenate(of_modality, axis=1)
    return images.reshape(steps, p * k)


def _identity_slots(
    rng: np.random.Generator, num_identities: int, steps: int, p: int
) -> tuple[Int64[ndarray, " slots"], Int64[ndarray, " slots"]]:
    """The identity of each slot (P a step, distinct in a step) and how often it came before."""
    rounds = -(-steps * p // num_identities)
    slots = np.empty(rounds * num_identities, np.int64)
    for r in range(rounds):
        order = rng.permutation(num_identities)
        start = r * num_identities
        # A step that spans two permutations must not meet an identity twice: those of its first
        # part move behind the others that the step still needs.
        begun = slots[start - start % p : start]
        missing = p - len(begun) if len(begun) else 0
        fresh = np.flatnonzero(~np.isin(order, begun))[:missing]
        rest = np.delete(order, fresh)
        slots[start : start + num_identities] = np.concatenate([order[fresh], rest])
    occurrence = np.repeat(np.arange(rounds), num_identities)
    return slots[: steps * p], occurrence[: steps * p]


def _next_images(
    rng: np.random.Generator,
    identity: Int64[ndarray, " n"],
    num_identities: int,
    slots: Int64[ndarray, " slots"],
    occurrence: Int64[ndarray, " slots"],
    k: int,
) -> Int64[ndarray, "slots k"]:
    """For each slot the next k positions of its identity's shuffled images, cyclically."""
    # One sort shuffles every identity's images: identity in the high bits, random low bits.
    key = (identity.astype(np.uint64) << np.uint64(32)) | rng.integers(
        2**32, size=len(identity), dtype=np.uint64
    )
    shuffled = np.argsort(key, kind="stable")
    count = np.bincount(identity, minlength=num_identities)
    first = np.cumsum(count) - count
    turn = occurrence[:, None] * k + np.arange(k)
    return shuffled[first[slots, None] + turn % count[slots, None]]
