"""The peers do the same work as our loader: same images, flips, spectra, similar pixels."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import gpu_peers
from bench.peers import MEAN, STD, Items, PilFloat, Spdl, TorchvisionUint8, why_no_spdl
from bench.plan import AUGMENTED, Item, plan
from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.loader import TrainingLoader
from pipeline.options import AugmentationOptions, DataOptions
from train.methods.base import Method

CPU = torch.device("cpu")
OPTIONS = DataOptions(p=2, k=2, height_px=64, width_px=32, threads=2)


@pytest.fixture(scope="module")
def index(people):
    return read_training(OPTIONS, people)


def ours(index, device: torch.device, augmentation: AugmentationOptions | None):
    augment = Method(augmentation=augmentation).augment if augmentation else None
    loader = TrainingLoader(index, OPTIONS, device, seed=0, augment=augment)
    return loader.epoch(1, spectrum.uniform())


@pytest.mark.parametrize("augmentation", [None, AUGMENTED])
@pytest.mark.parametrize("peer", [PilFloat, TorchvisionUint8, Spdl])
def test_a_peer_makes_the_same_pairs_as_our_loader(index, peer: type[Items], augmentation):
    batches = plan(index, OPTIONS, 3, augmentation)
    if peer is Spdl and (reason := why_no_spdl(Spdl(batches[0], (64, 32)))):
        pytest.skip(reason)
    for items, batch in zip(batches, ours(index, CPU, augmentation), strict=False):
        assert [item.path for item in items] == [index.path(row) for row in batch.rows]
        theirs = torch.stack([peer(items, (64, 32))[i] for i in range(len(items))])
        if peer is PilFloat:
            theirs = (theirs * STD + MEAN) * 255
        if peer is Spdl:
            theirs = theirs.permute(0, 1, 4, 2, 3)
        expected = batch.images.permute(0, 1, 4, 2, 3).float()
        # Other antialiased resizing differs by a level or two on average, rarely by more.
        difference = (theirs.float() - expected).abs()
        assert difference.mean() < (4 if peer is Spdl else 1.5)  # FFmpeg decodes less exactly
        flipped = (theirs.flip(-1).float() - expected).abs()
        assert (difference.mean(dim=(1, 2, 3, 4)) < flipped.mean(dim=(1, 2, 3, 4))).all()


@pytest.mark.parametrize("augmentation", [None, AUGMENTED])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_gpu_peer_makes_the_same_pairs_as_our_loader(index, device, augmentation):
    planned = plan(index, OPTIONS, 6, augmentation)
    on = torch.device(device)
    made = gpu_peers.batches(planned, (64, 32), on, threads=2)
    rows = np.concatenate([spectrum.rows(OPTIONS.spectra), [spectrum.LUMA]])
    our_batches = ours(index, on, augmentation)
    for items, batch, theirs in zip(planned, our_batches, made, strict=False):
        assert [item.path for item in items] == [index.path(row) for row in batch.rows]
        weights = np.stack([item.weights for item in items])
        brightness = weights.sum(axis=1, keepdims=True)
        assert weights == pytest.approx(brightness * rows[batch.spectrum.cpu()], abs=1e-6)
        assert theirs.dtype == torch.uint8
        assert theirs.device.type == device
        expected = batch.images.permute(0, 1, 4, 2, 3).float()
        # One pixel in thousands is rounded differently; nvJPEG also takes the nearest chroma.
        difference = (theirs.float() - expected).abs()
        assert difference.mean() < (0.1 if device == "cpu" else 4)
        flipped = (theirs.flip(-1).float() - expected).abs()
        assert (difference.mean(dim=(1, 2, 3, 4)) < flipped.mean(dim=(1, 2, 3, 4))).all()


def _jpeg(path: Path, mode: str, size: tuple[int, int]) -> Item:
    noise = np.random.default_rng(0).integers(0, 256, (*size, len(mode)), np.uint8)
    Image.fromarray(noise.squeeze()).save(path, quality=95)
    return Item(path, False, np.array([0, 1, 0], np.float32))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_gpu_peer_decodes_gray_files_and_any_size(tmp_path, device):
    gray = _jpeg(tmp_path / "gray.jpg", "L", (40, 20))
    colour = _jpeg(tmp_path / "colour.jpg", "RGB", (64, 50))
    (pairs,) = gpu_peers.batches([[gray, colour]], (32, 16), torch.device(device), threads=1)
    assert pairs.shape == (2, 2, 3, 32, 16)
    pairs = pairs.cpu()
    assert (pairs[0] == pairs[0, 0, 0]).all()  # gray: every channel, and the counterpart
    assert (pairs[1, 1] == pairs[1, 0, 1]).all()  # colour: its green, three times
    assert not (pairs[1, 0, 0] == pairs[1, 0, 1]).all()


def test_the_gpu_peer_leaves_no_thread_behind(index):
    planned = plan(index, OPTIONS, steps=6)
    before = set(threading.enumerate())  # threads of other tests may still be ending
    made = gpu_peers.batches(planned, (64, 32), CPU, threads=2)
    next(made)
    assert set(threading.enumerate()) - before
    made.close()
    assert not set(threading.enumerate()) - before

    gone = Item(Path("/none/1.jpg"), False, planned[0][0].weights)
    with pytest.raises(RuntimeError, match="No such file"):
        list(gpu_peers.batches([*planned, [gone]], (64, 32), CPU, threads=2))
    assert not set(threading.enumerate()) - before


def test_the_gpu_peer_says_why_it_is_left_out(index):
    items = plan(index, OPTIONS, steps=1)[0]
    assert gpu_peers.why_not(items, CPU) == "needs a GPU"
    if torch.cuda.device_count() == 0:  # as if torchvision had no nvJPEG
        assert gpu_peers.why_not(items, torch.device("cuda"))
