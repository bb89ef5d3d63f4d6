"""An epoch's plan: which images each step takes, and which ones replace unreadable ones."""

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.records import Index, Modality
from pipeline.errors import BadImageError, InputError
from pipeline.groups import group
from pipeline.options import DataOptions
from pipeline.sampler import Share, check, num_steps, plan_epoch

ALL = Share()


def columns(options: DataOptions, share: Share) -> Int64[ndarray, " n"]:
    """Returns a share's positions among a batch's P·K originals.

    A balanced batch is planned identity by identity; here its RGB originals come first, so that a
    network can treat the modalities as two slices.
    """
    own = np.arange(options.p * options.k)[share.columns(options.p, options.k)]
    if options.sampling != "balanced":
        return own
    return own.reshape(-1, 2, options.k // 2).swapaxes(0, 1).ravel()


class Plan:
    """The rows of each step of the current epoch, of which this process makes a share.

    Raises `InputError` if the images cannot fill the batches that the options ask for.
    """

    def __init__(self, index: Index, options: DataOptions, seed: int, share: Share = ALL) -> None:
        self.columns = columns(options, share)
        self._groups = group(index, options.sampling)
        check(index, options.p, options.k, options.sampling, self._groups)
        self._options, self._seed = options, seed
        self.index = index
        self.steps = num_steps(index, options.p, options.k)
        self.pids, self.labels = self._groups.pids, self._groups.labels
        self.bad: dict[int, str] = {}  # row → why it cannot be used
        self._rows = np.empty((0, options.p * options.k), np.int64)

    def begin(self, epoch: int) -> None:
        """Plans `epoch`, without the images that are known to be bad."""
        o = self._options
        self._rows = plan_epoch(self.index, o.p, o.k, o.sampling, self._seed, epoch, self._groups)
        self._avoid(*self.bad)

    def __len__(self) -> int:
        """Steps of the current epoch; 0 before the first."""
        return len(self._rows)

    def rows(self, step: int) -> Int64[ndarray, " n"]:
        """Returns this process's rows of a step (from 0), as a copy: the plan may change."""
        return self._rows[step, self.columns].copy()

    def rows_from(self, step: int) -> Int64[ndarray, " rows"]:
        """Returns this process's rows of a step (from 0) and all later ones."""
        return self._rows[step:, self.columns].ravel()

    def rows_of_all(self, step: int) -> Int64[ndarray, " n"]:
        """Returns the rows of a step (from 0) as a single process would have them."""
        return self._rows[step, columns(self._options, ALL)]

    def replace(self, error: BadImageError) -> bool:
        """Replaces a bad image; returns False if the options say to stop instead.

        The replacement is the next good image of the same identity and modality, so the plan does
        not depend on the order in which bad images are found. Raises `InputError` if too many
        images are bad, or the identity has none left.
        """
        if self._options.on_bad_image == "error" or error.row in self.bad:
            return False
        self.bad[error.row] = error.reason
        if len(self.bad) > self._options.max_bad * len(self.index):
            raise InputError(
                f"{self.index.origin}: {len(self.bad)} of {len(self.index)} training images are "
                f"bad, more than --data.max-bad {self._options.max_bad}; the last: {error}"
            )
        self._avoid(error.row)
        return True

    def _avoid(self, *rows: int) -> None:
        if rows:
            for step, nth in np.argwhere(np.isin(self._rows, rows)):
                self._rows[step, nth] = self._next_good(int(self._rows[step, nth]))

    def _next_good(self, row: int) -> int:
        index = self.index
        rows = self._groups.rows_like(index, row)
        for other in np.roll(rows, -int(np.searchsorted(rows, row)) - 1):
            if int(other) not in self.bad:
                return int(other)
        raise InputError(
            f"{index.path(row)}: {self.bad[row]}; no readable "
            f"{Modality(index.modality[row]).name} image of its identity is left: restore one, or "
            "leave the identity out"
        )
