"""Runs a graph epoch by epoch and yields its batches as torch tensors, without copying them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from pipeline.batch import PairedBatch
from pipeline.batches import device_id, run
from pipeline.cache import PixelCache, choose_place
from pipeline.datasets.records import Index
from pipeline.options import CacheName, DataOptions, num_threads
from pipeline.plan import ALL
from pipeline.sampler import Share
from pipeline.source import EvaluationSource, TrainingSource


class TrainingLoader:
    """Yields an epoch of `PairedBatch`es per call of `epoch()`; one must end before the next.

    Raises `InputError` if the images cannot fill the batches, and, while iterating, naming a file
    that cannot be decoded.
    """

    def __init__(
        self,
        index: Index,
        options: DataOptions,
        device: torch.device,
        seed: int,
        share: Share = ALL,
        augment: Callable[[Any, Callable[..., Any]], Any] | None = None,
    ) -> None:
        """`share`: the part of each batch that this process makes; `augment`: see `graph`."""
        from pipeline.graph import training_graph  # needs DALI, and only loaders do

        self.device = device
        self.cache: CacheName = choose_place(index, options, device, share.local_size)
        device_and_threads = (device_id(device), num_threads(options))
        pixels = None
        if self.cache != "none":
            pixels = PixelCache(index, options, self.cache, device, *device_and_threads)
        self.source = TrainingSource(index, options, seed, pixels, share)
        self.plan = self.source.plan
        own_options = dataclasses.replace(options, p=options.p // share.size)
        self._pipeline = training_graph(
            *(self.source, own_options, *device_and_threads, self.cache),
            packed=self.source.read.gives_bytes,
            pixel_stream=pixels.stream if pixels else None,
            augment=augment,
        )

    @property
    def num_classes(self) -> int:
        """M, the number of training identities."""
        return len(self.plan.pids)

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.plan.steps

    def epoch(
        self, epoch: int, probability: Float64[ndarray, " spectra"], first_step: int = 0
    ) -> Iterator[PairedBatch]:
        """Yields the batches of `epoch` from `first_step` on, all drawn from `probability` (P̂)."""
        self.source.begin(epoch, probability, first_step)
        for rows, (images, pids, modality, spectrum, *p_hat) in run(
            self._pipeline, self.source, self.device
        ):
            drawn_from = p_hat[0][0].numpy() if p_hat else np.empty(0, np.float32)
            yield PairedBatch(images, pids, modality, spectrum, rows, drawn_from)


class EvaluationLoader:
    """Yields all images of an index in order, uint8 [n, 3, H, W] channels_last, on the device.

    With `skip_bad`, leaves out images that cannot be read; `source.bad` maps their rows to reasons.
    """

    def __init__(
        self, index: Index, options: DataOptions, device: torch.device, skip_bad: bool = False
    ) -> None:
        from pipeline.graph import evaluation_graph

        self.source = EvaluationSource(index, options.eval_batch, options.range_16bit, skip_bad)
        self.device = device
        self._pipeline = evaluation_graph(
            self.source,
            options,
            device_id(device),
            num_threads(options),
            options.eval_batch,
            self.source.read.gives_bytes,
        )

    def __len__(self) -> int:
        """Batches per pass."""
        return -(-len(self.source.index) // self.source.batch)

    def __iter__(self) -> Iterator[UInt8[Tensor, "n 3 h w"]]:
        for _, images in self.with_rows():
            yield images

    def with_rows(self) -> Iterator[tuple[Int64[ndarray, " n"], UInt8[Tensor, "n 3 h w"]]]:
        """Yields (rows of the index, images) for each batch."""
        self.source.begin()
        for rows, (images,) in run(self._pipeline, self.source, self.device):
            yield rows, images.permute(0, 3, 1, 2)
