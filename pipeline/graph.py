"""The DALI graphs, which are the same on a GPU and a CPU except for two operators.

Training: encoded bytes → decode → resize → one flip for the pair → counterpart → stack. The
counterpart is one operator for every case: a row w applied to each pixel, and triplicated (Eq. 1
and Fig. 5c). w is a spectrum's row, or, for an infrared original, luma times its brightness.
Without spectra there are no counterparts. The two differences: a GPU decodes with `mixed`, and
makes the three channels in one launch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy import ndarray
from nvidia.dali import Pipeline, fn, types
from nvidia.dali import math as dali_math
from nvidia.dali.data_node import DataNode

from pipeline import spectrum
from pipeline.counterpart import feeding
from pipeline.draws import Draw, Host, Originals
from pipeline.errors import InputError
from pipeline.options import CacheName, DataOptions, image_size, num_views

Augment = Callable[[Any, "Ask"], Any]  # changes an image node
Stage = Literal["read", "decode", "resize", "flip", "counterpart", "stack"]

# Preallocation hints for the GPU decoder: buffers only grow, and growing one stalls the device.
MAX_CROP_PX = (640, 320)

WORDS = ((types.INT64, 8), (types.INT32, 4), (types.INT16, 2), (types.UINT8, 1))  # type, bytes


@runtime_checkable
class PairSource(Protocol):
    """What a training graph needs from its source, one batch per call."""

    def images(self) -> Any:
        """Returns paths as uint8 characters, encoded images, or pixels, uint8 [n, H, W, 3]."""

    def feed(self, draw: Draw) -> Callable[[], tuple[ndarray, ...]]:
        """Returns the callback that gives a draw's arrays, whose first axis is the n originals."""


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
    augment: Augment | None = None,
) -> Pipeline:
    """Builds the pipeline whose outputs are one `PairedBatch`.

    Its first input is paths, encoded images if `packed`, or, with a cache, decoded and resized
    pixels. Outputs: images uint8 [n, views, H, W, 3], labels int64 [n], modality uint8 [n],
    spectrum int8 [n], on the GPU `device_id` or, if that is None, on the CPU; and P̂ float32
    [n, spectra], if there are spectra, always on the CPU. `pixel_stream` is the CUDA stream on
    which a GPU cache makes its pixels; it also orders reading them and reusing their memory.
    `augment(image, draw)` changes the flipped image; it may return two images, the original and
    the one to make its counterpart from.

    For measurements, the graph can end after the stage `last`, whose result is then the first
    output, or `leave_out` flip, counterpart or stack.
    """
    pipeline = _pipeline(options.p * options.k, options, device_id, threads)
    with pipeline:
        # The GPU makes three equal channels in one launch; for a CPU that is three times the work.
        channels = 1 if device_id is None else 3
        pair_inputs = _draw_inputs(source, options, "pair", 3, feeding(options, channels))
        info = _draw_inputs(source, options, "about", 0, _batch_info)
        node: dict[Stage, Any] = {}
        if cache == "none":
            files = fn.external_source(source=source.images, dtype=types.UINT8, ndim=1)
            node["read"] = files if packed else _read(files)
            node["decode"] = _decode(node["read"], options, device_id)
            image = _resize(node["decode"], options)
        else:
            image = _cached(source, cache, device_id, pixel_stream)
        node["resize"] = image
        if leave_out != "flip":
            image = _flip(image, pair_inputs["flip"])
        node["flip"] = other = image
        if augment:
            augmented = augment(image, Ask(source, options))
            image, other = augmented if isinstance(augmented, tuple) else (augmented, augmented)
            if not all(isinstance(node, DataNode) for node in (image, other)):
                raise InputError(
                    f"the method's augment() returned {augmented!r}; return one image or two"
                )
        node["counterpart"] = other
        if num_views(options) == 2 and leave_out != "counterpart":
            node["counterpart"] = _counterpart(other, pair_inputs, device_id)
        node["stack"] = node["counterpart"]
        if leave_out != "stack":
            node["stack"] = _stack(image, node["counterpart"], options)
        p_hat = [info.pop("p_hat")] if options.spectra else []
        labels = [info["label"], info["infrared"], pair_inputs["code"]]
        if device_id is not None:
            labels = [label.gpu() for label in labels]
        pipeline.set_outputs(node[last], *labels, *p_hat)
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

    Its input is paths, or encoded images if `packed`.
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


