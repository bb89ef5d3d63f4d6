"""Augmentations inside the training graph: padded random crop, random erasing, color.

What is random is computed on the host in NumPy from draws with names of their own, each a fixed
number of uniforms per original, so that switching one on changes no other's values. An augmentation
that is off leaves nothing in the graph. On a GPU each is one launch a batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from pipeline import spectrum
from pipeline.errors import InputError
from pipeline.options import AugmentationOptions, FillName

MEAN = (124, 116, 104)  # ImageNet's, in 0…255
MID_GRAY = 128
ATTEMPTS = 4  # at a rectangle that fits into the image
CROP_UNIFORMS, ERASING_UNIFORMS, COLOR_UNIFORMS = 2, 3 + 2 * ATTEMPTS, 6

Size = tuple[int, int]  # height, width in pixels
Pair = tuple[Any, Any]  # nodes: the original, the image that its counterpart is made of


def augmented(image: Any, draw: Any, options: AugmentationOptions) -> Any:
    """The original and the source of its counterpart, uint8 [H, W, 3] nodes; see `Method.augment`.

    Raises `InputError` if a crop could miss the image, or no rectangle to erase could fit into it.
    """
    pair = (image, image)
    size, has_counterparts = draw.image_size, draw.has_counterparts
    if options.crop_padding_px:
        padding = options.crop_padding_px
        if padding >= min(size):
            raise InputError(
                f"--augmentation.crop-padding-px {padding}: must be less than the image's height "
                f"and width, {size[0]} and {size[1]}"
            )

        def crop(name: str) -> Any:
            return draw(name, CROP_UNIFORMS, lambda u, _: crops(u, padding, size))

        share = options.share_crop or not has_counterparts
        pair = _change(pair, "augmentation.crop", crop, _crop, share)
    if options.erasing:
        _check_erasing(options, size)

        def box(name: str) -> Any:
            return draw(name, ERASING_UNIFORMS, lambda u, o: boxes(u, o.infrared, options, size))

        share = options.share_erasing or not has_counterparts
        pair = _change(pair, "augmentation.erasing", box, _erase, share)
    if options.channel or options.gray or _has_jitter(options):
        pair = (_recolor(pair[0], draw, options), pair[1])
    return pair


def _check_erasing(options: AugmentationOptions, size: Size) -> None:
    """Raises `InputError` if even the smallest area fits into the image at no height / width."""
    (height, width), (low, high), aspect = size, options.erasing_area, options.erasing_aspect
    if max(aspect, low * height / width) > min(1 / aspect, height / width / low):
        raise InputError(
            f"--augmentation.erasing-area {low} {high}: no rectangle of that area and "
            f"--augmentation.erasing-aspect {aspect} fits into {height}x{width} images; lower one"
        )


def _change(
    pair: Pair,
    name: str,
    ask: Callable[[str], Any],
    apply: Callable[[Any, Any], Any],
    share: bool,
) -> Pair:
    """Applies an augmentation to both images, drawn once if they share it."""
    original, source = pair
    drawn = ask(name)
    changed = apply(original, drawn)
    if share and source is original:
        return changed, changed
    return changed, apply(source, drawn if share else ask(f"{name}.counterpart"))


def _crop(image: Any, window: Any) -> Any:
    from nvidia.dali import fn

    # fn.slice with out_of_bounds_policy="pad" gives the same pixels, but copies element by element
    # on a CPU: 360 µs an image, this one 33.
    return fn.multi_paste(image, **window)


def _erase(image: Any, box: Any) -> Any:
    from nvidia.dali import fn

    return fn.erase(image, axis_names="HW", **box)


def _recolor(image: Any, draw: Any, options: AugmentationOptions) -> Any:
    from nvidia.dali import fn, types

    def ask(host: Callable[..., dict[str, ndarray]]) -> Any:
        return draw("augmentation.color", COLOR_UNIFORMS, lambda u, o: host(u, o.infrared, options))

    if image.device == "gpu" or _has_jitter(options):
        return fn.coord_transform(image, **ask(colors), dtype=types.UINT8)
    # A matrix takes a CPU 1,100 µs an image, so images that keep their colors bypass what makes the
    # others gray: one row 350, one channel 200. DALI makes these operators of a pipeline's `if`.
    drawn = ask(_gray)
    conditional: Any = fn._conditional  # type: ignore[attr-defined]

    def of_chosen(node: Any) -> Any:
        return conditional.split(node, predicate=drawn["chosen"])[0]

    changed, kept = conditional.split(image, predicate=drawn["chosen"])
    if options.gray:
        one = fn.coord_transform(changed, M=of_chosen(drawn["row"]), dtype=types.UINT8)
    else:
        one = fn.slice(changed, start=of_chosen(drawn["channel"]), shape=[1], axis_names="C")
    three = fn.color_space_conversion(one, image_type=types.GRAY, output_type=types.RGB)
    return conditional.merge(three, kept, predicate=drawn["chosen"])


def crops(u: Float32[ndarray, "n 2"], padding: int, size: Size) -> dict[str, ndarray]:
    """Where the crop's window meets the image: int32 [n, 1, 2] each, in pixels, (y, x).

    The window's top left corner lies at -padding…padding, each offset as likely as any other.
    """
    offset = np.floor(u.astype(np.float64) * (2 * padding + 1)).astype(np.int32) - padding
    offset = offset[:, None]
    return {
        "in_anchors": np.maximum(offset, 0),
        "out_anchors": np.maximum(-offset, 0),
        "shapes": np.array(size, np.int32) - np.abs(offset),
    }


def boxes(
    u: Float32[ndarray, "n uniforms"],
    infrared: Bool[ndarray, " n"],
    options: AugmentationOptions,
    size: Size,
) -> dict[str, ndarray]:
    """Rectangles to erase, float32 [n, 2] of whole pixels, and their colors, [n, 3].

    `shape` is 0 where nothing is erased. As in Zhong et al., area and height / width are uniform,
    and are drawn again until the rectangle fits into the image; but at most `ATTEMPTS` times, so
    that every original takes as many uniforms. If no attempt fits, nothing is erased: once in
    200,000 times at 256x128 pixels.
    """
    uniform = u.astype(np.float64)
    low, high = options.erasing_area
    narrow = options.erasing_aspect
    area = (low + (high - low) * uniform[:, 3::2]) * size[0] * size[1]
    aspect = narrow + (1 / narrow - narrow) * uniform[:, 4::2]
    shapes = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=-1)))
    shapes = np.maximum(shapes, 1)
    fits = np.less_equal(shapes, size).all(axis=-1)  # n, attempts
    rows = np.arange(len(u))
    shape = shapes[rows, fits.argmax(axis=1)]
    erased = (uniform[:, 0] < options.erasing) & (fits.sum(axis=1) > 0)
    anchor = np.floor(uniform[:, 1:3] * (size - shape + 1))
    return {
        "anchor": np.where(erased[:, None], anchor, 0).astype(np.float32),
        "shape": np.where(erased[:, None], shape, 0).astype(np.float32),
        "fill_value": _fills(infrared, options.erasing_fill),
    }


def _fills(infrared: Bool[ndarray, " n"], fill: FillName) -> Float32[ndarray, "n 3"]:
    mean = np.array(MEAN, np.float32)
    if fill == "mean":
        return np.tile(mean, (len(infrared), 1))
    luma = np.rint(mean @ np.array(spectrum.LUMA, np.float32))
    return np.where(infrared[:, None], luma, mean)


def colors(
    u: Float32[ndarray, "n 6"], infrared: Bool[ndarray, " n"], options: AugmentationOptions
) -> dict[str, ndarray]:
    """M float32 [n, 3, 3] and T [n, 3]: a pixel becomes M · pixel + T.

    One channel or gray, then brightness, contrast, saturation. Contrast is changed about a fixed
    mid-gray rather than the image's mean, so every step is affine and all of them are one matrix.
    An infrared original's channels stay equal: only brightness and contrast apply to it.
    """
    eye, luma = np.eye(3), np.tile(spectrum.LUMA, (3, 1))
    # Each uniform has one use, whatever is switched on.
    to_gray = ~infrared & (u[:, 0] < options.gray)
    to_channel = ~infrared & (u[:, 1] < options.channel)
    which = np.minimum((u[:, 2] * 3).astype(np.int64), 2)
    brightness, contrast, saturation = (
        1 + x * (2 * u[:, 3 + i].astype(np.float64) - 1)
        for i, x in enumerate((options.brightness, options.contrast, options.saturation))
    )
    saturation = np.where(infrared, 1, saturation)[:, None, None]
    one = np.repeat(eye[which][:, None], 3, axis=1)
    matrix = np.where(to_channel[:, None, None], one, eye)
    matrix = np.where(to_gray[:, None, None], luma, matrix)
    saturate = saturation * eye + (1 - saturation) * luma
    return {
        "M": ((brightness * contrast)[:, None, None] * (saturate @ matrix)).astype(np.float32),
        "T": np.repeat((MID_GRAY * (1 - contrast))[:, None], 3, axis=1).astype(np.float32),
    }


def _gray(
    u: Float32[ndarray, "n 6"], infrared: Bool[ndarray, " n"], options: AugmentationOptions
) -> dict[str, ndarray]:
    """Which are `chosen` (bool [n]) to become gray, and by which row [n, 1, 3], if any may become
    luma, or else `channel` int32 [n, 1]."""
    matrix = colors(u, infrared, options)["M"]
    chosen = np.not_equal(matrix, np.eye(3)).any(axis=(1, 2))
    row = matrix[:, :1]
    if options.gray:
        return {"chosen": chosen, "row": row}
    return {"chosen": chosen, "channel": row.argmax(axis=2).astype(np.int32)}


def _has_jitter(options: AugmentationOptions) -> bool:
    return bool(options.brightness or options.contrast or options.saturation)
