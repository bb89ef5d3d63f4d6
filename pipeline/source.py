"""The external source: hands DALI one planned batch after another, on demand, in its `run()`.

DALI asks ahead of the consumer (prefetch). At the end of the plan the source raises StopIteration,
DALI drains, and only then is the next epoch begun: its first batch already sees the new P̂.
"""

from collections import deque
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from pipeline.datasets.records import Index, Modality
from pipeline.draws import draw
from pipeline.errors import BadImageError, InputError
from pipeline.groups import group
from pipeline.options import DataOptions
from pipeline.reader import Reader
from pipeline.sampler import Share, check, num_steps, plan_epoch

Batch = ndarray | list[ndarray] | Tensor


@runtime_checkable
class Pixels(Protocol):
    """A cache of decoded and resized images."""

    def expect(self, rows: Int64[ndarray, " n"]) -> None:
        """Announces the rows of an epoch, in their order."""

    def take(self, rows: Int64[ndarray, " n"]) -> UInt8[Tensor, "n h w 3"]:
        """The pixels of rows that were announced."""


ALL = Share()


class TrainingSource:
    """Turns an epoch's plan and P̂ into the two inputs of the training graph, one batch a call.

    `in_flight` holds the rows of the batches that DALI took and the consumer has not received.
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
        self._columns = share.columns(options.p, options.k)
        self._groups = group(index, options.sampling)
        check(index, options.p, options.k, options.sampling, self._groups)
        self._pixels = pixels
        self.index = index
        self.options = options
        self.seed = seed
        self.steps = num_steps(index, options.p, options.k)
        self.pids, self.labels = self._groups.pids, self._groups.labels
        self.in_flight: deque[Int64[ndarray, " n"]] = deque()
        self.read = Reader(index, options.range_16bit)
        self.bad: dict[int, str] = {}  # row → why it cannot serve
        self._plan = np.empty((0, options.p * options.k), np.int64)
        self._epoch = self._step = self._step_of_draws = self._again = 0
        self._probability = np.empty(0, np.float32)

    def begin(
        self, epoch: int, probability: Float64[ndarray, " spectra"], first_step: int = 0
    ) -> None:
        """Plans `epoch`, from `first_step` on; its RGB counterparts follow `probability` (P̂)."""
        o = self.options
        self._plan = plan_epoch(self.index, o.p, o.k, o.sampling, self.seed, epoch, self._groups)
        self._avoid(*self.bad)
        self._epoch = epoch
        self._step = self._step_of_draws = first_step
        if self._pixels:
            self._pixels.expect(self._plan[first_step:, self._columns].ravel())
        self._probability = np.ascontiguousarray(probability, np.float32)
        self.in_flight.clear()

    def stop(self) -> None:
        """Ends the epoch after the batches already in flight."""
        self._step = self._step_of_draws = self.steps

    def rows_of(self, step: int) -> Int64[ndarray, " n"]:
        """The rows of a step, from 1, of the running epoch, of all shares."""
        return self._plan[step - 1]

    def images(self) -> Batch:
        """The next batch's paths or bytes, or, from a cache, its pixels, uint8 [n, H, W, 3]."""
        if self._step >= len(self._plan):
            raise StopIteration
        while True:
            # A copy: the plan may change while these are in flight.
            rows = self._plan[self._step, self._columns].copy()
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

    def skip(self, error: BadImageError) -> bool:
        """Replaces a bad image, if the options say so, and stops; then `go_back` is called."""
        if not self._replace(error):
            return False
        self._again = self._step - len(self.in_flight)
        self.stop()
        return True

    def go_back(self) -> None:
        """Goes on with the first batch that DALI took and nobody received."""
        self._step = self._step_of_draws = self._again
        self.in_flight.clear()

    def _replace(self, error: BadImageError) -> bool:
        """Puts another image in the plan's place for a bad one; False if the options say error.

        It is the next one of the same identity and modality, whatever was found bad before it, so
        the plan does not depend on the order in which bad images are met.
        """
        if self.options.on_bad_image == "error" or error.row in self.bad:
            return False
        self.bad[error.row] = error.reason
        if len(self.bad) > self.options.max_bad * len(self.index):
            raise InputError(
                f"{self.index.root}: {len(self.bad)} of {len(self.index)} training images are bad, "
                f"more than --data.max-bad {self.options.max_bad}; the last: {error}"
            )
        self._avoid(error.row)
        if self._pixels:
            self._pixels.expect(self._plan[self._step :, self._columns].ravel())
        return True

    def _avoid(self, *rows: int) -> None:
        if rows:
            for step, nth in np.argwhere(np.isin(self._plan, rows)):
                self._plan[step, nth] = self._next_good(int(self._plan[step, nth]))

    def _next_good(self, row: int) -> int:
        index = self.index
        rows = self._groups.alike(index, row)
        for other in np.roll(rows, -int(np.searchsorted(rows, row)) - 1):
            if int(other) not in self.bad:
                return int(other)
        raise InputError(
            f"{index.path(row)}: {self.bad[row]}; no readable "
            f"{Modality(index.modality[row]).name} image of its identity is left: restore one, or "
            "take the identity off the id list"
        )

    def draws(self) -> tuple[ndarray, ...]:
        """The next batch's draws: what the graph asks for (`graph.PairSource`)."""
        if self._step_of_draws >= len(self._plan):
            raise StopIteration
        o, mine = self.options, self._columns
        rows = self._plan[self._step_of_draws, mine]
        draws = draw(self.seed, self._epoch, self._step_of_draws, o.p * o.k, o.flip, o.jitter)
        self._step_of_draws += 1
        infrared = self.index.modality[rows] == Modality.IR
        return (
            np.where(infrared[:, None], np.float32(0), self._probability),
            draws.spectrum[mine],
            draws.flip[mine],
            np.where(infrared, draws.brightness[mine], np.float32(1)),
            infrared.astype(np.uint8),
            self.labels[rows],
        )


class EvaluationSource:
    """Hands out rows' paths or bytes, `batch` at a time; the last batch may be smaller."""

    def __init__(
        self, index: Index, batch: int, range_16bit: tuple[int, int] | None = None
    ) -> None:
        self.index = index
        self.batch = batch
        self.read = Reader(index, range_16bit)
        self.in_flight: deque[Int64[ndarray, " n"]] = deque()
        self._rows = np.arange(len(index))
        self._next = 0

    def begin(self, rows: Int64[ndarray, " n"] | None = None) -> None:
        """Starts with the first of `rows`, or of all rows in order."""
        self._rows = np.arange(len(self.index)) if rows is None else rows
        self._next = 0
        self.in_flight.clear()

    def stop(self) -> None:
        """Ends the pass after the batches already in flight."""
        self._next = len(self._rows)

    def skip(self, error: BadImageError) -> bool:
        """Nothing is left out of a pass over named rows."""
        return False

    def go_back(self) -> None:
        """Never needed."""

    def __call__(self) -> tuple[ndarray | list[ndarray]]:
        """The next batch's paths or bytes."""
        if self._next >= len(self._rows):
            raise StopIteration
        rows = self._rows[self._next : self._next + self.batch]
        batch = self.read(rows)
        self._next += len(rows)
        self.in_flight.append(rows)
        return (batch,)
