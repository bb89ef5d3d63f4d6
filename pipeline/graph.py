"""The DALI graphs. On a GPU and without one they are the same; only the decoder's device differs.

Training: encoded bytes → decode → resize → one flip for the pair → counterpart → stack. The
counterpart is one operator for every case: a 1x3 row w applied to each pixel, then triplicated
(Eq. 1 and Fig. 5c). w is a spectrum's row, or, for an infrared original, luma times its brightness.
Without spectra an original stands alone.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from nvidia.dali import Pipeline, fn, types
from nvidia.dali import math as dali_math

from pipeline import spectrum
from pipeline.options import CacheName, DataOptions, num_views

Stage = Literal["read", "decode", "resize", "flip", "counterpart", "stack"]

# Preallocation hints for the GPU decoder: buffers only grow, and growing one stalls the device.
MAX_CROP_PX = (640, 320)

DRAWS = {  # what `PairSource.draws` returns: type, dimensions of a sample
    "probability": (types.FLOAT, 1),
    "uniform": (types.FLOAT, 0),
    "flip": (types.INT32, 0),
    "brightness": (types.FLOAT, 0),
    "infrared": (types.UINT8, 0),
    "label": (types.INT64, 0),
}
ALWAYS_DRAWN = ("flip", "infrared", "label")  # also without a counterpart

WORDS = ((types.INT64, 8), (types.INT32, 4), (types.INT16, 2), (types.UINT8, 1))  # type, bytes


@runtime_checkable
class PairSource(Protocol):
    """What a training graph asks of its source, a batch a call."""

    def images(self) -> Any:
        """Paths as uint8 characters, images' bytes, or the cache's pixels, uint8 [n, H, W, 3]."""

    def draws(self) -> Any:
        """(probability, uniform, flip, brightness, infrared, label).

        `probability` is P̂, and `brightness` 1, but for infrared originals: those have no
        spectrum, so their P̂ is 0.
        """


def training_graph(
    source: PairSource,
    options: DataOptions,
    device_id: int | None,
    threads: int,
    cache: CacheName = "none",
    last: Stage = "stack",
    leave_out: Stage | None = None,
    packed: bool = False,
    pixel_stream: Any = None,
) -> Pipeline:
    """Builds the pipeline whose outputs are one `PairedBatch`.

    Its first input is paths; of a packed data set the files' bytes; with a cache pixels that were
    decoded and resized before. Outputs: images
    uint8 [n, views, H, W, 3], labels int64 [n], modality uint8 [n], spectrum int8 [n], all on the
    GPU `device_id`, or on the CPU when that is None. `pixel_stream` is the CUDA stream on which the
    cache on the GPU makes its pixels; they are read, and their memory is reused, in its order.

    To measure, it can be cut off after the stage `last`, or `leave_out` flip, counterpart
    or stack; what comes first of the outputs is then whatever that stage makes.
    """
    pipeline = _pipeline(options.p * options.k, options, device_id, threads)
    with pipeline:
        drawn = _draws(source, options)
        flip, infrared, label = (drawn[name] for name in ALWAYS_DRAWN)
        node: dict[Stage, Any] = {}
        if cache == "none":
            files = fn.external_source(source=source.images, dtype=types.UINT8, ndim=1)
            node["read"] = files if packed else _read(files)
            node["decode"] = _decode(node["read"], options, device_id)
            image = _resize(node["decode"], options)
        else:
            image = fn.external_source(
                source=source.images,
                dtype=types.UINT8,
                ndim=3,
                layout="HWC",
                device="gpu" if cache == "gpu" else "cpu",
                cuda_stream=pixel_stream if cache == "gpu" else None,
            )
            if device_id is not None and cache == "host":
                image = image.gpu()
        node["resize"] = image
        if leave_out != "flip":
            image = fn.flip(image, horizontal=flip)
        node["flip"] = image
        node["counterpart"] = image
        if num_views(options) == 2:
            place = _choose_spectrum(drawn, len(options.spectra))
            code = _table([*range(len(options.spectra)), spectrum.INFRARED], np.int8)[place]
            if leave_out != "counterpart":
                node["counterpart"] = _counterpart(image, drawn, place, options, device_id)
        else:  # no counterpart, no spectrum
            code = _table([spectrum.INFRARED] * 2, np.int8)[infrared]
        node["stack"] = node["counterpart"]
        if leave_out != "stack":
            node["stack"] = _stack(image, node["counterpart"], options)
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
    packed: bool = False,
) -> Pipeline:
    """Builds the pipeline whose output is uint8 [n, H, W, 3]: decoded and resized, nothing else.

    Its input is paths, or, of a packed data set, the files' bytes.
    """
    pipeline = _pipeline(batch_size, options, device_id, threads)
    with pipeline:
        (files,) = fn.external_source(source=source, num_outputs=1, dtype=types.UINT8, ndim=1)
        image = _decode(files if packed else _read(files), options, device_id)
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


def _draws(source: PairSource, options: DataOptions) -> dict[str, Any]:
    """A batch's draws by name; not those that nothing uses, which DALI warns of."""
    names = list(ALWAYS_DRAWN)
    names += ["probability", "uniform", "brightness"] * (num_views(options) == 2)
    places = [list(DRAWS).index(name) for name in names]

    def feed() -> tuple[Any, ...]:
        drawn = source.draws()
        return tuple(drawn[i] for i in places)

    dtypes, ndims = zip(*(DRAWS[name] for name in names), strict=True)
    outputs = fn.external_source(source=feed, num_outputs=len(names), dtype=dtypes, ndim=ndims)
    return dict(zip(names, outputs, strict=True))


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
        affine=False,  # several graphs' threads on the same few cores would wait for each other
        preallocate_height_hint=height,
        preallocate_width_hint=width,
    )


