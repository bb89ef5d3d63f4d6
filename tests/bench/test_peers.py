"""The peers do the work that our loader does: same images, flips, spectra, near-equal pixels."""

import dataclasses

import pytest
import torch
from rich.console import Console

from bench.loader import bench_loader, check_length
from bench.peers import MEAN, STD, PilFloat, TorchvisionUint8, plan
from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.errors import InputError
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions

CPU = torch.device("cpu")
OPTIONS = DataOptions(p=2, k=2, height_px=64, width_px=32, threads=2)


@pytest.fixture(scope="module")
def index(people):
    return read_training(OPTIONS, people)


@pytest.mark.parametrize("peer", [PilFloat, TorchvisionUint8])
def test_a_peer_makes_the_pairs_that_we_make(index, peer):
    batches = plan(index, OPTIONS, steps=3)
    ours = TrainingLoader(index, OPTIONS, CPU, seed=0).epoch(1, spectrum.uniform())
    for items, batch in zip(batches, ours, strict=False):
        assert [item.path for item in items] == [index.path(row) for row in batch.rows]
        theirs = torch.stack([peer(items, (64, 32))[i] for i in range(len(items))])
        if peer is PilFloat:
            theirs = (theirs * STD + MEAN) * 255
        expected = batch.images.permute(0, 1, 4, 2, 3).float()
        # Another resize, antialiased alike: a level or two on average, hardly more anywhere.
        difference = (theirs.float() - expected).abs()
        assert difference.mean() < 1.5
        flipped = (theirs.flip(-1).float() - expected).abs()
        assert (difference.mean(dim=(1, 2, 3, 4)) < flipped.mean(dim=(1, 2, 3, 4))).all()


def test_the_loader_is_measured_in_every_place(index, capsys):
    results = bench_loader(index, OPTIONS, CPU, rounds=1, steps=2, out=Console())
    titles = [result["bench"] for result in results]
    assert titles == ["loader, cache", "loader, threads", "loader, prefetch"]
    for result in results:
        assert all(side["rate"]["median"] > 0 for side in result["sides"].values())
    assert set(results[0]["sides"]) == {"streaming", "cached in host memory"}
    assert "cached in host memory" in capsys.readouterr().out


def test_an_epoch_too_short_to_measure_is_refused(index):
    loader = TrainingLoader(index, dataclasses.replace(OPTIONS, p=8, k=8), CPU, seed=0)
    with pytest.raises(InputError, match=r"an epoch has \d+ batches, the benchmark needs 30"):
        check_length(loader, 20)
