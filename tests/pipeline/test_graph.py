"""The training graph's pixels against PIL and NumPy, on real JPEG files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare

from pipeline import graph, spectrum
from pipeline.datasets.records import Index
from pipeline.draws import draw
from pipeline.errors import BadImageError
from pipeline.loader import EvaluationLoader, TrainingLoader
from pipeline.options import DataOptions
from pipeline.plan import ALL, columns
from pipeline.source import EvaluationSource, TrainingSource

CPU = torch.device("cpu")
build_pipeline = graph._pipeline
SAVED_AS = (
    {"quality": 95, "subsampling": 0},
    {"quality": 85, "subsampling": 2},
    {"quality": 75, "subsampling": 1, "progressive": True},
    {"quality": 90, "optimize": True},
)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    """4 identities with 6 colour and 6 infrared JPEGs each, of several sizes and encodings."""
    root = tmp_path_factory.mktemp("jpegs")
    rng = np.random.default_rng(7)
    names, pids, modality = [], [], []
    for i in range(48):
        height, width = int(rng.integers(120, 400)), int(rng.integers(48, 180))
        coarse = rng.integers(0, 256, (9, 5, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image) + rng.normal(0, 12, (height, width, 1))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        infrared = i % 2
        if infrared:
            image = image.convert("L") if i % 4 == 1 else image.convert("L").convert("RGB")
        names.append(f"{i:04d}.jpg")
        image.save(root / names[-1], **SAVED_AS[i % len(SAVED_AS)])
        pids.append(i // 12)
        modality.append(infrared)
    pids = np.array(pids, np.int64)
    return Index(root, np.array(names, np.bytes_), pids, pids, np.array(modality, np.uint8))


def options(**changes) -> DataOptions:
    return DataOptions(**{"p": 4, "k": 4, "height_px": 96, "width_px": 48, "threads": 2} | changes)


def one_epoch(index, probability, opts=None, epoch=1, seed=3):
    return list(TrainingLoader(index, opts or options(), CPU, seed).epoch(epoch, probability))


@pytest.mark.parametrize("code", range(4))
def test_every_spectrum_equals_pil_and_numpy(index, code):
    seen = 0
    for batch in one_epoch(index, np.eye(4)[code]):
        rgb = batch.modality == 0
        assert (batch.spectrum[rgb] == code).all()
        for original, counterpart in batch.images[rgb].numpy():
            if spectrum.DEFAULT[code] == "X":
                expected = np.asarray(Image.fromarray(original).convert("L"))
            else:
                expected = original[:, :, code]
            np.testing.assert_array_equal(counterpart, np.repeat(expected[..., None], 3, axis=2))
            seen += 1
    assert seen >= 20


def test_luma_equals_pil_for_every_colour():
    """All 2^24 colours: the float32 product, rounded, is PIL's fixed-point luma."""
    levels = np.arange(256, dtype=np.float32)
    luma = np.array(spectrum.LUMA, np.float32)
    green_blue = luma[1] * levels[:, None] + luma[2] * levels
    colours = np.stack(np.meshgrid(levels, levels, indexing="ij"), -1).astype(np.uint8)
    for red in range(256):
        ours = np.floor(luma[0] * np.float32(red) + green_blue + np.float32(0.5))
        pixels = np.concatenate([np.full((256, 256, 1), red, np.uint8), colours], axis=2)
        np.testing.assert_array_equal(ours, np.asarray(Image.fromarray(pixels).convert("L")))


def test_infrared_counterparts_are_luma_times_brightness_rounded_and_clipped(index):
    opts = options(jitter=0.5, flip=0.0)  # wide enough to clip
    factors, clipped = [], 0
    for step, batch in enumerate(one_epoch(index, spectrum.uniform(), opts)):
        infrared = batch.modality == 1
        assert (batch.spectrum[infrared] == spectrum.INFRARED).all()
        brightness = draw(3, 1, step, 16, 0.0, 0.5).brightness[columns(opts, ALL)][infrared]
        for (original, counterpart), factor in zip(
            batch.images[infrared].numpy(), brightness, strict=True
        ):
            luma = original.astype(np.float64) @ np.array(spectrum.LUMA)
            exact = luma * np.float64(factor)
            expected = np.clip(np.floor(exact + 0.5), 0, 255)
            # float32 and float64 may fall on different sides of a half: leave those pixels out.
            clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-3
            assert clear.mean() > 0.95
            assert (counterpart == counterpart[..., :1]).all()
            np.testing.assert_array_equal(counterpart[..., 0][clear], expected[clear])
            factors.append(factor)
            clipped += int((exact > 255).sum())
    assert min(factors) < 0.8 < 1.2 < max(factors)
    assert clipped > 0


def test_no_jitter_leaves_infrared_as_it_is(index):
    for batch in one_epoch(index, spectrum.uniform(), options(jitter=0.0)):
        infrared = batch.images[batch.modality == 1]
        # JPEG files with three equal channels decode to three nearly equal ones.
        luma = torch.from_numpy(
            np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in infrared[:, 0].numpy()])
        )
        assert (infrared[:, 1] == luma[..., None]).all()


