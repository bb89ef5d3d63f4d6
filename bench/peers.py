"""`cdp bench peers`: the same paired batches by what teams use today, against our loader.

Each peer gets the same epoch plan and draws, decodes, resizes, flips, makes the counterpart and
stacks. Their resize differs from ours in the last digits, which no one would notice. Where there is
a GPU every batch ends in its memory, as ours do.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from bench import gpu_peers
from bench.loader import loader_side, make_loader
from bench.measure import LEAD, TAIL, Pass, Side, steady
from bench.plan import AUGMENTED, Item, plan
from bench.session import Session
from pipeline.options import AugmentationOptions, num_threads

PIL = "DataLoader, PIL, float32"
TORCHVISION = "DataLoader, torchvision, uint8"
SPDL = "SPDL, threads, uint8"
ON_THE_GPU = "torchvision on the GPU, uint8"
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


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
        if item.augmentation:
            y, x = item.augmentation.crop
            image = image.crop((x, y, x + width, y + height))  # black outside, as Pad would make it
        pair = _pair(np.asarray(image), item)
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
        # Decoded images are channels-last; the counterpart's sum over channels takes twice as long
        # on those, which would make this peer slower than a careful user's.
        original = image = image.contiguous()
        if of := item.augmentation:
            image = v2.functional.crop(image, *of.crop, *self.size)  # pads with black
            if of.box[2]:
                fill = torch.tensor(of.fill, dtype=torch.uint8)[:, None, None]
                image = v2.functional.erase(image, *of.box, fill)
            original = image
            if of.channel is not None:
                original = image[of.channel].expand(3, -1, -1)
        weights = torch.from_numpy(item.weights)[:, None, None]
        one = (image * weights).sum(dim=0, keepdim=True).round_().clamp_(0, 255)
        return torch.stack([original, one.to(torch.uint8).expand(3, -1, -1)])


class Spdl(Items):
    """SPDL: FFmpeg decodes and resizes, in threads of one process: uint8 [2, H, W, 3]."""

    def __getitem__(self, i: int) -> Tensor:
        import spdl.io

        item, (height, width) = self.items[i], self.size
        filters = f"scale=w={width}:h={height}:flags=bilinear,format=pix_fmts=rgb24"
        image = spdl.io.to_numpy(spdl.io.load_image(str(item.path), filter_desc=filters))
        image = image[:, ::-1] if item.flip else image
        if item.augmentation:
            image = _cropped(image, *item.augmentation.crop)
        return torch.from_numpy(_pair(image, item))


def _cropped(pixels: np.ndarray, y: int, x: int) -> np.ndarray:
    """The window of the same size with its top left corner at (y, x), black outside the image."""
    height, width, _ = pixels.shape
    window = np.zeros_like(pixels)
    inside = pixels[max(y, 0) : height + y, max(x, 0) : width + x]
    top, left = max(-y, 0), max(-x, 0)
    window[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return window


def _pair(pixels: np.ndarray, item: Item) -> np.ndarray:
    """uint8 [2, H, W, 3]: the cropped pixels, erased and recolored, and their counterpart."""
    of, channel = item.augmentation, None
    if of:
        top, left, height, width = of.box
        channel = of.channel
        if height:
            pixels = pixels.copy()
            pixels[top : top + height, left : left + width] = of.fill
    one = np.clip(np.rint(pixels @ item.weights), 0, 255).astype(np.uint8)
    original = pixels if channel is None else np.repeat(pixels[..., [channel]], 3, axis=2)
    return np.stack([original, np.repeat(one[..., None], 3, axis=2)])


def bench_peers(session: Session) -> None:
    """Our streaming loader, the peers with a worker a core, and raw decoding in threads."""
    _compare(session, "peers", "")


def bench_augmented(session: Session) -> None:
    """The same with a padded crop, erasing and channel augmentation, on all sides."""
    _compare(session, "augmented", "_augmented", AUGMENTED)


def _compare(
    session: Session, title: str, suffix: str, augmentation: AugmentationOptions | None = None
) -> None:
    data = session.config.data
    ours = make_loader(session, augmentation, cache="none")
    steps = session.loader_steps(ours)
    batches = plan(session.index, data, LEAD + steps + TAIL, augmentation)
    items = [item for batch in batches for item in batch]
    size, workers = (data.height_px, data.width_px), num_threads(data)
    peers = {
        PIL: _workers(PilFloat(items, size), session, workers, steps),
        TORCHVISION: _workers(TorchvisionUint8(items, size), session, workers, steps),
    }
    why_not = {
        SPDL: why_no_spdl(Spdl(items, size)),
        ON_THE_GPU: gpu_peers.why_not(batches[0], session.device),
    }
    left_out = {name: why for name, why in why_not.items() if why}
    for name, why in left_out.items():
        session.display.say(f"peers: {name} left out ({why})")
    if SPDL not in left_out:
        load = Spdl(items, size).__getitem__
        peers[SPDL] = _threads(load, session, workers, steps, partial(_stacked, session.device))
    if ON_THE_GPU not in left_out:
        peers[ON_THE_GPU] = _on_the_gpu(batches, size, session, workers, steps)

    def decode(i: int) -> Tensor:
        return decode_image(read_file(str(items[i].path)), ImageReadMode.RGB)

    sides = {
        "ours, streaming": loader_side(ours, session),
        "ours, cached": loader_side(make_loader(session, augmentation, cache="host"), session),
        **peers,
        "decode only, torchvision, threads": _threads(decode, session, workers, steps, len),
    }
    samples = session.compare(title, sides, PIL, warmup=2, workers=workers, left_out=left_out)
    best = samples.best_of(list(peers))
    session.display.say(f"best peer: {best}")
    session.ratios[f"streaming_over_dataloader_pil{suffix}"] = samples.ratios(
        "ours, streaming", PIL
    )
    session.ratios[f"streaming_over_best_peer{suffix}"] = samples.ratios("ours, streaming", best)


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
    loader = DataLoader(
        dataset,
        session.images // 2,
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=2,
        pin_memory=session.device.type == "cuda",
    )

    def side() -> Pass:
        batches = iter(loader)
        to_device = (batch.to(session.device, non_blocking=True) for batch in batches)
        done = steady(to_device, steps, session.images)
        for _ in batches:  # the workers finish before the next side's turn
            pass
        return done

    return side


def _threads(
    load: Callable[[int], Tensor],
    session: Session,
    threads: int,
    steps: int,
    use: Callable[[list[Tensor]], object],
) -> Side:
    """A pool of threads that loads an epoch's items in order; `use` is given a batch of them."""
    size, num_batches = session.images // 2, LEAD + steps + TAIL

    def batches(pool: ThreadPoolExecutor) -> Iterator[object]:
        ahead = 3 * size  # as many as two batches ahead of the one being taken
        futures = deque(pool.submit(load, i) for i in range(ahead))
        for first in range(0, num_batches * size, size):
            new = range(first + ahead, min(first + ahead + size, num_batches * size))
            futures.extend(pool.submit(load, i) for i in new)
            yield use([futures.popleft().result() for _ in range(size)])

    def side() -> Pass:
        with ThreadPoolExecutor(threads) as pool:
            done = steady(batches(pool), steps, session.images)
            pool.shutdown(cancel_futures=True)
        return done

    return side


def _stacked(device: torch.device, pairs: list[Tensor]) -> Tensor:
    """One tensor of them, on the device."""
    batch = torch.stack(pairs)
    if device.type == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


def _on_the_gpu(
    plan: list[list[Item]], size: tuple[int, int], session: Session, threads: int, steps: int
) -> Side:
    """torchvision's nvJPEG decoder and resize, with as many threads that read files."""

    def side() -> Pass:
        batches = gpu_peers.batches(plan, size, session.device, threads)
        try:
            return steady(batches, steps, session.images)
        finally:
            batches.close()

    return side
