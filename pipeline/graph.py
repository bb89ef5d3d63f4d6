"""The DALI graphs. On a GPU and without one they are the same; only the decoder's device differs.

Training: encoded bytes → decode → resize → one flip for the pair → counterpart → stack. The
counterpart is one operator for every case: a 1x3 row w applied to each pixel, then triplicated
(Eq. 1 and Fig. 5c). w is a spectrum's row, or, for an infrared original, luma times its brightness.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from nvidia.dali import Pipeline, fn, types

from pipeline.options import CacheName, DataOptions
from pipeline.spectrum import LUMA, ROWS

# Preallocation hints for the GPU decoder: buffers only grow, and growing one stalls the device.
MAX_CROP_PX = (640, 320)


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
) -> Pipeline:
    """Builds the pipeline whose outputs are one `PairedBatch`.

    With a cache its first input is pixels that were decoded and resized before. Outputs: images
    uint8 [n, 2, H, W, 3], labels int64 [n], modality uint8 [n], spectrum int8 [n], all on the GPU
    `device_id`, or on the CPU when that is None.
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
        if cache == "none":
            paths = fn.external_source(source=source.images, dtype=types.UINT8, ndim=1)
            resized = _decode_and_resize(paths, options, device_id)
        else:
            resized = fn.external_source(
                source=source.images,
                dtype=types.UINT8,
                ndim=3,
                layout="HWC",
                device="gpu" if cache == "gpu" else "cpu",
            )
            if device_id is not None and cache == "host":
                resized = resized.gpu()
        image = fn.flip(resized, horizontal=flip)
        drawn = _invert_cumulative_sum(probability, uniform)
        jittered_luma = types.Constant(np.array(LUMA, np.float32)) * brightness
        row = _blend(infrared, jittered_luma, types.Constant(ROWS)[drawn])
        one_channel = fn.coord_transform(image, M=fn.reshape(row, shape=[1, 3]), dtype=types.UINT8)
        counterpart = fn.color_space_conversion(
            one_channel, image_type=types.GRAY, output_type=types.RGB
        )
        pair = fn.stack(image, counterpart, axis=0)
        code = fn.cast(_blend(infrared, -1, drawn), dtype=types.INT8)
        about = (label, infrared, code)
        if device_id is not None:
            about = tuple(node.gpu() for node in about)
        pipeline.set_outputs(pair, *about)
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
        pipeline.set_outputs(_decode_and_resize(paths, options, device_id))
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


def _decode_and_resize(paths: Any, options: DataOptions, device_id: int | None) -> Any:
    encoded = fn.io.file.read(paths)
    if device_id is None:
        image = fn.decoders.image(
            encoded, device="cpu", output_type=types.RGB, adjust_orientation=False
        )
    else:
        height, width = MAX_CROP_PX
        image = fn.decoders.image(
            encoded,
            device="mixed",
            output_type=types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,  # the CPU decoder's chroma upsampling
            hw_decoder_load=options.hw_decoder_load,
            preallocate_height_hint=height,
            preallocate_width_hint=width,
        )
    return fn.resize(image, resize_y=options.height_px, resize_x=options.width_px)


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
