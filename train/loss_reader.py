"""Reads the current epoch's losses without making the host wait for the GPU."""

from collections import deque

import torch
from jaxtyping import Float32
from torch import Tensor


class LossReader:
    """Copies an epoch's losses from the device to the host.

    `read` starts a copy and returns what earlier copies have delivered; without a GPU it returns
    everything at once.
    """

    def __init__(self, losses: Float32[Tensor, "steps n"]) -> None:
        """`losses` is on the device and is filled in step by step."""
        self._losses = losses
        self._host = torch.empty(losses.shape, pin_memory=losses.is_cuda)
        self._copied: deque[tuple[torch.cuda.Event, int]] = deque()
        self._num_arrived = 0

    def read(self, step: int) -> Float32[Tensor, "arrived n"]:
        """Returns the losses, of at most the first `step` steps, that have reached the host."""
        self._copy(step)
        while self._copied and self._copied[0][0].query():
            self._num_arrived = self._copied.popleft()[1]
        return self._host[: self._num_arrived]

    def wait(self, step: int) -> Float32[Tensor, "{step} n"]:
        """Waits for and returns the losses of the first `step` steps."""
        self._copy(step)
        while self._copied:
            self._copied.popleft()[0].synchronize()
        self._num_arrived = step
        return self._host[:step]

    def _copy(self, step: int) -> None:
        self._host[:step].copy_(self._losses[:step], non_blocking=True)
        if self._losses.is_cuda:
            self._copied.append((torch.cuda.current_stream().record_event(), step))
        else:
            self._num_arrived = step
