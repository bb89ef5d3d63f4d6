"""`cdp bench peers`: the same paired batches by what teams use today, against our loader.

Each peer gets the same epoch plan and draws, decodes, resizes, flips, makes the counterpart and
stacks. Their resize differs from ours in the last digits, which no one would notice.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from bench.loader import check_length, loader_side, measured
from bench.measure import LEAD, TAIL, Side, report, steady_rate
from pipeline import spectrum
from pipeline.datasets.records import Index, Modality
from pipeline.draws import draw
from pipeline.loader import TrainingLoader
from pipeline.options import CacheName, DataOptions, num_threads
from pipeline.sampler import plan_epoch

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@dataclass(frozen=True, slots=True)
class Item:
    """One original to load, and what was drawn for it."""

    path: Path
    flip: bool
    weights: np.ndarray  # float32 [3]: what the counterpart's one channel is made of


def plan(index: Index, options: DataOptions, steps: int) -> list[list[Item]]:
    """The batches of our loader's epoch 1 with uniform P̂, seed 0."""
    rows_of = plan_epoch(index, options.p, options.k, options.sampling, 0, 1)[:steps]
    cumulative = np.cumsum(spectrum.uniform())[:-1]
    batches = []
    for step, rows in enumerate(rows_of):
        draws = draw(0, 1, step, len(rows), options.flip, options.jitter)
        batch = []
        for i, row in enumerate(rows):
            weights = np.asarray(spectrum.ROWS[int((draws.spectrum[i] >= cumulative).sum())])
            if index.modality[row] == Modality.IR:
                weights = np.asarray(spectrum.LUMA) * draws.brightness[i]
            item = Item(index.path(row), bool(draws.flip[i]), weights.astype(np.float32))
            batch.append(item)
        batches.append(batch)
    return batches


class Items(Dataset[Tensor]):
    """Originals with their draws; a subclass makes a pair of one."""

    def __init__(self, items: list[Item], size: tuple[int, int]) -> None:
        self.items, self.size = items, size

    def __len__(self) -> int:
        return len(self.items)


class PilFloat(Items):
    """The classic: PIL decodes and resizes, float32 and normalised on the host: [2, 3, H, W]."""

    def __getitem__(self, i: int) -> Tensor:
        item, (height, width) = self.items[i], self.size
        with Image.open(item.path) as file:
            image = file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        if item.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(image)
        one = np.clip(np.rint(pixels @ item.weights), 0, 255)
        pair = np.stack([pixels, np.repeat(one[..., None], 3, axis=2)])
        tensor = torch.from_numpy(pair.astype(np.float32)).permute(0, 3, 1, 2) / 255
        return (tensor - MEAN) / STD


class TorchvisionUint8(Items):
    """A modern one: torchvision decodes and resizes, uint8 leaves the worker: [2, 3, H, W]."""

    def __getitem__(self, i: int) -> Tensor:
        item = self.items[i]
        image = decode_image(read_file(str(item.path)), ImageReadMode.RGB)
        image = v2.functional.resize(image, list(self.size), antialias=True)
        if item.flip:
            image = v2.functional.horizontal_flip(image)
        weights = torch.from_numpy(item.weights)[:, None, None]
        one = (image * weights).sum(dim=0, keepdim=True).round_().clamp_(0, 255)
        return torch.stack([image, one.to(torch.uint8).expand(3, -1, -1)])


def bench_peers(
    index: Index, options: DataOptions, device: torch.device, rounds: int, steps: int, out: Console
) -> dict[str, Any]:
    """Our streaming loader, the peers with a worker a core, and raw decoding in threads."""
    ours = {c: _ours(index, options, device, c) for c in ("none", "host")}
    check_length(ours["none"], steps)
    batches = plan(index, options, LEAD + steps + TAIL)
    items = [item for batch in batches for item in batch]
    size = (options.height_px, options.width_px)
    workers = num_threads(options)
    how = (len(batches[0]), workers, steps)
    sides = {
        "ours, streaming": loader_side(ours["none"], steps),
        "ours, cached": loader_side(ours["host"], steps),
        "DataLoader, PIL, float32": _workers(PilFloat(items, size), *how),
        "DataLoader, torchvision, uint8": _workers(TorchvisionUint8(items, size), *how),
        "decode only, torchvision, threads": _decode_only(items, workers, len(batches[0]), steps),
    }
    about = {"num_images": len(index), "p": options.p, "k": options.k, "steps": steps}
    samples = measured(sides, rounds)
    return report(out, "peers", samples, "DataLoader, PIL, float32", about | {"workers": workers})


def _ours(
    index: Index, options: DataOptions, device: torch.device, cache: CacheName
) -> TrainingLoader:
    return TrainingLoader(index, dataclasses.replace(options, cache=cache), device, seed=0)


def _workers(dataset: Items, batch_size: int, workers: int, steps: int) -> Side:
    """A DataLoader whose worker processes live on between rounds."""
    loader = DataLoader(
        dataset, batch_size, num_workers=workers, persistent_workers=True, prefetch_factor=2
    )

    def side() -> float:
        batches = iter(loader)
        rate = steady_rate(batches, steps, batch_size)
        for _ in batches:  # the workers finish before the next side's turn
            pass
        return rate

    return side


def _decode_only(items: list[Item], threads: int, batch_size: int, steps: int) -> Side:
    """The ceiling: nothing but decoding, no process boundary, no stack."""

    def decode(item: Item) -> Tensor:
        return decode_image(read_file(str(item.path)), ImageReadMode.RGB)

    def side() -> float:
        with ThreadPoolExecutor(threads) as pool:
            images = pool.map(decode, items)
            batches = (list(islice(images, batch_size)) for _ in range(len(items) // batch_size))
            rate = steady_rate(batches, steps, batch_size)
            pool.shutdown(cancel_futures=True)
        return rate

    return side
