"""Several processes (ranks) that train one network, started by torchrun: all that knows of them.

The global batch is what P and K say, whatever the number of ranks: each takes its share of the
identities of the same plan. Losses, DHSM's sums and, if asked for, batch norm's statistics are
those of the global batch on every rank, so checkpoints and P̂ are too, and rank 0 writes for all.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.outputs import Outputs
from pipeline.errors import InputError
from pipeline.sampler import Share

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # an evaluation on rank 0 may take that long; torchrun sees deaths
LOST = re.compile("gloo|nccl|connection|peer", re.IGNORECASE)


class LostRankError(RuntimeError):
    """Another rank is gone, and this one cannot go on."""


@dataclass(frozen=True, slots=True)
class World:
    """Who this process is among how many; alone without torchrun."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Does this rank write and speak for all?"""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of each batch that this rank makes."""
        return Share(self.rank, self.size, self.local_size)

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, on each of them; without a gradient."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks, on each of them; without a gradient."""
        return self.total(values) / self.size

    def gather(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors [n, …] as that of the global batch, with exact gradients."""
        if self.size == 1:
            return tensor
        return torch.cat(tuple(Gathered.apply(tensor.contiguous(), self)))

    def gather_rows(self, rows: Float[Tensor, "n d"], num: int) -> Float[Tensor, "all d"]:
        """The ranks' parts (`own_rows`) of `num` rows, together again."""
        if self.size == 1:
            return rows
        sizes = [len(self.own_rows(num, rank)) for rank in range(self.size)]
        padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
        parts = zip(self._gather(padded), sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])

    def own_rows(self, num: int, rank: int | None = None) -> Int64[ndarray, " k"]:
        """This rank's part of `num` rows, or that of `rank`, as equal as can be."""
        rank = self.rank if rank is None else rank
        return np.arange(num * rank // self.size, num * (rank + 1) // self.size)

    def collect(self, value: T) -> list[T]:
        """Every rank's value, on each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def leader_first(self, work: Callable[[], T]) -> T:
        """Works on rank 0, then on the others, which find what it left."""
        if not self.leads:
            dist.barrier()
        done = work()
        if self.leads and self.size > 1:
            dist.barrier()
        return done

    def share_buffers(self, network: nn.Module) -> None:
        """Gives every rank rank 0's buffers: batch norm's statistics, if they are not shared."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def share_weights(self, network: nn.Module) -> None:
        """Gives every rank rank 0's parameters."""
        if self.size > 1:
            for weight in network.parameters():
                dist.broadcast(weight.data, 0)

    def _gather(self, values: Tensor) -> list[Tensor]:
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values)
        return parts


class Gathered(torch.autograd.Function):
    """Every rank's tensor, in order; a rank's gradient is the sum of what all ranks' losses give.

    The ranks' mean gradient (DistributedDataParallel's) is then that of the mean of their losses.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> tuple[Tensor, ...]:
        ctx.world = world
        return tuple(world._gather(tensor))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        of_all = torch.stack(gradients)
        dist.all_reduce(of_all)
        return of_all[ctx.world.rank], None


ALONE = World()


def find_world() -> World:
    """What torchrun's environment says."""
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    return World(*(int(os.environ.get(name, value)) for name, value in alone.items()))


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """The process group, from the first collective call to the last; one that is there is used.

    Raises `LostRankError` if another rank dies meanwhile.
    """
    if world.size == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=TIMEOUT, device_id=device if on_gpu else None
    )
    try:
        yield
        dist.barrier()
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        reason = str(error).splitlines()[0][:200]
        raise LostRankError(f"another rank is gone ({reason}); its own message tells why") from None
    dist.destroy_process_group()  # not after an error: it could wait for the others for ever


def wrapped(network: nn.Module, world: World, sync_batch_norm: bool, balanced: bool) -> nn.Module:
    """The network with gradients averaged over ranks; `balanced`: RGB images come first in a batch.

    Dropout draws for the global batch, so that its mask is that of one process.
    """
    if world.size == 1:
        return network
    device = next(network.parameters()).device
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, SharedDropout(child.p, world, balanced))
            elif sync_batch_norm and isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, _synced(child, world))
    network.register_forward_hook(_no_bare_weights)
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,  # a method need not use all that its network makes
    )


def _no_bare_weights(network: nn.Module, args: Any, out: Outputs) -> Outputs:
    """The outputs, where a weight that a loss is to have (a class centre) is a view of itself.

    DistributedDataParallel takes a weight that comes out as it is for unused, then finds it used.
    """
    extras = {name: value.view_as(value) for name, value in out.extras.items()}
    return out._replace(extras=extras)


class SharedDropout(nn.Dropout):
    """Dropout whose mask is this rank's rows of the mask of the global batch."""

    def __init__(self, p: float, world: World, balanced: bool) -> None:
        super().__init__(p)
        self.world = world
        self.parts = 2 if balanced else 1  # of a batch, each shared by the ranks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, size = len(x), self.world.size
        mask = F.dropout(x.new_ones(n * size, *x.shape[1:]), self.p)
        mask = mask.view(self.parts, size, n // self.parts, *x.shape[1:])[:, self.world.rank]
        return x * mask.flatten(0, 1)


def _synced(norm: Any, world: World) -> nn.Module:
    """The batch norm over all ranks; torch's own is for GPUs only."""
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d):
        raise InputError(
            f"--sync-batch-norm: cannot synchronise this backbone's {type(norm).__name__}; pass "
            "--no-sync-batch-norm"
        )
    if norm.weight.is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    norm.__class__ = SyncedBatchNorm
    norm.num_ranks = world.size
    return norm


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm (Ioffe & Szegedy) with the statistics of the global batch, on the CPU.

    Shares of the batch must be of one size. Any number of dimensions; the second are channels.
    """

    num_ranks: int

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * self.num_ranks
        mean = dist_nn.all_reduce(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = dist_nn.all_reduce(centred.square().sum(dims)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
