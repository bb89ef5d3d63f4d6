"""`cdp bench peers`: the same paired batches by what teams use today, against our loader.

Each peer gets the same epoch plan and draws, decodes, resizes, flips, makes the counterpart and
stacks. Their resize differs from ours in the last digits, which no one would notice.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from bench.loader import loader_side, make_loader
from bench.measure import LEAD, TAIL, Pass, Side, steady
from bench.session import Session
from pipeline import spectrum
from pipeline.datasets.records import Index, Modality
from pipeline.draws import draw
from pipeline.options import DataOptions, num_threads
from pipeline.sampler import plan_epoch

PIL = "DataLoader, PIL, float32"
TORCHVISION = "DataLoader, torchvision, uint8"
SPDL = "SPDL, threads, uint8"
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
    spectra = spectrum.rows(options.spectra)
    cumulative = np.cumsum(spectrum.uniform(options.spectra))[:-1]
    batches = []
    for step, rows in enumerate(rows_of):
        draws = draw(0, 1, step, len(rows), options.flip, options.jitter)
        batch = []
        for i, row in enumerate(rows):
            weights = spectra[int((draws.spectrum[i] >= cumulative).sum())]
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
        pair = _pair(np.asarray(image), item.weights)
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


class Spdl(Items):
    """SPDL: FFmpeg decodes and resizes, in threads of one process: uint8 [2, H, W, 3]."""

    def __getitem__(self, i: int) -> Tensor:
        import spdl.io

        item, (height, width) = self.items[i], self.size
        filters = f"scale=w={width}:h={height}:flags=bilinear,format=pix_fmts=rgb24"
        image = spdl.io.to_numpy(spdl.io.load_image(str(item.path), filter_desc=filters))
        return torch.from_numpy(_pair(image[:, ::-1] if item.flip else image, item.weights))


def _pair(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """uint8 [2, H, W, 3]: the pixels and their counterpart."""
    one = np.clip(np.rint(pixels @ weights), 0, 255).astype(np.uint8)
    return np.stack([pixels, np.repeat(one[..., None], 3, axis=2)])


def bench_peers(session: Session) -> None:
    """Our streaming loader, the peers with a worker a core, and raw decoding in threads."""
    data = session.config.data
    ours = make_loader(session, cache="none")
    steps = session.loader_steps(ours)
    batches = plan(session.index, data, LEAD + steps + TAIL)
    items = [item for batch in batches for item in batch]
    size, workers = (data.height_px, data.width_px), num_threads(data)
    peers = {
        PIL: _workers(PilFloat(items, size), session, workers, steps),
        "DataLoader, torchvision, uint8": _workers(
            TorchvisionUint8(items, size), session, workers, steps
        ),
    }
    left_out = {}
    why_not = why_no_spdl(Spdl(items, size))
    if why_not:
        left_out[SPDL] = why_not
        session.display.say(f"peers: {SPDL} left out ({why_not})")
    else:
        peers[SPDL] = _threads(Spdl(items, size).__getitem__, session, workers, steps)

    def decode(i: int) -> Tensor:
        return decode_image(read_file(str(items[i].path)), ImageReadMode.RGB)

    sides = {
        "ours, streaming": loader_side(ours, session),
        "ours, cached": loader_side(make_loader(session, cache="host"), session),
        **peers,
        "decode only, torchvision, threads": _threads(decode, session, workers, steps),
    }
    samples = session.compare("peers", sides, PIL, warmup=2, workers=workers, left_out=left_out)
    best = samples.best_of(list(peers))
    session.display.say(f"best peer: {best}")
    session.ratios["streaming_over_dataloader_pil"] = samples.ratios("ours, streaming", PIL)
    session.ratios["streaming_over_best_peer"] = samples.ratios("ours, streaming", best)


def why_no_spdl(spdl: Spdl) -> str | None:
    """What keeps SPDL from working here; it is an optional group, and needs FFmpeg's libraries."""
    try:
        spdl[0]
    except ImportError:
        return "not installed: uv sync --group peers"
    except RuntimeError as error:
        return f"needs FFmpeg's shared libraries: {str(error)[:100]}"
    return None


def _workers(dataset: Items, session: Session, workers: int, steps: int) -> Side:
    """A DataLoader whose worker processes live on between rounds."""
    size = session.images // 2
    loader = DataLoader(
        dataset, size, num_workers=workers, persistent_workers=True, prefetch_factor=2
    )

    def side() -> Pass:
        batches = iter(loader)
        done = steady(batches, steps, session.images)
        for _ in batches:  # the workers finish before the next side's turn
            pass
        return done

    return side


def _threads(load: Callable[[int], Tensor], session: Session, threads: int, steps: int) -> Side:
    """A pool of threads that loads an epoch's items in order, one batch stacked after another."""
    size, num_batches = session.images // 2, LEAD + steps + TAIL

    def batches(pool: ThreadPoolExecutor) -> Iterator[list[Tensor]]:
        ahead = 3 * size  # as many as two batches ahead of the one being taken
        futures = deque(pool.submit(load, i) for i in range(ahead))
        for first in range(0, num_batches * size, size):
            new = range(first + ahead, min(first + ahead + size, num_batches * size))
            futures.extend(pool.submit(load, i) for i in new)
            yield [futures.popleft().result() for _ in range(size)]

    def side() -> Pass:
        with ThreadPoolExecutor(threads) as pool:
            done = steady(batches(pool), steps, session.images)
            pool.shutdown(cancel_futures=True)
        return done

    return side
