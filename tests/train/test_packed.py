"""Training on packed files equals training on loose files: batches, losses, weights, figures."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline import spectrum
from pipeline.datasets.kinds import read_training
from pipeline.datasets.packing import pack
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader, TrainingLoader
from pipeline.options import AugmentationOptions, DataOptions
from tests import trees
from tests.front_door import SMALL, call, refused
from tests.pipeline.test_cache import assert_alike, assert_equal
from tests.train.test_bad_images import damage
from tests.train.test_resume import assert_same_run
from tests.train.test_trials import TINY
from train.methods.base import Method

CPU = torch.device("cpu")
QUICK = [*SMALL, "--epochs", "1"]
OPTIONS = DataOptions(height_px=32, width_px=16, p=4, k=4, threads=2, cache="none")


@pytest.fixture(scope="module")
def people(more_people) -> Path:
    """Their galleries differ from trial to trial."""
    return more_people


@pytest.fixture(scope="module")
def packed(people, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "people"
    pack(people, folder, shard_mib=1)
    return folder


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "loose"
    assert call("train", "demo", "--data.root", people, "--run-dir", folder, *QUICK) == 0
    return folder


AUGMENTED = Method(augmentation=AugmentationOptions(crop_padding_px=3, erasing=0.5, channel=0.5))


@pytest.mark.parametrize(
    ("cache", "prefetch", "augment"), [("none", 3, None), ("host", 1, AUGMENTED.augment)]
)
def test_batches_equal_those_of_loose_files_bit_for_bit(people, packed, cache, prefetch, augment):
    loose = TrainingLoader(read_training(OPTIONS, people), OPTIONS, CPU, 3, augment=augment)
    options = dataclasses.replace(OPTIONS, cache=cache, prefetch=prefetch)
    ours = TrainingLoader(read_training(options, packed), options, CPU, 3, augment=augment)
    for epoch in (1, 2, 1):
        some, others = (x.epoch(epoch, spectrum.uniform()) for x in (ours, loose))
        assert_equal(list(some), list(others))


@pytest.mark.gpu
def test_on_a_gpu_batches_equal_those_of_loose_files(people, packed, gpu):
    loose, ours = (
        TrainingLoader(read_training(OPTIONS, root), OPTIONS, gpu, 3) for root in (people, packed)
    )
    for a, b in zip(*(x.epoch(1, spectrum.uniform()) for x in (ours, loose)), strict=True):
        assert torch.equal(a.pids, b.pids)
        assert torch.equal(a.spectrum, b.spectrum)
        assert_alike(a.images, b.images)


def test_every_format_is_read_like_a_loose_file(tmp_path):
    file = trees.table(tmp_path / "any")  # JPEG, PNG and BMP
    pack(file, tmp_path / "pack")
    options = dataclasses.replace(OPTIONS, eval_batch=7)
    some, others = (
        torch.cat(list(EvaluationLoader(read_training(options, root), options, CPU)))
        for root in (file, tmp_path / "pack")
    )
    assert torch.equal(some, others)


@pytest.mark.parametrize("how", ["empty", "header", "truncated"])
def test_a_bad_image_is_named_by_its_shard_or_skipped(people, tmp_path, how):
    root = Path(shutil.copytree(people, tmp_path / "people"))
    loose = read_training(OPTIONS, root)
    victim = int(next(TrainingLoader(loose, OPTIONS, CPU, 0).epoch(1, spectrum.uniform())).rows[3])
    damage(loose.path(victim), how)
    pack(root, tmp_path / "pack", shard_mib=1)
    ours = read_training(OPTIONS, tmp_path / "pack")
    name = f"{loose.path(victim).relative_to(root)}: "
    with pytest.raises(InputError, match=rf"pack/shard-00000\d.tar:{name}"):
        list(TrainingLoader(ours, OPTIONS, CPU, 0).epoch(1, spectrum.uniform()))
    options = dataclasses.replace(OPTIONS, on_bad_image="skip", max_bad=0.1)
    loaders = [TrainingLoader(index, options, CPU, 0) for index in (ours, loose)]
    assert_equal(*(list(loader.epoch(1, spectrum.uniform())) for loader in loaders))
    assert [list(loader.plan.bad) for loader in loaders] == [[victim], [victim]]


def test_a_run_equals_that_of_loose_files(people, packed, run, tmp_path):
    ours = tmp_path / "packed"
    assert call("train", "demo", "--data.root", packed, "--run-dir", ours, *QUICK) == 0
    assert_same_run(ours, run)
    before = (run / "result.json").read_bytes()
    assert (ours / "result.json").read_bytes() == before
    # Test each run on the other data set.
    for folder, root in ((ours, people), (run, packed)):
        assert call("eval", folder, "--data-root", root, "--device", "cpu") == 0
        assert (folder / "result.json").read_bytes() == before
        found = json.loads((folder / f"result-on-{root.name}.json").read_text())
        expected = json.loads(before)
        for mode, same in zip(found["modes"], expected["modes"], strict=True):
            assert mode == same | {"data": str(root)}


def test_regdb_keeps_its_trials_and_the_leak_check(tmp_path, capsys):
    root = trees.regdb(tmp_path / "RegDB", num_ids=8, num_images=2)
    shards = tmp_path / "shards"
    assert call("data", "pack", root, "--out", shards) == 0
    assert "32 images" in capsys.readouterr().out
    results = []
    for name, folder in (("loose", root), ("packed", shards)):
        args = ("--data.root", folder, "--run-dir", tmp_path / name, *TINY)
        assert call("train", "regdb", *args, "--trial", "3") == 0
        results.append((tmp_path / name / "result.json").read_bytes())
    assert results[0] == results[1]
    eval_ = ("eval", tmp_path / "packed", "--device", "cpu")
    line = refused(capsys, *eval_, "--trial", "4")
    assert "was trained on regdb trial 3; regdb trial 4 tests with some of the same" in line
    # All ten trials are started; the first finds too few people.
    args = ("--data.root", shards, "--run-dir", tmp_path / "all", *TINY, "--trial", "all")
    line = refused(capsys, "train", "regdb", *args, "--data.p", "99")
    assert "has only 4 training identities" in line


def test_the_data_commands(people, packed, tmp_path, capsys):
    for name, root in (("loose", people), ("packed", packed)):
        assert call("data", "preview", root, "--out", tmp_path / f"{name}.png") == 0
    assert (tmp_path / "loose.png").read_bytes() == (tmp_path / "packed.png").read_bytes()
    assert call("data", "check", packed) == 0
    assert "no fault" in capsys.readouterr().out
    line = refused(capsys, "data", "pack", people, "--out", packed)
    assert line == f"cdp: --out {packed}: exists; name another folder"
    next(iter(packed.glob("shard-*.tar"))).rename(tmp_path / "moved")
    line = refused(capsys, "train", "demo", "--data.root", packed, *SMALL)
    assert "missing; copy the pack again" in line
