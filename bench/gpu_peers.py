"""The loader a GPU user would write without DALI: torchvision decodes, resizes, pairs on the GPU.

Threads read files ahead. One more thread has nvJPEG decode a batch at once (on the JPEG engine,
where there is one) and queues the rest of the work, a few batches ahead of whoever takes them.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as F

from bench.plan import Item

AHEAD = 3  # batches being read or made while another is in use

Streams = tuple[torch.cuda.Stream, torch.cuda.Stream]
Made = tuple[Tensor, torch.cuda.Event | None]


def batches(
    plan: Sequence[Sequence[Item]], size: tuple[int, int], device: torch.device, threads: int
) -> Generator[Tensor, None, None]:
    """Yields each planned batch, uint8 [n, 2, 3, H, W] on the device, for the current stream.

    `size` is (H, W) in pixels; `threads` read files. It works on a CPU too, for tests.
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
    """uint8 [n, 2, 3, H, W]: images, uint8 [3, h, w] each, and counterparts, on their device.

    The images differ in size, so each is resized by itself; the rest is done to all at once.
    """
    device = images[0].device
    drawn = np.stack([[item.flip, *item.weights] for item in items])
    host = torch.from_numpy(drawn.astype(np.float32))[..., None, None]
    host = host.pin_memory() if device.type == "cuda" else host
    flip, weights = host.to(device, non_blocking=True).split([1, 3], dim=1)
    resized = torch.stack([F.resize(image.float(), [*size], antialias=True) for image in images])
    resized.round_()
    originals = torch.where(flip > 0, resized.flip(-1), resized)
    gray = (originals * weights).sum(dim=1, keepdim=True).round_().clamp_(0, 255)
    return torch.stack([originals, gray.expand_as(originals)], dim=1).to(torch.uint8)


def why_not(items: Sequence[Item], device: torch.device) -> str | None:
    """What keeps torchvision from decoding these files on the device."""
    if device.type != "cuda":
        return "needs a GPU"
    try:
        _decode([read_file(str(item.path)) for item in items], device)
    except (RuntimeError, AttributeError) as error:  # built without nvJPEG, or no JPEG files
        return " ".join(str(error).split())[:200]
    return None


def _decode(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    """uint8 [3, h, w] of each JPEG file, of gray ones too; waits until they are there."""
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def _make(
    encoded: list[Tensor],
    items: Sequence[Item],
    size: tuple[int, int],
    device: torch.device,
    streams: Streams | None,
) -> Made:
    """The pairs of a batch, and the event behind which they are whole (None: now).

    The decoder writes at once, whatever the stream that is current still reads from the memory it
    was given (pytorch/vision#9606). So images are allocated on a stream that nothing else uses, and
    torch's allocator hands their memory out again when the other stream has passed.
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


def _take(made: Future[Made]) -> Tensor:
    """A batch that the current stream may read, and whose memory waits for that stream."""
    pairs, event = made.result()
    if event is not None:
        stream = torch.cuda.current_stream(pairs.device)
        stream.wait_event(event)
        pairs.record_stream(stream)
    return pairs
