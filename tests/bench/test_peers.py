"""The peers do the work that our loader does: same images, flips, spectra, near-equal pixels."""

import pytest
import torch

from bench.peers import MEAN, STD, Items, PilFloat, Spdl, TorchvisionUint8, plan, why_no_spdl
from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions

CPU = torch.device("cpu")
OPTIONS = DataOptions(p=2, k=2, height_px=64, width_px=32, threads=2)


@pytest.fixture(scope="module")
def index(people):
    return read_training(OPTIONS, people)


@pytest.mark.parametrize("peer", [PilFloat, TorchvisionUint8, Spdl])
def test_a_peer_makes_the_pairs_that_we_make(index, peer: type[Items]):
    batches = plan(index, OPTIONS, steps=3)
    if peer is Spdl and (reason := why_no_spdl(Spdl(batches[0], (64, 32)))):
        pytest.skip(reason)
    ours = TrainingLoader(index, OPTIONS, CPU, seed=0).epoch(1, spectrum.uniform())
    for items, batch in zip(batches, ours, strict=False):
        assert [item.path for item in items] == [index.path(row) for row in batch.rows]
        theirs = torch.stack([peer(items, (64, 32))[i] for i in range(len(items))])
        if peer is PilFloat:
            theirs = (theirs * STD + MEAN) * 255
        if peer is Spdl:
            theirs = theirs.permute(0, 1, 4, 2, 3)
        expected = batch.images.permute(0, 1, 4, 2, 3).float()
        # Another resize, antialiased alike: a level or two on average, hardly more anywhere.
        difference = (theirs.float() - expected).abs()
        assert difference.mean() < (4 if peer is Spdl else 1.5)  # FFmpeg decodes less exactly
        flipped = (theirs.flip(-1).float() - expected).abs()
        assert (difference.mean(dim=(1, 2, 3, 4)) < flipped.mean(dim=(1, 2, 3, 4))).all()