def _resize(image: Any, options: DataOptions) -> Any:
    return fn.resize(image, resize_y=options.height_px, resize_x=options.width_px)


def _counterpart(
    image: Any, drawn: dict[str, Any], place: Any, options: DataOptions, device_id: int | None
) -> Any:
    """The one channel row · pixel + offset, three times; infrared's is the last of each table.

    Tables and not arithmetic: each operator on scalars costs 0.1 ms a batch (64 originals).
    """
    spectra = [spectrum.SPECTRA[name] for name in options.spectra]
    rows = [[s.row] for s in spectra] + [[spectrum.LUMA]]
    row = _table(rows, np.float32)[place] * drawn["brightness"]
    offset = {}
    if any(s.offset for s in spectra):
        offset["T"] = _table([[s.offset] for s in spectra] + [[0]], np.float32)[place]
    if any(s.space == "hsv" for s in spectra):
        take_hsv = _table([s.space == "hsv" for s in spectra] + [False], np.uint8)[place]
        if device_id is not None:
            take_hsv = take_hsv.gpu()
        image = fn.cast(_blend(take_hsv, _hsv(image), image), dtype=types.UINT8)
    one_channel = fn.coord_transform(image, M=row, **offset, dtype=types.UINT8)
    return fn.color_space_conversion(one_channel, image_type=types.GRAY, output_type=types.RGB)


def _choose_spectrum(drawn: dict[str, Any], num_spectra: int) -> Any:
    """int32: how many of P̂'s running sums `uniform` has reached; if P̂ is 0, all."""
    sums = fn.reductions.sum(_table(np.tri(num_spectra), np.float32) * drawn["probability"], axes=1)
    return fn.reductions.sum(fn.cast(drawn["uniform"] >= sums, dtype=types.INT32))


def _table(values: Any, dtype: Any) -> Any:
    """What a place of `_choose_spectrum` looks up."""
    return types.Constant(np.array(values, dtype))


def _hsv(image: Any) -> Any:
    """Hue (256 to a turn), saturation and value of each pixel, uint8 [H, W, 3]."""
    red, green, blue = (image[:, :, c : c + 1] for c in range(3))
    value = fn.reductions.max(image, axes=2, keep_dims=True)
    low = fn.reductions.min(image, axes=2, keep_dims=True)
    chroma = fn.cast(value - low, dtype=types.FLOAT)
    r, g, b = (fn.cast(c, dtype=types.FLOAT) for c in (red, green, blue))
    step = dali_math.max(chroma, np.float32(1))
    sixth = _blend(
        red == value,
        (g - b) / step,
        _blend(green == value, (b - r) / step + 2, (r - g) / step + 4),
    )
    hue = (sixth + 6 * (sixth < 0)) * np.float32(256 / 6)
    saturation = 255 * chroma / dali_math.max(fn.cast(value, dtype=types.FLOAT), np.float32(1))
    planes = [fn.cast(x, dtype=types.UINT8) for x in (hue, saturation, value)]
    return fn.cat(*planes, axis=2)


def _stack(image: Any, counterpart: Any, options: DataOptions) -> Any:
    """The pair, uint8 [2, H, W, 3]; copied 8 bytes at a time, which a stack of uint8 is not."""
    shape = (options.height_px, options.width_px, 3)
    if num_views(options) == 1:
        return fn.reshape(image, shape=[1, *shape], layout="")
    size = math.prod(shape)
    word, width = next((t, n) for t, n in WORDS if size % n == 0)
    words = [fn.reinterpret(x, dtype=word, shape=[size // width]) for x in (image, counterpart)]
    return fn.reinterpret(fn.stack(*words), dtype=types.UINT8, shape=[2, *shape])


def _blend(condition: Any, if_one: Any, if_zero: Any) -> Any:
    """`if_one` where the 0/1 `condition` is 1, else `if_zero`; cheaper than splitting the batch."""
    return condition * if_one + (1 - condition) * if_zero
