"""Runs a graph, epoch after epoch, and yields its batches as torch tensors without a copy."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int8, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from pipeline.cache import PixelCache, place
from pipeline.datasets.records import Index
from pipeline.graph import evaluation_graph, training_graph
from pipeline.options import CacheName, DataOptions, num_threads
from pipeline.run import device_id, run
from pipeline.sampler import Share
from pipeline.source import ALL, EvaluationSource, TrainingSource


@dataclass(frozen=True, slots=True, eq=False)
class PairedBatch:
    """N = P·K originals, with their counterparts if the options name spectra, on the device."""

    images: UInt8[Tensor, "n views h w 3"]  # [:, 0] the original, [:, 1] its counterpart, if any
    pids: Int64[Tensor, " n"]  # class index, 0…M-1
    modality: UInt8[Tensor, " n"]  # pipeline.datasets.records.Modality
    spectrum: Int8[Tensor, " n"]  # place in DataOptions.spectra; -1: an infrared original
    rows: Int64[ndarray, " n"]  # on the host: the originals' rows of the index

    @property
    def num_views(self) -> int:
        """Images an original: 2 with its counterpart, else 1."""
        return self.images.shape[1]

    def flat(self) -> UInt8[Tensor, "images 3 h w"]:
        """All images, 0…255, original and counterpart in turn: a channels_last view, no copy."""
        return self.images.flatten(0, 1).permute(0, 3, 1, 2)


class TrainingLoader:
    """Yields an epoch of `PairedBatch`es; `epoch()` may be called again as soon as one has ended.

    Raises `InputError` when the images cannot serve the batches asked for, and, while iterating,
    when a file cannot be decoded, naming it.
    """

    def __init__(
        self,
        index: Index,
        options: DataOptions,
        device: torch.device,
        seed: int,
        share: Share = ALL,
    ) -> None:
        """`share`: the part of each batch that this process makes."""
        self.device = device
        self.cache: CacheName = place(index, options, device, share.local_size)
        how = (device_id(device), num_threads(options))
        pixels = None
        if self.cache != "none":
            pixels = PixelCache(index, options, self.cache, device, *how)
        self.source = TrainingSource(index, options, seed, pixels, share)
        own = dataclasses.replace(options, p=options.p // share.size)
        self._pipeline = training_graph(
            *(self.source, own, *how, self.cache),
            packed=self.source.read.gives_bytes,
            pixel_stream=pixels.stream if pixels else None,
        )

    @property
    def num_classes(self) -> int:
        """M: training identities."""
        return len(self.source.pids)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.source.steps

    def epoch(
        self, epoch: int, probability: Float64[ndarray, " spectra"], first_step: int = 0
    ) -> Iterator[PairedBatch]:
        """The batches of `epoch` from `first_step` on, all drawn from `probability` (P̂)."""
        self.source.begin(epoch, probability, first_step)
        for rows, (images, pids, modality, spectrum) in run(
            self._pipeline, self.source, self.device
        ):
            yield PairedBatch(images, pids, modality, spectrum, rows)


class EvaluationLoader:
    """Yields all images of an index in order, uint8 [n, 3, H, W] channels_last, on the device."""

    def __init__(self, index: Index, options: DataOptions, device: torch.device) -> None:
        self.source = EvaluationSource(index, options.eval_batch, options.range_16bit)
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
        """Batches of a pass."""
        return -(-len(self.source.index) // self.source.batch)

    def __iter__(self) -> Iterator[UInt8[Tensor, "n 3 h w"]]:
        self.source.begin()
        for _, (images,) in run(self._pipeline, self.source, self.device):
            yield images.permute(0, 3, 1, 2)