def test_a_pair_shares_the_drawn_flip(index):
    flipped, plain = options(flip=0.5), options(flip=0.0)
    mirrored = 0
    for step, (a, b) in enumerate(
        zip(
            one_epoch(index, spectrum.uniform(), flipped),
            one_epoch(index, spectrum.uniform(), plain),
            strict=True,
        )
    ):
        assert (a.rows == b.rows).all()
        flip = torch.from_numpy(draw(3, 1, step, 16, 0.5, 0.1).flip[columns(flipped, ALL)]).bool()
        expected = torch.where(flip[:, None, None, None, None], b.images.flip(3), b.images)
        assert (a.images == expected).all()
        mirrored += int(flip.sum())
    assert 0 < mirrored < 48


def test_originals_are_the_resized_files(index):
    """The CPU decoder equals PIL's; the resize is PIL's antialiased linear except for rounding."""
    batch = one_epoch(index, spectrum.uniform(), options(flip=0.0))[0]
    for row, pair in zip(batch.rows, batch.images.numpy(), strict=True):
        assert_like_pil(pair[0], index.path(row))


def assert_like_pil(image: np.ndarray, path: Path, most: int = 4, mean: float = 0.7) -> None:
    with Image.open(path) as file:
        expected = file.convert("RGB").resize((48, 96), Image.Resampling.BILINEAR)
    difference = np.abs(image.astype(int) - np.asarray(expected, int))
    assert difference.max() <= most
    assert difference.mean() < mean


def test_shapes_dtypes_layout_and_shared_memory(index):
    batch = one_epoch(index, spectrum.uniform())[0]
    assert batch.images.shape == (16, 2, 96, 48, 3)
    assert batch.images.dtype == torch.uint8
    assert (batch.pids.dtype, batch.modality.dtype) == (torch.int64, torch.uint8)
    assert batch.spectrum.dtype == torch.int8
    flat = batch.flat()
    assert flat.shape == (32, 3, 96, 48)
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert flat.untyped_storage().data_ptr() == batch.images.untyped_storage().data_ptr()
    assert (flat[0] == batch.images[0, 0].permute(2, 0, 1)).all()
    assert (flat[1] == batch.images[0, 1].permute(2, 0, 1)).all()
    assert (index.pids[batch.rows] == batch.pids.numpy()).all()
    assert (index.modality[batch.rows] == batch.modality.numpy()).all()


