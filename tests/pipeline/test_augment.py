"""Augmented batches against NumPy, to the bit; and what the boxes and windows are allowed to be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from PIL import Image

from pipeline import augment, graph, plan, spectrum
from pipeline.datasets.records import Index
from pipeline.draws import uniforms
from pipeline.errors import InputError
from pipeline.loader import TrainingLoader
from pipeline.options import AugmentationOptions, DataOptions
from pipeline.source import TrainingSource
from tests.pipeline.test_cache import assert_equal
from train.methods.base import Method

CPU = torch.device("cpu")
SIZE = (48, 24)
SEED = 3
LUMA = np.array(spectrum.LUMA, np.float32)
OFF = AugmentationOptions()
ALL = AugmentationOptions(
    crop_padding_px=7,
    share_crop=False,
    erasing=0.6,
    erasing_fill="spectrum",
    share_erasing=False,
    channel=0.4,
    gray=0.3,
    brightness=0.3,
    contrast=0.4,
    saturation=0.6,
)
EACH = {
    "crop": AugmentationOptions(crop_padding_px=5),
    "crop of its own": AugmentationOptions(crop_padding_px=5, share_crop=False),
    "erasing": AugmentationOptions(erasing=0.5),
    "erasing in the spectrum": AugmentationOptions(erasing=0.5, erasing_fill="spectrum"),
    "erasing of its own": AugmentationOptions(erasing=0.5, share_erasing=False),
    "crop of its own, one box": AugmentationOptions(
        crop_padding_px=5, share_crop=False, erasing=0.5
    ),
    "channel": AugmentationOptions(channel=0.5),
    "channel, always": AugmentationOptions(channel=1.0),
    "gray": AugmentationOptions(gray=0.5),
    "gray, hardly ever": AugmentationOptions(gray=0.12),  # one batch has none
    "channel and gray": AugmentationOptions(channel=0.5, gray=0.5),
    "brightness": AugmentationOptions(brightness=0.8),
    "contrast": AugmentationOptions(contrast=0.8),
    "saturation": AugmentationOptions(saturation=1.0),
    "all": ALL,
}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    """4 identities with 5 color and 5 infrared images each."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(7)
    names = [f"{i:03d}.png" for i in range(40)]
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        if i % 2:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)
        Image.fromarray(pixels).save(root / name)
    pids = np.arange(40) // 10
    modality = (np.arange(40) % 2).astype(np.uint8)
    return Index(root, np.array(names, np.bytes_), pids, pids, modality)


def options(**changes) -> DataOptions:
    height, width = SIZE
    fixed = {"p": 4, "k": 4, "height_px": height, "width_px": width, "threads": 2, "cache": "none"}
    return DataOptions(**fixed | changes)


def loader(index: Index, augmentation: AugmentationOptions, device: torch.device = CPU, **changes):
    method = Method(augmentation=augmentation)
    return TrainingLoader(index, options(**changes), device, SEED, augment=method.augment)


def batches(index: Index, augmentation: AugmentationOptions, **changes) -> list:
    p_hat = spectrum.uniform(options(**changes).spectra)
    return list(loader(index, augmentation, **changes).epoch(1, p_hat))


# The reference: one image at a time, from the uniforms that the draws' names and columns give.


def uniform(name: str, step: int, count: int) -> ndarray:
    of_all = uniforms(SEED, f"augmentation.{name}", 1, step, 16, count)
    return of_all[plan.columns(options(), plan.ALL)].astype(np.float64)


def cropped(image: ndarray, u: ndarray, opts: AugmentationOptions) -> ndarray:
    padding = opts.crop_padding_px
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    top, left = (int(x * (2 * padding + 1)) for x in u)
    return padded[top : top + SIZE[0], left : left + SIZE[1]]


