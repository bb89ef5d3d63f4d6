"""The DALI graphs. On a GPU and without one they are the same; only the decoder's device differs.

Training: encoded bytes → decode → resize → one flip for the pair → counterpart → stack. The
counterpart is one operator for every case: a 1x3 row w applied to each pixel, then triplicated
(Eq. 1 and Fig. 5c). w is a spectrum's row, or, for an infrared original, luma times its brightness.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from nvidia.dali import Pipeline, fn, types

from pipeline.options import CacheName, DataOptions
from pipeline.spectrum import LUMA, ROWS

Stage = Literal["read", "decode", "resize", "flip", "counterpart", "stack"]

# Preallocation hints for the GPU decoder: buffers only grow, and growing one stalls the device.
MAX_CROP_PX = (640, 320)

WORDS = ((types.INT64, 8), (types.INT32, 4), (types.INT16, 2), (types.UINT8, 1))  # type, bytes


@runtime_checkable
class PairSource(Protocol):
    """What a training graph asks of its source, a batch a call."""

    def images(self) -> Any:
        """Paths as uint8 characters, or the cache's pixels, uint8 [n, H, W, 3]."""

    def draws(self) -> Any:
        """(P̂, uniform, flip, brightness, infrared, label)."""


def training_graph(
    source: PairSource,
    options: DataOptions,
    device_id: int | None,
    threads: int,
    cache: CacheName = "none",
    last: Stage = "stack",
    leave_out: Stage | None = None,
) -> Pipeline:
    """Builds the pipeline whose outputs are one `PairedBatch`.

    With a cache its first input is pixels that were decoded and resized before. Outputs: images
    uint8 [n, 2, H, W, 3], labels int64 [n], modality uint8 [n], spectrum int8 [n], all on the GPU
    `device_id`, or on the CPU when that is None.

    To measure, it can be cut off after the stage `last`, or `leave_out` flip, counterpart
    or stack; what comes first of the outputs is then whatever that stage makes.
    """
    pipeline = _pipeline(options.p * options.k, options, device_id, threads)
    with pipeline:
        # fmt: off
        probability, uniform, flip, brightness, infrared, label = fn.external_source(
            source=source.draws,
            num_outputs=6,
            dtype=[types.FLOAT, types.FLOAT, types.INT32, types.FLOAT, types.UINT8, types.INT64],
            ndim=[1, 0, 0, 0, 0, 0],
        )
        # fmt: on
        node: dict[Stage, Any] = {}
        if cache == "none":
            paths = fn.external_source(source=source.images, dtype=types.UINT8, ndim=1)
            node["read"] = _read(paths)
            node["decode"] = _decode(node["read"], options, device_id)
            image = _resize(node["decode"], options)
        else:
            image = fn.external_source(
                source=source.images,
                dtype=types.UINT8,
                ndim=3,
                layout="HWC",
                device="gpu" if cache == "gpu" else "cpu",
            )
            if device_id is not None and cache == "host":
                image = image.gpu()
        node["resize"] = image
        if leave_out != "flip":
            image = fn.flip(image, horizontal=flip)
        node["flip"] = image
        drawn = _invert_cumulative_sum(probability, uniform)
        jittered_luma = types.Constant(np.array(LUMA, np.float32)) * brightness
        row = _blend(infrared, jittered_luma, types.Constant(ROWS)[drawn])
        counterpart = image if leave_out == "counterpart" else _in_one_spectrum(image, row)
        node["counterpart"] = counterpart
        node["stack"] = counterpart
        if leave_out != "stack":
            node["stack"] = _stack(image, counterpart, options)
        code = fn.cast(_blend(infrared, -1, drawn), dtype=types.INT8)
        about = (label, infrared, code)
        if device_id is not None:
            about = tuple(node.gpu() for node in about)
        pipeline.set_outputs(node[last], *about)
    pipeline.build()
    return pipeline


def evaluation_graph(
    source: Callable[[], Any],
    options: DataOptions,
    device_id: int | None,
    threads: int,
    batch_size: int,
) -> Pipeline:
    """Builds the pipeline whose output is uint8 [n, H, W, 3]: decoded and resized, nothing else."""
    pipeline = _pipeline(batch_size, options, device_id, threads)
    with pipeline:
        (paths,) = fn.external_source(source=source, num_outputs=1, dtype=types.UINT8, ndim=1)
        image = _decode(_read(paths), options, device_id)
        pipeline.set_outputs(_resize(image, options))
    pipeline.build()
    return pipeline


def _pipeline(
    batch_size: int, options: DataOptions, device_id: int | None, threads: int
) -> Pipeline:
    return Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=options.prefetch,
        exec_dynamic=True,
    )


def _read(paths: Any) -> Any:
    # Mapping a file of 15 KB into memory and out again costs more than a copy of it.
    return fn.io.file.read(paths, dont_use_mmap=True)


def _decode(encoded: Any, options: DataOptions, device_id: int | None) -> Any:
    if device_id is None:
        return fn.decoders.image(
            encoded, device="cpu", output_type=types.RGB, adjust_orientation=False
        )
    height, width = MAX_CROP_PX
    return fn.decoders.image(
        encoded,
        device="mixed",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # the CPU decoder's chroma upsampling
        hw_decoder_load=options.hw_decoder_load,
        preallocate_height_hint=height,
        preallocate_width_hint=width,
    )


def _resize(image: Any, options: DataOptions) -> Any:
    return fn.resize(image, resize_y=options.height_px, resize_x=options.width_px)


def _in_one_spectrum(image: Any, row: Any) -> Any:
    """The one channel row · (R, G, B) of each pixel, three times."""
    one_channel = fn.coord_transform(image, M=fn.reshape(row, shape=[1, 3]), dtype=types.UINT8)
    return fn.color_space_conversion(one_channel, image_type=types.GRAY, output_type=types.RGB)


def _stack(image: Any, counterpart: Any, options: DataOptions) -> Any:
    """The pair, uint8 [2, H, W, 3]; copied 8 bytes at a time, which a stack of uint8 is not."""
    shape = (options.height_px, options.width_px, 3)
    size = math.prod(shape)
    word, width = next((t, n) for t, n in WORDS if size % n == 0)
    words = [fn.reinterpret(x, dtype=word, shape=[size // width]) for x in (image, counterpart)]
    return fn.reinterpret(fn.stack(*words), dtype=types.UINT8, shape=[2, *shape])


def _invert_cumulative_sum(probability: Any, uniform: Any) -> Any:
    """int32: how many of P̂'s cumulative sums (the last, 1, left out) `uniform` has reached."""
    drawn: Any = 0
    threshold: Any = np.float32(0)
    for i in range(len(ROWS) - 1):
        threshold = threshold + probability[i]
        drawn = drawn + fn.cast(uniform >= threshold, dtype=types.INT32)
    return drawn


def _blend(condition: Any, if_one: Any, if_zero: Any) -> Any:
    """`if_one` where the 0/1 `condition` is 1, else `if_zero`; cheaper than splitting the batch."""
    return condition * if_one + (1 - condition) * if_zero