def test_batches_outlive_later_runs_of_the_pipeline(index):
    """Zero-copy tensors own their memory: later batches do not overwrite them."""
    loader = TrainingLoader(index, options(prefetch=1), CPU, 3)
    kept = list(loader.epoch(1, spectrum.uniform()))
    copies = [batch.images.clone() for batch in kept]
    for epoch in range(2, 6):
        list(loader.epoch(epoch, spectrum.uniform()))
    assert all((a.images == b).all() for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize(
    "probability",
    [[0.25, 0.25, 0.25, 0.25], [0.6, 0.05, 0.25, 0.1], [0.0, 0.3, 0.7, 0.0], [0.0, 0.0, 1.0, 0.0]],
)
def test_spectra_are_drawn_with_the_given_probabilities(index, probability):
    loader = TrainingLoader(index, options(height_px=16, width_px=16), CPU, seed=11)
    drawn = [
        batch.spectrum[batch.modality == 0]
        for epoch in range(80)
        for batch in loader.epoch(epoch, np.array(probability))
    ]
    counts = np.bincount(torch.cat(drawn).numpy(), minlength=4)
    possible = np.array(probability) > 0
    assert counts.sum() == 80 * 24
    assert (counts[~possible] == 0).all()
    if possible.sum() > 1:
        expected = np.array(probability)[possible] * counts.sum()
        assert chisquare(counts[possible], expected).pvalue > 1e-3


def test_evaluation_images_come_in_order_and_whole(index):
    loader = EvaluationLoader(index, options(eval_batch=20), CPU)
    passes = [list(loader), list(loader)]
    assert [len(images) for images in passes[0]] == [20, 20, 8]
    assert len(loader) == 3
    everything = torch.cat(passes[0])
    assert everything.is_contiguous(memory_format=torch.channels_last)
    assert (everything == torch.cat(passes[1])).all()
    for row in (0, 19, 20, 47):
        assert_like_pil(everything[row].permute(1, 2, 0).numpy(), index.path(row))


@pytest.mark.gpu
def test_gpu_spectrum_stage_equals_numpy_on_gpu_originals(index, gpu):
    for code in range(4):
        for batch in TrainingLoader(index, options(), gpu, 3).epoch(1, np.eye(4)[code]):
            assert batch.images.is_cuda
            assert batch.spectrum.is_cuda
            rgb = batch.images[batch.modality == 0].cpu().numpy()
            for original, counterpart in rgb:
                if spectrum.DEFAULT[code] == "X":
                    expected = np.asarray(Image.fromarray(original).convert("L"))
                else:
                    expected = original[:, :, code]
                difference = np.abs(counterpart[..., 0].astype(int) - expected)
                assert difference.max() <= (1 if spectrum.DEFAULT[code] == "X" else 0)


@pytest.mark.gpu
def test_gpu_and_cpu_batches_hold_the_same_people_in_the_same_spectra(index, gpu):
    batches = [
        list(TrainingLoader(index, options(), device, 3).epoch(1, spectrum.uniform()))
        for device in (CPU, gpu)
    ]
    for a, b in zip(*batches, strict=True):
        assert (a.rows == b.rows).all()
        assert (a.pids == b.pids.cpu()).all()
        assert (a.spectrum == b.spectrum.cpu()).all()
        # Decoders and resizes differ in rounding, not in what they show.
        difference = (a.images.int() - b.images.cpu().int()).abs().float()
        assert difference.mean() < 2


HSV = ("hue", "saturation", "value")
FAMILIES = [(), ("X",), ("R", "G", "B", "X"), ("X", "U", "V"), ("R", *HSV)]


@pytest.mark.parametrize("cache", ["none", "host", "gpu"])
@pytest.mark.parametrize("spectra", FAMILIES)
def test_dali_accepts_the_gpu_graph_without_a_gpu(index, monkeypatch, cache, spectra):
    """Checks operators, devices and arguments; only a GPU can check what they compute."""
    monkeypatch.setattr(
        graph, "_pipeline", lambda n, o, _, threads: build_pipeline(n, o, None, threads)
    )
    monkeypatch.setattr(graph.Pipeline, "build", lambda self: None)
    opts = options(spectra=spectra)
    made = graph.training_graph(TrainingSource(index, opts, 0), opts, 0, 2, cache)
    assert b"gpu" in made.serialize()
    source = EvaluationSource(index, 4)
    assert b"mixed" in graph.evaluation_graph(source, opts, 0, 2, 4).serialize()


@pytest.mark.gpu
@pytest.mark.parametrize("spectra", FAMILIES)
def test_gpu_and_cpu_pairs_look_alike(index, spectra, gpu):
    """Decoders and resizes round differently: by 1 of 255 on average, by 8 in 999 of 1000 pixels.

    A hue can jump by a whole turn where a pixel is nearly gray.
    """
    opts = options(spectra=spectra)
    p_hat = spectrum.uniform(spectra)
    found, expected = (
        torch.cat([b.images.cpu() for b in TrainingLoader(index, opts, d, 3).epoch(1, p_hat)])
        for d in (gpu, CPU)
    )
    off = (found.int() - expected.int()).abs().float()
    assert off[:, 0].mean() < 1
    assert np.quantile(off[:, 0].numpy(), 0.999) <= 8
    if "hue" not in spectra:
        assert off.mean() < 1


@pytest.mark.gpu
def test_gpu_evaluation_images_look_like_those_of_the_cpu(index, gpu):
    found, expected = (
        torch.cat([images.cpu() for images in EvaluationLoader(index, options(eval_batch=20), d)])
        for d in (gpu, CPU)
    )
    assert (found.int() - expected.int()).abs().float().mean() < 1


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["none", "host", "gpu"])
def test_a_batch_stays_valid_while_the_gpu_is_behind(index, cache, gpu):
    """DALI and the cache make more batches meanwhile, and must not overwrite this one."""

    def sums(behind: bool) -> torch.Tensor:
        loader = TrainingLoader(index, options(cache=cache, p=2, k=2), gpu, 3)
        found = []
        with torch.cuda.stream(torch.cuda.Stream()):
            for epoch in (1, 2, 3):
                for batch in loader.epoch(epoch, spectrum.uniform()):
                    if behind:
                        torch.cuda._sleep(50_000_000)  # some 25 ms
                    parts = (batch.images, batch.pids, batch.spectrum)
                    found.append(torch.stack([x.sum(dtype=torch.int64) for x in parts]))
                    del batch, parts
                    if not behind:
                        torch.cuda.synchronize()
            torch.cuda.synchronize()
        return torch.stack(found).cpu()

    late, in_time = sums(behind=True), sums(behind=False)
    assert torch.equal(late[:, 1:], in_time[:, 1:])  # people, spectra
    torch.testing.assert_close(late[:, 0].double(), in_time[:, 0].double(), rtol=1e-3, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg"])
def test_formats_that_a_gpu_leaves_to_the_cpu_are_read_and_named(index, tmp_path, suffix, gpu):
    names = [f"{i}.{suffix}" for i in range(8)]
    for i, name in enumerate(names):
        Image.open(index.path(i)).convert("RGB").save(tmp_path / name)
    ids = np.arange(8)
    other = Index(tmp_path, np.array(names, np.bytes_), ids, ids, ids.astype(np.uint8) % 2)
    images = torch.cat([x.cpu() for x in EvaluationLoader(other, options(), gpu)])
    for row in range(8):
        pixels = images[row].permute(1, 2, 0).numpy()
        most, mean = (16, 2.0) if suffix == "jpg" else (4, 0.7)  # JPEGs by the GPU's decoders
        assert_like_pil(pixels, other.path(row), most, mean)
    victim = other.path(5)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(BadImageError, match=f"5.{suffix}"):
        list(EvaluationLoader(other, options(), gpu))
