"""A GPU loader without DALI: torchvision decodes, resizes and makes pairs on the GPU.

Threads read files ahead. Another thread decodes whole batches with nvJPEG (on the JPEG engine, if
there is one) and queues the remaining work, a few batches ahead of the consumer.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as F

from bench.plan import Augmentation, Item

AHEAD = 3  # batches to prepare while another is in use

Streams = tuple[torch.cuda.Stream, torch.cuda.Stream]
Made = tuple[Tensor, torch.cuda.Event | None]


def batches(
    plan: Sequence[Sequence[Item]], size: tuple[int, int], device: torch.device, threads: int
) -> Generator[Tensor, None, None]:
    """Yields each planned batch, uint8 [n, 2, 3, H, W] on the device, for the current stream.

    `size` is (H, W) in pixels; `threads` read files. Also works on a CPU, for tests.
    """
    streams = None
    if device.type == "cuda":
        streams = (torch.cuda.Stream(device), torch.cuda.Stream(device))

    def make(files: list[Future[Tensor]], items: Sequence[Item]) -> Made:
        return _make([file.result() for file in files], items, size, device, streams)

    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(1) as maker:
        ahead: deque[Future[Made]] = deque()
        for items in plan:
            files = [readers.submit(read_file, str(item.path)) for item in items]
            ahead.append(maker.submit(make, files, items))
            if len(ahead) > AHEAD:
                yield _take(ahead.popleft())
        while ahead:
            yield _take(ahead.popleft())


def pair(images: Sequence[Tensor], items: Sequence[Item], size: tuple[int, int]) -> Tensor:
    """Makes pairs, uint8 [n, 2, 3, H, W], of images, uint8 [3, h, w] each, on their device.

    Images differ in size and are resized one by one; all other work is done on the batch.
    """
    device = images[0].device
    drawn = _to(device, [[item.flip, *item.weights] for item in items])
    flip, weights = drawn[..., None, None].split([1, 3], dim=1)
    resized = torch.stack([F.resize(image.float(), [*size], antialias=True) for image in images])
    resized.round_()
    originals = sources = torch.where(flip > 0, resized.flip(-1), resized)
    augmentations = [item.augmentation for item in items if item.augmentation]
    if augmentations:
        originals, sources = _augmented(originals, augmentations)
    gray = (sources * weights).sum(dim=1, keepdim=True).round_().clamp_(0, 255)
    return torch.stack([originals, gray.expand_as(originals)], dim=1).to(torch.uint8)


def _augmented(images: Tensor, augmentations: Sequence[Augmentation]) -> tuple[Tensor, Tensor]:
    """Returns augmented originals and sources of counterparts, each [n, 3, H, W].

    Runs a few kernels for the whole batch instead of some per image.
    """
    n, _, height, width = images.shape
    channels = [range(3) if a.channel is None else [a.channel] * 3 for a in augmentations]
    rows = [
        [*a.crop, *a.box, *a.fill, *shown] for a, shown in zip(augmentations, channels, strict=True)
    ]
    drawn = _to(images.device, rows)
    crop, anchor, shape, fill, shown = drawn.split([2, 2, 2, 3, 3], dim=1)
    y, x = (torch.arange(size, device=images.device) for size in (height, width))
    margin = max(max(map(abs, a.crop)) for a in augmentations)
    crop_y, crop_x = (y + crop[:, :1] + margin).long(), (x + crop[:, 1:] + margin).long()
    batch = torch.arange(n, device=images.device)[:, None, None]
    padded = F.pad(images, [margin]).permute(0, 2, 3, 1)
    images = padded[batch, crop_y[:, :, None], crop_x[:, None]].permute(0, 3, 1, 2)
    in_y, in_x = (
        (position >= anchor[:, i : i + 1]) & (position < anchor[:, i : i + 1] + shape[:, i : i + 1])
        for i, position in enumerate((y, x))
    )
    erased = in_y[:, None, :, None] & in_x[:, None, None]
    images = torch.where(erased, fill[..., None, None], images)
    return images[batch[..., 0], shown.long()], images


def _to(device: torch.device, rows: Sequence[Sequence[float]]) -> Tensor:
    """Copies rows to a float32 tensor on the device without making the host wait."""
    host = torch.from_numpy(np.array(rows, np.float32))
    host = host.pin_memory() if device.type == "cuda" else host
    return host.to(device, non_blocking=True)


def why_not(items: Sequence[Item], device: torch.device) -> str | None:
    """Returns why torchvision cannot decode these files on the device, or None."""
    if device.type != "cuda":
        return "needs a GPU"
    try:
        _decode([read_file(str(item.path)) for item in items], device)
    except (RuntimeError, AttributeError) as error:  # built without nvJPEG, or not JPEG files
        return " ".join(str(error).split())[:200]
    return None


def _decode(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decodes JPEG files, also gray ones, to uint8 [3, h, w]; waits until they are ready."""
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def _make(
    encoded: list[Tensor],
    items: Sequence[Item],
    size: tuple[int, int],
    device: torch.device,
    streams: Streams | None,
) -> Made:
    """Returns a batch's pairs and the event after which they are complete (None: now).

    The decoder writes without waiting for the current stream, which may still read the same memory
    (pytorch/vision#9606). So images are allocated on a stream that nothing else uses, and torch's
    allocator reuses their memory only after the other stream has finished with it.
    """
    if streams is None:
        return pair(_decode(encoded, device), items, size), None
    decoding, pairing = streams
    with torch.cuda.stream(decoding):
        images = _decode(encoded, device)
    pairing.wait_stream(decoding)
    with torch.cuda.stream(pairing):
        for image in images:
            image.record_stream(pairing)
        return pair(images, items, size), pairing.record_event()


def _take(future: Future[Made]) -> Tensor:
    """Returns a batch that the current stream may read; its memory is kept until it has."""
    pairs, event = future.result()
    if event is not None:
        stream = torch.cuda.current_stream(pairs.device)
        stream.wait_event(event)
        pairs.record_stream(stream)
    return pairs