def box_of(u: ndarray, opts: AugmentationOptions) -> tuple[slice, slice] | None:
    if u[0] >= opts.erasing:
        return None
    low, high = opts.erasing_area
    for attempt in range(augment.ATTEMPTS):
        area = (low + (high - low) * u[3 + 2 * attempt]) * (SIZE[0] * SIZE[1])
        aspect = opts.erasing_aspect
        aspect += (1 / opts.erasing_aspect - opts.erasing_aspect) * u[4 + 2 * attempt]
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if height <= SIZE[0] and width <= SIZE[1]:
            top, left = int(u[1] * (SIZE[0] - height + 1)), int(u[2] * (SIZE[1] - width + 1))
            return slice(top, top + height), slice(left, left + width)
    return None


def erased(image: ndarray, u: ndarray, infrared: bool, opts: AugmentationOptions) -> ndarray:
    image, box = image.copy(), box_of(u, opts)
    in_gray = infrared and opts.erasing_fill == "spectrum"
    if box:
        image[box] = 117 if in_gray else (124, 116, 104)
    return image


def recolored(image: ndarray, u: ndarray, infrared: bool, opts: AugmentationOptions) -> ndarray:
    gray, channel, which, brightness, contrast, saturation = u
    m = np.eye(3)
    if not infrared and gray < opts.gray:
        m = np.array([spectrum.LUMA] * 3)
    elif not infrared and channel < opts.channel:
        m = np.eye(3)[[int(which * 3)] * 3]
    b = 1 + opts.brightness * (2 * brightness - 1)
    c = 1 + opts.contrast * (2 * contrast - 1)
    s = 1 if infrared else 1 + opts.saturation * (2 * saturation - 1)
    m = b * c * ((s * np.eye(3) + (1 - s) * np.array([spectrum.LUMA] * 3)) @ m)
    return rounded(image, m.astype(np.float32), np.float32(128 * (1 - c)))


def rounded(image: ndarray, m: ndarray, t: float = 0) -> ndarray:
    """M · pixel + T as DALI computes it: in float32, from left to right, rounded half up."""
    x = image.astype(np.float32)
    rows = [((x[..., 0] * r[0] + x[..., 1] * r[1]) + x[..., 2] * r[2]) + np.float32(t) for r in m]
    return np.floor(np.clip(np.stack(rows, -1) + np.float32(0.5), 0, 255)).astype(np.uint8)


def reference(batch, step: int, opts: AugmentationOptions) -> ndarray:
    """uint8 [n, 2, H, W, 3], of a batch made without augmentation and without jitter."""
    counts = {"crop": 2, "erasing": 3 + 2 * augment.ATTEMPTS, "color": 6}
    of_original = {name: uniform(name, step, n) for name, n in counts.items()}
    of_source = dict(of_original)
    for name, share in (("crop", opts.share_crop), ("erasing", opts.share_erasing)):
        if not share:
            of_source[name] = uniform(f"{name}.counterpart", step, counts[name])
    made = []
    for i, (image, _) in enumerate(batch.images.cpu().numpy()):
        infrared = bool(batch.modality[i])
        original, source = (
            erased(cropped(image, u["crop"][i], opts), u["erasing"][i], infrared, opts)
            for u in (of_original, of_source)
        )
        original = recolored(original, of_original["color"][i], infrared, opts)
        row = LUMA if infrared else spectrum.rows(spectrum.DEFAULT)[batch.spectrum[i]]
        made.append(np.stack([original, rounded(source, np.stack([row] * 3))]))
    return np.stack(made)


@pytest.mark.parametrize("name", EACH)
def test_pixels_equal_numpy(index, name):
    plain, made = (batches(index, augmentation, jitter=0.0) for augmentation in (OFF, EACH[name]))
    changed = 0
    for step, (before, after) in enumerate(zip(plain, made, strict=True)):
        assert (before.rows == after.rows).all()
        assert torch.equal(before.spectrum, after.spectrum)
        np.testing.assert_array_equal(after.images.numpy(), reference(before, step, EACH[name]))
        changed += int((after.images != before.images).any(dim=(1, 2, 3, 4)).sum())
    assert changed


@pytest.mark.gpu
def test_gpu_pixels_equal_numpy_up_to_rounding(index, gpu):
    plain, made = (
        list(loader(index, augmentation, gpu, jitter=0.0).epoch(1, spectrum.uniform()))
        for augmentation in (OFF, ALL)
    )
    for step, (before, after) in enumerate(zip(plain, made, strict=True)):
        difference = after.images.cpu().numpy().astype(int) - reference(before, step, ALL)
        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() < 1e-3