def _draw_inputs(
    source: PairSource, options: DataOptions, name: str, count: int, host: Host
) -> dict[str, Any]:
    """Returns a graph input for each array that `host` makes from `count` uniforms per original."""
    p_hat = spectrum.uniform(options.spectra).astype(np.float32)
    example = host(
        np.zeros((1, count), np.float32), Originals(np.zeros(1, bool), np.zeros(1, np.int64), p_hat)
    )
    inputs = fn.external_source(
        source=source.feed(Draw(name, count, host)),
        num_outputs=len(example),
        dtype=[types.to_dali_type(array.dtype) for array in example.values()],
        ndim=[array.ndim - 1 for array in example.values()],
    )
    return dict(zip(example, inputs, strict=True))


@dataclass(frozen=True, slots=True)
class Ask:
    """Gives an augmentation random numbers by name, and what it may know about the batch."""

    source: PairSource
    options: DataOptions
    names: set[str] = field(default_factory=set)  # of the draws that were asked for

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        return image_size(self.options)

    @property
    def has_counterparts(self) -> bool:
        """Whether the batch holds pairs, not originals alone."""
        return num_views(self.options) == 2

    def __call__(
        self, name: str, count: int, host: Callable[[ndarray, Originals], Any] = lambda u, _: u
    ) -> Any:
        """Returns `count` uniforms in [0, 1) per original, or what `host(u, originals)` makes of
        them (an array whose first axis is the batch, or a dict of such arrays), as graph nodes."""

        def named(u: ndarray, originals: Originals) -> dict[str, ndarray]:
            result = host(u, originals)
            arrays = result if isinstance(result, dict) else {name: result}
            for array in arrays.values():
                if not isinstance(array, ndarray) or len(array) != len(u):
                    raise InputError(
                        f"the draw {name!r}: its host function returned {array!r}; return an array "
                        "with one row per original"
                    )
            return arrays

        self.names.add(name)
        nodes = _draw_inputs(self.source, self.options, name, count, named)
        return nodes[name] if list(nodes) == [name] else nodes


def _batch_info(u: ndarray, originals: Originals) -> dict[str, ndarray]:
    info = {"label": originals.labels, "infrared": originals.infrared.astype(np.uint8)}
    if len(originals.probability):
        info["p_hat"] = np.tile(originals.probability, (len(u), 1))
    return info


def _cached(source: PairSource, cache: CacheName, device_id: int | None, stream: Any) -> Any:
    """Returns pixels from a cache, on the device that the rest of the graph runs on."""
    image = fn.external_source(
        source=source.images,
        dtype=types.UINT8,
        ndim=3,
        layout="HWC",
        device="gpu" if cache == "gpu" else "cpu",
        cuda_stream=stream if cache == "gpu" else None,
    )
    return image.gpu() if device_id is not None and cache == "host" else image


def _read(paths: Any) -> Any:
    # Mapping and unmapping a 15 KB file costs more than copying it.
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
        hw_decoder_load=0.0,  # the JPEG engine misreads some gray files (bench/NOTES.md)
        affine=False,  # several graphs' threads on the same few cores would wait for each other
        preallocate_height_hint=height,
        preallocate_width_hint=width,
    )


def _resize(image: Any, options: DataOptions) -> Any:
    return fn.resize(image, resize_y=options.height_px, resize_x=options.width_px)


def _flip(image: Any, flip: Any) -> Any:
    # On a GPU, fn.flip launches one kernel per image, this one per batch; same pixels.
    return fn.crop_mirror_normalize(image, mirror=flip, dtype=types.UINT8, output_layout="HWC")


def _counterpart(image: Any, pair_inputs: dict[str, Any], device_id: int | None) -> Any:
    """Returns three equal channels of row · pixel + offset."""
    if "hsv" in pair_inputs:
        take_hsv = pair_inputs["hsv"] if device_id is None else pair_inputs["hsv"].gpu()
        image = fn.cast(_blend(take_hsv, _hsv(image), image), dtype=types.UINT8)
    offset = {"T": pair_inputs["offset"]} if "offset" in pair_inputs else {}
    counterpart = fn.coord_transform(image, M=pair_inputs["row"], **offset, dtype=types.UINT8)
    if device_id is not None:
        return counterpart
    return fn.color_space_conversion(counterpart, image_type=types.GRAY, output_type=types.RGB)


def _hsv(image: Any) -> Any:
    """Returns hue (256 to a turn), saturation and value of each pixel, uint8 [H, W, 3]."""
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
    """Stacks the pair as uint8 [2, H, W, 3]; copies 8 bytes at a time, unlike a stack of uint8."""
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
