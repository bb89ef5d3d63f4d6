"""Grouping an index: every image once, replacements for bad ones, memory for many images."""

import sys
import tracemalloc

import numpy as np
import pytest

from bench.scale import synthetic
from pipeline.counterpart import feeding
from pipeline.datasets.records import Modality
from pipeline.draws import Draw
from pipeline.groups import group
from pipeline.options import DataOptions
from pipeline.source import TrainingSource
from pipeline.spectrum import uniform
from tests.conftest import make_index

IMAGES = 200_000


@pytest.mark.parametrize("sampling", ["balanced", "random", "shuffle"])
def test_every_image_is_in_its_identitys_group(sampling):
    index = make_index([(3, 1), (2, 5), (3, 0), (1, 2)])
    groups = group(index, sampling)
    assert (groups.pids[groups.labels] == index.pids).all()
    seen = []
    for part in groups.parts:
        for i in range(len(groups.pids)):
            rows = part.rows[part.order[part.first[i] : part.first[i] + part.count[i]]]
            assert (groups.labels[rows] == i).all()
            assert (np.diff(rows) > 0).all()
            seen += rows.tolist()
        blocks = [block.shape for block in part.equal_size_blocks()]
        assert sum(identities * size for identities, size in blocks) == len(part.rows)
        sizes = [size for identities, size in blocks if identities]
        assert sizes == sorted(set(part.count[part.count > 0].tolist()))
    assert sorted(seen) == list(range(len(index)))


@pytest.mark.parametrize("sampling", ["balanced", "random", "shuffle"])
def test_rows_like_an_image_share_its_identity_and_modality(sampling):
    index = synthetic(400, 30)
    groups = group(index, sampling)
    for row in range(len(index)):
        same = (index.pids == index.pids[row]) & (index.modality == index.modality[row])
        assert (groups.rows_like(index, row) == np.flatnonzero(same)).all()


def test_bad_images_are_replaced_and_the_rest_of_the_plan_stays():
    index = synthetic(2000, 60)
    options = DataOptions(p=8, k=4, on_bad_image="skip")
    source = TrainingSource(index, options, seed=3)
    source.begin(2, uniform())
    whole = np.stack([source.plan.rows_of_all(step) for step in range(source.plan.steps)])
    bad = [int(row) for row in np.unique(index.pids[:100], return_index=True)[1]]
    source.plan.bad = dict.fromkeys(bad, "damaged")
    source.begin(2, uniform())
    plan = np.stack([source.plan.rows_of_all(step) for step in range(source.plan.steps)])
    hit = np.isin(whole, bad)
    assert hit.any()
    assert not np.isin(plan, bad).any()
    assert (plan == whole)[~hit].all()
    assert (index.pids[plan] == index.pids[whole]).all()
    assert (index.modality[plan] == index.modality[whole]).all()


def test_an_image_takes_few_bytes_and_no_python_object():
    """With 10 M images, 100 bytes per image are 1 GB."""
    index = synthetic(IMAGES, IMAGES // 10)
    assert set(np.unique(index.modality)) == set(Modality)
    tracemalloc.start()
    blocks = sys.getallocatedblocks()
    source = TrainingSource(index, DataOptions(p=16, k=4), seed=0)
    source.begin(1, uniform())
    source.feed(Draw("pair", 3, feeding(DataOptions())))()
    assert sys.getallocatedblocks() - blocks < 2000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * IMAGES