def test_the_graph_has_no_augmentation_when_off(index, monkeypatch):
    monkeypatch.setattr(graph.Pipeline, "build", lambda self: None)

    def operators(augmentation: AugmentationOptions | None) -> list[str]:
        opts = options()
        change = Method(augmentation=augmentation).augment if augmentation else None
        made = graph.training_graph(TrainingSource(index, opts, 0), opts, None, 2, augment=change)
        made.serialize()
        return sorted(op.name.strip("_").partition("_")[0] for op in made._ops)

    def work(augmentation: AugmentationOptions | None) -> list[str]:
        return [name for name in operators(augmentation) if name != "ExternalSource"]

    bare = operators(None)
    assert operators(OFF) == bare
    assert operators(AugmentationOptions(share_crop=False, share_erasing=False)) == bare
    for name, added in (
        ("crop", ["MultiPaste"]),
        ("crop of its own", ["MultiPaste", "MultiPaste"]),
        ("erasing", ["Erase"]),
        ("brightness", ["CoordTransform"]),
    ):
        assert work(EACH[name]) == sorted(work(None) + added)


@pytest.mark.parametrize("cache", ["none", "host", "gpu"])
@pytest.mark.parametrize("name", ["all", "channel"])
def test_dali_accepts_the_gpu_graph_without_a_gpu(index, monkeypatch, cache, name):
    described = graph._pipeline
    monkeypatch.setattr(graph, "_pipeline", lambda n, o, _, threads: described(n, o, None, threads))
    monkeypatch.setattr(graph.Pipeline, "build", lambda self: None)
    opts, method = options(), Method(augmentation=EACH[name])
    source = TrainingSource(index, opts, 0)
    made = graph.training_graph(source, opts, 0, 2, cache, augment=method.augment)
    assert b"gpu" in made.serialize()


def test_a_cache_gives_the_same_batches(index):
    streamed = batches(index, ALL)
    cached = loader(index, ALL, cache="host")
    for _ in range(2):  # filling it, and from it
        assert_equal(list(cached.epoch(1, spectrum.uniform())), streamed)


def test_a_resumed_step_sees_the_same_batch(index):
    whole = batches(index, ALL)
    resumed = list(loader(index, ALL).epoch(1, spectrum.uniform(), first_step=1))
    assert len(resumed) == len(whole) - 1
    assert_equal(resumed, whole[1:])


@pytest.mark.filterwarnings("error")
def test_without_counterparts_originals_are_the_same(index):
    pairs, alone = batches(index, ALL), batches(index, ALL, spectra=())
    for pair, single in zip(pairs, alone, strict=True):
        assert torch.equal(pair.images[:, :1], single.images)


@pytest.mark.parametrize("cause", ["crop", "erasing"])
def test_a_shared_crop_or_box_keeps_the_pair_aligned(index, cause):
    """A counterpart in R is its original's R, unless it has a crop or box of its own."""
    for shared, name in ((True, cause), (False, f"{cause} of its own")):
        made = loader(index, EACH[name], jitter=0.0).epoch(1, np.array([1.0, 0, 0, 0]))
        pairs = torch.cat([b.images[b.modality == 0][..., 0] for b in made])
        aligned = pairs[:, 0] == pairs[:, 1]
        assert bool(aligned.all()) == shared


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(16, 300), st.integers(16, 300)),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    aspect=st.floats(0.1, 1),
    probability=st.floats(0, 1),
)
def test_boxes_lie_inside_and_have_the_requested_area_and_aspect(
    seed, size, area, aspect, probability
):
    opts = AugmentationOptions(erasing=probability, erasing_area=area, erasing_aspect=aspect)
    u = np.random.default_rng(seed).random((200, augment.ERASING_UNIFORMS), np.float32)
    u[0], u[1] = 0, 1 - 2**-24  # the lowest and the highest that are drawn
    box = augment.boxes(u, np.zeros(200, bool), opts, size)
    erased = box["shape"].all(axis=1)
    assert (box["shape"][~erased] == 0).all()
    assert not erased[u[:, 0].astype(float) >= probability].any()
    anchor, shape = box["anchor"][erased].astype(float), box["shape"][erased].astype(float)
    assert (anchor >= 0).all()
    assert (anchor + shape <= size).all()
    assert (anchor == anchor.round()).all()
    assert (shape == shape.round()).all()
    # Both sides are rounded to whole pixels: half a pixel either way, at least one.
    pixels = size[0] * size[1]
    least, most = (np.maximum(shape - 0.5, 0), shape + 0.5)
    assert (most.prod(axis=1) >= area[0] * pixels - 1e-6).all()
    at_least_one = (shape == 1).any(axis=1)
    assert ((least.prod(axis=1) <= area[1] * pixels + 1e-6) | at_least_one).all()
    assert ((most[:, 0] / least[:, 1].clip(1e-9) >= aspect - 1e-6) | at_least_one).all()
    assert ((least[:, 0] / most[:, 1] <= 1 / aspect + 1e-6) | at_least_one).all()


