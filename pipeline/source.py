"""The external source, which DALI calls in its `run()` for one planned batch after another.

DALI calls it ahead of the consumer (prefetch). At the end of the plan the source raises
StopIteration and DALI drains; only then does the next epoch begin, so that its first batch already
uses the new P̂.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from pipeline.datasets.records import Index, Modality
from pipeline.draws import Draw, Originals, uniforms
from pipeline.errors import BadImageError, InputError
from pipeline.options import DataOptions
from pipeline.plan import ALL, Plan
from pipeline.reader import Reader
from pipeline.sampler import Share

Batch = ndarray | list[ndarray] | Tensor


@runtime_checkable
class Pixels(Protocol):
    """A cache of decoded and resized images."""

    def expect(self, rows: Int64[ndarray, " n"]) -> None:
        """Announces the rows of an epoch, in order."""

    def take(self, rows: Int64[ndarray, " n"]) -> UInt8[Tensor, "n h w 3"]:
        """Returns the pixels of announced rows."""


class TrainingSource:
    """Feeds the training graph one batch per call: images, and the arrays of each draw.

    `in_flight` holds the rows of batches that DALI has taken but the consumer has not received.
    """

    def __init__(
        self,
        index: Index,
        options: DataOptions,
        seed: int,
        pixels: Pixels | None = None,
        share: Share = ALL,
    ) -> None:
        """Hands out the `share` of each batch that this process makes."""
        self.plan = Plan(index, options, seed, share)
        self.index = index
        self.in_flight: deque[Int64[ndarray, " n"]] = deque()
        self._num_originals = options.p * options.k
        self._seed = seed
        self._pixels = pixels
        self.read = Reader(index, options.range_16bit)
        self._epoch = self._step = self._resume_at = 0
        self._step_of: dict[str, int] = {}  # each draw's next step
        self._probability = np.empty(0, np.float32)

    def begin(
        self, epoch: int, probability: Float64[ndarray, " spectra"], first_step: int = 0
    ) -> None:
        """Plans `epoch` from `first_step` on; draws RGB counterparts from `probability` (P̂)."""
        self.plan.begin(epoch)
        self._epoch = epoch
        self._probability = np.ascontiguousarray(probability, np.float32)
        self._go_to(first_step)
        if self._pixels:
            self._pixels.expect(self.plan.rows_from(first_step))
        self.in_flight.clear()

    def _go_to(self, step: int) -> None:
        self._step = step
        self._step_of = dict.fromkeys(self._step_of, step)

    def stop(self) -> None:
        """Ends the epoch after the batches already in flight."""
        self._go_to(len(self.plan))

    def skip(self, error: BadImageError) -> bool:
        """Replaces a bad image, if the options allow it, and stops until `rewind` is called."""
        if not self._replace(error):
            return False
        self._resume_at = self._step - len(self.in_flight)
        self.stop()
        return True

    def rewind(self) -> None:
        """Continues from the first batch that DALI has taken but nobody received."""
        self._go_to(self._resume_at)
        self.in_flight.clear()

    def _replace(self, error: BadImageError) -> bool:
        replaced = self.plan.replace(error)
        if replaced and self._pixels:
            self._pixels.expect(self.plan.rows_from(self._step))
        return replaced

    def images(self) -> Batch:
        """Returns the next batch's paths or bytes, or, with a cache, pixels, uint8 [n, H, W, 3]."""
        if self._step >= len(self.plan):
            raise StopIteration
        while True:
            rows = self.plan.rows(self._step)
            try:
                batch = self._load(rows)
            except BadImageError as error:
                if not self._replace(error):
                    raise
            else:
                self._step += 1
                self.in_flight.append(rows)
                return batch

    def _load(self, rows: Int64[ndarray, " n"]) -> Batch:
        if self._pixels:
            pixels = self._pixels.take(rows)
            return pixels if pixels.is_cuda else pixels.numpy()
        return self.read(rows)

    def feed(self, draw: Draw) -> Callable[[], tuple[ndarray, ...]]:
        """Returns the callback that gives the graph this draw's arrays, one batch per call.

        Raises `InputError` if the name is already taken.
        """
        if draw.name in self._step_of or draw.name == "plan":
            raise InputError(f"the draw name {draw.name!r} is already taken; choose another")
        self._step_of[draw.name] = 0

        def next_batch() -> tuple[ndarray, ...]:
            step = self._step_of[draw.name]
            if step >= len(self.plan):
                raise StopIteration
            self._step_of[draw.name] = step + 1
            all_uniforms = uniforms(
                self._seed, draw.name, self._epoch, step, self._num_originals, draw.count
            )
            arrays = draw.host(all_uniforms[self.plan.columns], self._originals(step))
            return tuple(np.ascontiguousarray(array) for array in arrays.values())

        return next_batch

    def _originals(self, step: int) -> Originals:
        rows = self.plan.rows(step)
        return Originals(
            infrared=self.index.modality[rows] == Modality.IR,
            labels=self.plan.labels[rows],
            probability=self._probability,
        )


class EvaluationSource:
    """Returns paths or bytes, `batch` rows per call; the last batch may be smaller.

    With `skip_bad`, leaves out images that cannot be read; `bad` maps their rows to the reasons.
    """

    def __init__(
        self,
        index: Index,
        batch: int,
        range_16bit: tuple[int, int] | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.index = index
        self.batch = batch
        self.read = Reader(index, range_16bit)
        self.in_flight: deque[Int64[ndarray, " n"]] = deque()
        self.bad: dict[int, str] = {}
        self._skip_bad = skip_bad
        self._rows = np.arange(len(index))
        self._next = self._resume_at = 0

    def begin(self, rows: Int64[ndarray, " n"] | None = None) -> None:
        """Starts a pass over `rows`, or over all rows in order."""
        self._rows = np.arange(len(self.index)) if rows is None else rows
        self._next = 0
        self.in_flight.clear()

    def stop(self) -> None:
        """Ends the pass after the batches already in flight."""
        self._next = len(self._rows)

    def skip(self, error: BadImageError) -> bool:
        """Leaves out a bad image, if `skip_bad`, and stops until `rewind` is called."""
        if not self._leave_out(error):
            return False
        self._resume_at = self._next - sum(map(len, self.in_flight))
        self.stop()
        return True

    def rewind(self) -> None:
        """Continues from the first batch that DALI has taken but nobody received."""
        good = np.array([row not in self.bad for row in self._rows[self._resume_at :]], bool)
        self._rows = self._rows[self._resume_at :][good]
        self._next = 0
        self.in_flight.clear()

    def _leave_out(self, error: BadImageError) -> bool:
        if self._skip_bad:
            self.bad[error.row] = error.reason
        return self._skip_bad

    def __call__(self) -> tuple[ndarray | list[ndarray]]:
        """Returns the next batch's paths or bytes."""
        rows = self._rows[self._next : self._next + self.batch]
        while len(rows):
            try:
                batch = self.read(rows)
            except BadImageError as error:
                if not self._leave_out(error):
                    raise
                self._rows = self._rows[self._rows != error.row]
                rows = self._rows[self._next : self._next + self.batch]
            else:
                self._next += len(rows)
                self.in_flight.append(rows)
                return (batch,)
        raise StopIteration
