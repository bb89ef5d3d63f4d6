"""Training with several processes (ranks) started by torchrun.

P and K define the global batch for any number of ranks: all ranks make the same plan, and each
takes its share of the identities. Losses, DHSM's sums and, optionally, batch norm's statistics are
those of the global batch on every rank, hence so are checkpoints and P̂; rank 0 writes for all.
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
TIMEOUT = timedelta(minutes=30)  # for a long evaluation on rank 0; torchrun notices dead ranks
LOST = re.compile("gloo|nccl|connection|peer", re.IGNORECASE)


class LostRankError(RuntimeError):
    """Another rank has died, so this one cannot continue."""


@dataclass(frozen=True, slots=True)
class World:
    """This process's rank and the number of processes; 0 of 1 without torchrun."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """This rank's share of each batch."""
        return Share(self.rank, self.size, self.local_size)

    def total(self, values: Tensor) -> Tensor:
        """Returns the sum over ranks, on every rank, without a gradient."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean over ranks, on every rank, without a gradient."""
        return self.total(values) / self.size

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenates the ranks' tensors [n, …] into the global batch's, with exact gradients."""
        if self.size == 1:
            return tensor
        return torch.cat(tuple(Gathered.apply(tensor.contiguous(), self)))

    def gather_rows(self, rows: Float[Tensor, "n d"], num: int) -> Float[Tensor, "all d"]:
        """Concatenates the ranks' parts (`own_rows`) of `num` rows."""
        if self.size == 1:
            return rows
        sizes = [len(self.own_rows(num, rank)) for rank in range(self.size)]
        padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
        parts = zip(self._gather(padded), sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])

    def own_rows(self, num: int, rank: int | None = None) -> Int64[ndarray, " k"]:
        """Returns this rank's part of `num` rows, or that of `rank`; parts are nearly equal."""
        rank = self.rank if rank is None else rank
        return np.arange(num * rank // self.size, num * (rank + 1) // self.size)

    def collect(self, value: T) -> list[T]:
        """Returns every rank's value, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def leader_first(self, work: Callable[[], T]) -> T:
        """Calls `work` on rank 0, then on the other ranks, which find the files it wrote."""
        if not self.leads:
            dist.barrier()
        done = work()
        if self.leads and self.size > 1:
            dist.barrier()
        return done

    def share_buffers(self, network: nn.Module) -> None:
        """Copies rank 0's buffers to all ranks: batch norm's statistics, if not synchronised."""
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
    """Gathers every rank's tensor; backward sums the gradients of all ranks' losses.

    Averaged over ranks by DistributedDataParallel, this is the gradient of the mean loss.
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
    """Reads the world from torchrun's environment variables.

    Raises `InputError` if they are not torchrun's; cluster software sets some of them.
    """
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    found = {name: os.environ[name] for name in alone if name in os.environ}
    values = list((alone | found).values())
    world = World(*map(int, values)) if all(map(str.isdecimal, values)) else World(rank=1)
    is_complete = {"RANK", "MASTER_ADDR"} <= os.environ.keys()
    if world.rank >= world.size or (world.size > 1 and not is_complete):
        said = " ".join(f"{name}={value}" for name, value in found.items())
        raise InputError(f"{said}: not as torchrun sets them; unset them, or start with torchrun")
    return world


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Holds the process group; uses an existing one.

    Raises `LostRankError` if another rank dies in the meantime.
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
        raise LostRankError(f"another rank died ({reason}); see its own message") from None
    dist.destroy_process_group()  # not after an error: it could wait for the others forever


def wrapped(network: nn.Module, world: World, sync_batch_norm: bool, balanced: bool) -> nn.Module:
    """Wraps the network to average gradients over ranks; `balanced`: RGB images come first.

    Dropout draws one mask for the global batch, equal to that of a single process.
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
        find_unused_parameters=True,  # a method may ignore some of its network's outputs
    )


def _no_bare_weights(network: nn.Module, args: Any, out: Outputs) -> Outputs:
    """Replaces weights among the outputs, such as class centres, with views of them.

    DistributedDataParallel considers a weight that is returned as is unused, then finds it used.
    """
    extras = {name: value.view_as(value) for name, value in out.extras.items()}
    return out._replace(extras=extras)


class SharedDropout(nn.Dropout):
    """Dropout with this rank's rows of the global batch's mask."""

    def __init__(self, p: float, world: World, balanced: bool) -> None:
        super().__init__(p)
        self.world = world
        self.parts = 2 if balanced else 1  # of a batch, each divided among the ranks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, size = len(x), self.world.size
        mask = F.dropout(x.new_ones(n * size, *x.shape[1:]), self.p)
        mask = mask.view(self.parts, size, n // self.parts, *x.shape[1:])[:, self.world.rank]
        return x * mask.flatten(0, 1)


def _synced(norm: Any, world: World) -> nn.Module:
    """Returns batch norm over all ranks; torch's own supports only GPUs."""
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
    """Batch norm (Ioffe & Szegedy) with statistics of the global batch, on the CPU.

    All ranks' shares must have the same size. Input [n, channels, …].
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