def test_erasing_has_the_requested_rate_and_happens_everywhere():
    opts = AugmentationOptions(erasing=0.3)
    u = np.random.default_rng(0).random((100_000, augment.ERASING_UNIFORMS), np.float32)
    box = augment.boxes(u, np.zeros(len(u), bool), opts, (256, 128))
    erased = box["shape"].all(axis=1)
    assert erased.mean() == pytest.approx(0.3, abs=0.005)
    anchor, shape = box["anchor"][erased], box["shape"][erased]
    area = shape.prod(axis=1) / (256 * 128)
    assert area.min() == pytest.approx(0.02, abs=0.002)
    assert area.max() == pytest.approx(0.4, abs=0.005)
    touches = [(anchor == 0).any(axis=0), (anchor + shape == (256, 128)).any(axis=0)]
    assert np.all(touches)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), padding=st.integers(1, 15))
def test_crop_windows_are_anywhere_in_the_padded_image(seed, padding):
    u = np.random.default_rng(seed).random((2000, 2), np.float32)
    u[0], u[1] = 0, 1 - 2**-24
    window = augment.crops(u, padding, (16, 20))
    offset = (window["in_anchors"] - window["out_anchors"])[:, 0]
    assert (offset.min(axis=0) == -padding).all()
    assert (offset.max(axis=0) == padding).all()
    assert len(np.unique(offset[:, 0])) == 2 * padding + 1
    for anchor in ("in_anchors", "out_anchors"):
        assert (window[anchor] >= 0).all()
        assert (window[anchor] + window["shapes"] <= (16, 20)).all()


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"crop_padding_px": -1}, "--augmentation.crop-padding-px -1: must be at least 0"),
        ({"erasing": 1.5}, "--augmentation.erasing 1.5: must be in 0…1"),
        ({"saturation": float("nan")}, "--augmentation.saturation nan: must be in 0…1"),
        (
            {"erasing_area": (0.4, 0.02)},
            "--augmentation.erasing-area 0.4 0.02: must be two numbers",
        ),
        ({"erasing_area": (0.0, 0.4)}, "--augmentation.erasing-area 0.0 0.4: must be two numbers"),
        ({"erasing_aspect": 0.0}, "--augmentation.erasing-aspect 0.0: must be above 0 and up to 1"),
    ],
)
def test_invalid_options_are_refused_by_name(wrong, line):
    with pytest.raises(InputError) as caught:
        AugmentationOptions(**wrong)
    assert line in str(caught.value)


def test_a_crop_that_could_miss_the_image_is_refused(index):
    with pytest.raises(InputError, match=r"crop-padding-px 24: must be less than .* 48 and 24"):
        batches(index, AugmentationOptions(crop_padding_px=24))


def test_erasing_that_could_never_fit_is_refused(index):
    squares = AugmentationOptions(erasing=0.5, erasing_area=(0.6, 0.8), erasing_aspect=1.0)
    with pytest.raises(InputError, match=r"erasing-area 0.6 0.8: no rectangle .* 48x24 images"):
        batches(index, squares)
