"""Keeps decoded and resized pixels in memory after their first use.

The evaluation graph, which decodes and resizes as training does, fills the cache ahead of the epoch
in the order of first use. The random parts of a batch (flip, spectrum, jitter) are still drawn at
each use, so batches are the same with and without a cache.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy import ndarray
from torch import Tensor

from pipeline.batches import run
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from pipeline.options import CacheName, DataOptions
from pipeline.source import EvaluationSource

# Share of the free memory that an `auto` cache may take; the rest is for training.
AUTO_SHARE = {"host": 0.5, "gpu": 0.4}


def num_bytes(index: Index, options: DataOptions) -> int:
    """Returns the size of all images, decoded and resized."""
    return len(index) * options.height_px * options.width_px * 3


def choose_place(
    index: Index, options: DataOptions, device: torch.device, local_size: int = 1
) -> CacheName:
    """Returns where to keep the pixels: `options.cache`, or for auto the nearest place with room.

    The host's memory is shared by `local_size` processes, each with a cache of its own.

    Raises `InputError` if `options.cache` names a place without room, or one that does not exist.
    """
    if options.cache == "none":
        return "none"
    need, free = num_bytes(index, options), free_bytes(device)
    free["host"] //= local_size
    if options.cache != "auto":
        if options.cache not in free:
            raise InputError("--data.cache gpu: there is no GPU here; pass host or auto")
        if need > free[options.cache]:
            raise InputError(
                f"--data.cache {options.cache}: {len(index)} images of "
                f"{options.height_px}x{options.width_px} take {need / 2**30:.1f} GiB, but only "
                f"{free[options.cache] / 2**30:.1f} GiB are free; pass --data.cache auto"
            )
        return options.cache
    fits = [name for name in free if need <= AUTO_SHARE[name] * free[name]]
    return fits[0] if fits else "none"


def free_bytes(device: torch.device) -> dict[CacheName, int]:
    """Returns the free memory of each place for a cache, the nearest place first."""
    free: dict[CacheName, int] = {}
    if device.type == "cuda":
        free["gpu"] = torch.cuda.mem_get_info(device)[0]
    return free | {"host": _free_host_bytes()}


def _free_host_bytes() -> int:
    """Returns the machine's free memory, or its control group's (container's) if that is less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return free
    return min(free, limit - used)


class PixelCache:
    """The pixels of an index's images, uint8 [n, H, W, 3], each decoded once."""

    def __init__(
        self,
        index: Index,
        options: DataOptions,
        where: CacheName,
        device: torch.device,
        device_id: int | None,
        threads: int,
    ) -> None:
        from pipeline.graph import evaluation_graph

        self.device = device if where == "gpu" else torch.device("cpu")
        # On the CPU, only the filled part of the cache takes memory.
        shape = (len(index), options.height_px, options.width_px, 3)
        self._pixels = torch.empty(shape, dtype=torch.uint8, device=self.device)
        self._ready = np.zeros(len(index), bool)
        self._source = EvaluationSource(index, options.p * options.k, options.range_16bit)
        self._graph = evaluation_graph(
            self._source,
            options,
            device_id,
            threads,
            batch_size=options.p * options.k,
            packed=self._source.read.gives_bytes,
        )
        self._graph_device = device
        # On the caller's stream a gather would wait for its kernels, and come a step late.
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._num_missing = 0  # of the expected rows
        self._filling: Iterator[tuple[Int64[ndarray, " n"], list[Tensor]]] = iter(())

    def expect(self, rows: Int64[ndarray, " n"]) -> None:
        """Starts to decode the missing ones of `rows`, in order of first use."""
        self.close()
        new, first = np.unique(rows[~self._ready[rows]], return_index=True)
        self._num_missing = len(new)
        if len(new):
            self._source.begin(new[np.argsort(first)])
            self._filling = run(self._graph, self._source, self._graph_device)

    def take(self, rows: Int64[ndarray, " n"]) -> UInt8[Tensor, "n h w 3"]:
        """Returns the pixels of `rows`, announced by `expect` before; on a GPU in `stream`'s order.

        Raises `InputError` naming a file that cannot be decoded.
        """
        with torch.cuda.stream(self.stream):  # None without a GPU: no effect
            while not self._ready[rows].all():
                found, (images,) = next(self._filling)
                self._pixels.index_copy_(0, self._rows(found), images.to(self.device))
                self._ready[found] = True
                self._num_missing -= len(found)
                if not self._num_missing:
                    self.close()
            if self.device.type != "cuda":  # as fast on one core as torch on two, and 5x [rows]
                return torch.from_numpy(self._pixels.numpy().take(rows, axis=0))
            return self._pixels.index_select(0, self._rows(rows))

    def _rows(self, rows: Int64[ndarray, " n"]) -> Int64[Tensor, " n"]:
        on_host = torch.from_numpy(rows)
        if self.device.type != "cuda":
            return on_host
        return on_host.pin_memory().to(self.device, non_blocking=True)

    def close(self) -> None:
        """Stops decoding ahead."""
        if hasattr(self._filling, "close"):
            self._filling.close()
        self._filling = iter(())
