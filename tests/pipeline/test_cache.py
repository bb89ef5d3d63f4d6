"""The pixel cache: same batches as without it, each image decoded once, memory checked first."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import cache, spectrum
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions

CPU = torch.device("cpu")
SMALL = {"p": 3, "k": 4, "height_px": 32, "width_px": 16, "threads": 2}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Five identities of 8, 12, 16 … images of noise, of different sizes, half of them infrared."""
    rng = np.random.default_rng(0)
    names, pids, modality = [], [], []
    for pid in range(5):
        for i in range(8 + 4 * pid):
            names.append(f"{pid}-{i:02d}.jpg")
            pixels = rng.integers(0, 256, (40 + i, 20 + pid, 3), np.uint8)
            Image.fromarray(pixels).resize((50, 90)).save(tmp_path / names[-1])
            pids.append(pid)
            modality.append(i % 2)
    ids = np.array(pids, np.int64)
    return Index(tmp_path, np.array(names, np.bytes_), ids, ids, np.array(modality, np.uint8))


def loader(index: Index, name: str, **options) -> TrainingLoader:
    return TrainingLoader(index, DataOptions(**{**SMALL, **options, "cache": name}), CPU, seed=3)


def assert_equal(some, others) -> None:
    for a, b in zip(some, others, strict=True):
        assert (a.rows == b.rows).all()
        for name in ("images", "pids", "modality", "spectrum"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def assert_alike(some: torch.Tensor, others: torch.Tensor) -> None:
    """On a GPU: an image may go to the JPEG engine in one batch and to kernels in another, and they
    may upsample chroma differently: by 2.5 of 255 on noise, where other images differ by 80."""
    assert (some.int() - others.int()).abs().float().mean() < 4


@pytest.mark.parametrize("prefetch", [1, 2, 4])
@pytest.mark.parametrize("sampling", ["balanced", "random"])
def test_batches_are_bit_identical_to_those_without_a_cache(index, prefetch, sampling):
    kept = loader(index, "host", prefetch=prefetch, sampling=sampling)
    fresh = loader(index, "none", sampling=sampling)
    probability = np.array([0.1, 0.2, 0.3, 0.4])
    for epoch in (1, 2, 3, 1, 9):
        assert_equal(kept.epoch(epoch, probability), fresh.epoch(epoch, probability))


def test_an_image_is_decoded_once(index):
    kept = loader(index, "host")
    seen = set()
    for epoch in range(1, 8):
        for batch in kept.epoch(epoch, spectrum.uniform()):
            seen |= set(batch.rows.tolist())
        # Files that were used are no longer needed.
        for row in seen:
            index.path(row).unlink(missing_ok=True)
    assert len(seen) == len(index)


def test_only_what_an_epoch_needs_is_decoded(index):
    kept = loader(index, "host")
    needed = {row for batch in kept.epoch(1, spectrum.uniform()) for row in batch.rows.tolist()}
    assert len(needed) < len(index)
    for row in set(range(len(index))) - needed:
        index.path(row).unlink()
    assert len(list(kept.epoch(1, spectrum.uniform()))) == len(kept)


def test_an_epoch_abandoned_half_way_leaves_nothing_behind(index):
    kept, fresh = loader(index, "host"), loader(index, "none")
    for _ in kept.epoch(1, spectrum.uniform()):
        break
    assert_equal(kept.epoch(2, np.eye(4)[3]), fresh.epoch(2, np.eye(4)[3]))


def test_decoding_stops_once_all_images_are_cached(index):
    kept = loader(index, "host")
    list(kept.epoch(1, spectrum.uniform()))
    assert list(kept.source._pixels._filling) == []


def test_an_abandoned_loader_is_collected_without_warnings(index, monkeypatch):
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)

    def abandon() -> None:
        kept = loader(index, "host", p=2, k=2)  # most of the 80 images are not decoded yet
        kept.running = kept.epoch(1, spectrum.uniform())  # a cycle, for the garbage collector
        next(kept.running)

    for _ in range(2):  # the checker of shapes keeps the last call's arguments alive
        abandon()
        gc.collect()
    assert complaints == []


@pytest.mark.parametrize("damage", ["missing", "truncated", "header"])
def test_a_bad_file_is_named_and_the_loader_works_again_once_it_is_fixed(index, damage):
    kept, fresh = loader(index, "host"), loader(index, "none")
    row = int(next(iter(fresh.epoch(1, spectrum.uniform()))).rows[5])
    bad = index.path(row)
    content = bad.read_bytes()
    if damage == "missing":
        bad.unlink()
    else:
        bad.write_bytes(content[: len(content) // 2 if damage == "truncated" else 200])
    with pytest.raises(InputError, match=str(bad)):
        list(kept.epoch(1, spectrum.uniform()))
    bad.write_bytes(content)
    assert_equal(kept.epoch(1, spectrum.uniform()), fresh.epoch(1, spectrum.uniform()))


def chosen_place(index: Index, name: str, free: dict, monkeypatch) -> str:
    monkeypatch.setattr(cache, "free_bytes", lambda device: free)
    return cache.choose_place(index, DataOptions(**{**SMALL, "cache": name}), CPU)


def test_auto_takes_the_nearest_place_with_ample_room(index, monkeypatch):
    need = len(index) * 32 * 16 * 3
    assert cache.num_bytes(index, DataOptions(**SMALL)) == need
    for free, expected in (
        ({"gpu": 3 * need, "host": 3 * need}, "gpu"),
        ({"gpu": 2 * need, "host": 3 * need}, "host"),
        ({"host": 2 * need}, "host"),
        ({"gpu": need, "host": need}, "none"),
    ):
        assert chosen_place(index, "auto", free, monkeypatch) == expected
    assert chosen_place(index, "none", {"host": 9 * need}, monkeypatch) == "none"


def test_a_place_without_room_is_refused_with_the_numbers(index, monkeypatch):
    with pytest.raises(InputError, match=r"--data.cache host: 80 images of 32x16 take .* are free"):
        chosen_place(index, "host", {"host": 1000}, monkeypatch)
    with pytest.raises(InputError, match=r"--data.cache gpu: there is no GPU here"):
        chosen_place(index, "gpu", {"host": 10**9}, monkeypatch)


def test_free_memory_is_plausible():
    assert 2**20 < cache.free_bytes(CPU)["host"] < 2**50


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["host", "gpu"])
def test_gpu_batches_match_those_without_a_cache(index, name, gpu):
    options = DataOptions(**SMALL)
    kept, fresh = (
        TrainingLoader(index, DataOptions(**{**SMALL, "cache": c}), gpu, seed=3)
        for c in (name, "none")
    )
    assert (kept.cache, options.cache) == (name, "auto")
    for epoch in (1, 2, 1):
        for a, b in zip(
            kept.epoch(epoch, spectrum.uniform()),
            fresh.epoch(epoch, spectrum.uniform()),
            strict=True,
        ):
            assert a.images.is_cuda
            assert_alike(a.images, b.images)
            assert torch.equal(a.spectrum, b.spectrum)
