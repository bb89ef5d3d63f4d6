"""The official counts of SYSU-MM01's protocol, on a tree of the official structure."""

import numpy as np
import pytest

from pipeline.datasets import sysu
from pipeline.datasets.kinds import read_protocol, read_training, survey
from pipeline.datasets.permutations import read_permutations
from pipeline.datasets.records import Modality
from pipeline.options import DataOptions


@pytest.fixture(scope="module")
def protocol(golden):
    return read_protocol(DataOptions(), golden)


@pytest.mark.parametrize(
    ("split", "num_ids", "num_rgb", "num_ir"),
    [("train+val", 395, 22258, 11909), ("train", 296, 20284, 9929)],
)
def test_training_counts(golden, split, num_ids, num_rgb, num_ir):
    index = read_training(DataOptions(split=split), golden)
    assert len(np.unique(index.pids)) == num_ids
    assert (index.modality == Modality.RGB).sum() == num_rgb
    assert (index.modality == Modality.IR).sum() == num_ir


def test_a_survey_of_the_tree_has_the_official_counts(golden):
    found = survey(golden, "sysu")
    assert found.faults == []
    assert found.counts == {what: (number, number) for what, number in sysu.COUNTS.items()}


@pytest.mark.parametrize(
    ("mode", "num_gallery", "num_valid"),
    [
        ("all-search single-shot", 301, 3803),
        ("all-search multi-shot", 3010, 3803),
        ("indoor single-shot", 112, 2208),
        ("indoor multi-shot", 1120, 2208),
    ],
)
def test_protocol_counts(protocol, mode, num_gallery, num_valid):
    (found,) = [m for m in protocol.modes if m.name == mode]
    assert len(found.trials) == 10
    for trial in found.trials:
        assert len(trial.query) == 3803
        assert len(set(trial.gallery.tolist())) == len(trial.gallery) == num_gallery
        assert (protocol.num_matches(trial) > 0).sum() == num_valid
    camids = protocol.index.camids[trial.query]
    assert ((camids == 3).sum(), (camids == 6).sum()) == (1883, 1920)
    assert len({trial.gallery.tobytes() for trial in found.trials}) == 10


def test_the_first_shot_of_a_multi_shot_gallery_is_the_single_shot(protocol):
    single, multi = protocol.modes[0].trials, protocol.modes[1].trials
    for one, ten in zip(single, multi, strict=True):
        assert np.isin(one.gallery, ten.gallery).all()


def test_a_multi_shot_gallery_holds_the_permutations_first_ten(golden, protocol):
    orders = read_permutations(golden)
    index = protocol.index
    trial = protocol.modes[1].trials[6]
    camid, pid = 4, int(index.pids[trial.gallery][index.camids[trial.gallery] == 4][0])
    files = sorted((golden / f"cam{camid}" / f"{pid:04d}").iterdir())
    expected = {files[n - 1] for n in orders[camid - 1][pid - 1][6][:10]}
    of_both = (index.camids == camid) & (index.pids == pid)
    found = {index.path(row) for row in trial.gallery if of_both[row]}
    assert found == expected
