"""Checkpoints: equal runs give equal files, foreign files are rejected, trials do not leak."""

import dataclasses
import json
import os
import shutil

import pytest
import safetensors.torch
import torch

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError
from tests.conftest import make_index
from tests.train.test_step import make_batch, make_step
from train import checkpoint, run_folder
from train.checkpoint import Progress, State
from train.dhsm import DhsmOptions, Mining
from train.methods.base import Method
from train.optimizer import Group, OptimizerOptions, build
from train.runtime import StepOptions
from train.step import TrainingStep

OPTIONS = ModelOptions(backbone="test_resnet", weights="none")
METHOD = Method(model=OPTIONS)
CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path):
    (tmp_path / run_folder.CHECKPOINTS).mkdir()
    return tmp_path


def make_state(num_classes: int = 5, seed: int = 0) -> State:
    """A network and its training state after one step."""
    torch.manual_seed(seed)
    network = Network(OPTIONS, num_classes)
    plain = StepOptions("off", "off", "on", "off")
    optimizer = build([Group(network.parameters())], OptimizerOptions(), plain, CPU)
    features, _, logits, _ = network(torch.randint(256, (4, 3, 32, 16), dtype=torch.uint8))
    (features.square().mean() + logits.square().mean()).backward()
    optimizer.step()
    mining = Mining(DhsmOptions(), 4, CPU)
    mining.sums += torch.rand(4, dtype=torch.float64)
    mining.probability, mining.r = torch.rand(2, 4, dtype=torch.float64).numpy() / 3
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return State(network, num_classes, optimizer, scaler, mining, torch.rand(7, 3))


def at(epoch: int = 1, step: int = 7) -> Progress:
    return Progress(epoch, step)


def assert_same(some: dict, others: dict) -> None:
    assert set(some) == set(others)
    for name in some:
        assert torch.equal(some[name], others[name]), name


def test_equal_states_give_equal_files(run):
    # safetensors writes metadata of several entries in random order.
    state = make_state()
    files = {checkpoint.save(run, state, at(), "regdb trial 3").read_bytes() for _ in range(4)}
    assert len(files) == 1


def test_saved_state_is_restored_bit_for_bit(run):
    state, other = make_state(), make_state(seed=1)
    before = {name: value.clone() for name, value in state.tensors().items()}
    checkpoint.save(run, state, at(3, 2), "sysu")
    torch.rand(9)  # as if dropout had drawn
    progress = checkpoint.restore(run, other, pytest.fail)
    assert_same(other.tensors(), before)
    assert (progress.epoch, progress.step) == (3, 2)
    assert other.mining.probability.tolist() == state.mining.probability.tolist()
    assert other.mining.r.tolist() == state.mining.r.tolist()


@pytest.mark.parametrize(
    ("precision", "fused"),
    [("off", "on"), ("off", "off"), pytest.param("fp16", "off", marks=pytest.mark.slow)],
)
def test_a_step_after_a_restart_equals_the_step_without_it(run, precision, fused):
    """Adam's moments have their weights' memory layout; fp16's scale grows after whole steps."""

    def begin() -> tuple[TrainingStep, State]:
        network, mining, step = make_step(precision, fused_optimizer=fused)
        state = State(network, 4, step.optimizer, step.scaler, mining, torch.zeros(5, 3))
        return step, state

    (step, state), (other, restored) = begin(), begin()
    for seed in range(3):
        step(make_batch(seed))
    checkpoint.save(run, state, at(), "sysu")
    expected = [step(make_batch(seed)) for seed in (3, 4)]
    checkpoint.restore(run, restored, pytest.fail)
    found = [other(make_batch(seed)) for seed in (3, 4)]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert_same(restored.network.state_dict(), state.network.state_dict())


def test_weights_alone_are_loaded_for_a_test(run):
    state = make_state()
    loaded = checkpoint.load(checkpoint.save(run, state, at(), "sysu"), METHOD, (32, 16))
    assert_same(loaded.state_dict(), state.network.state_dict())


def test_the_two_newest_files_are_kept(run):
    state = make_state()
    for epoch, step in ((1, 3), (1, 7), (2, 1), (12, 7)):
        checkpoint.save(run, state, at(epoch, step), "sysu")
    assert [path.name for path in checkpoint.found(run)] == [
        "step-0000008.safetensors",
        "step-0000084.safetensors",
    ]


def test_a_header_without_progress_counts_as_damaged(run):
    path = checkpoint.save(run, make_state(), at(), "sysu")
    tensors, about = checkpoint._read(path)
    for wrong in ({"progress": {"epoch": 1}}, {"progress": None}, {"sha256": 7}):
        written = json.dumps(about | wrong)
        path.write_bytes(safetensors.torch.save(tensors, metadata={"about": written}))
        with pytest.raises(InputError, match="cannot be loaded"):
            checkpoint.load(path, METHOD, (32, 16))


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "header"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(run, damage):
    state, said = make_state(), []
    checkpoint.save(run, state, at(1), "sysu")
    path = checkpoint.save(run, state, at(2), "sysu")
    content = bytearray(path.read_bytes())
    content[-9 if damage == "bit" else 9] ^= 1 if damage in ("bit", "header") else 0
    path.write_bytes(content[: {"cut": 1000, "empty": 0}.get(damage)])
    assert checkpoint.restore(run, make_state(seed=1), said.append).epoch == 1
    assert f"{path}: cannot be loaded" in said[0]
    assert "using the checkpoint before it" in said[0]
    checkpoint.found(run)[0].write_bytes(b"")
    with pytest.raises(
        InputError, match="no intact checkpoint is left to resume from: train again"
    ):
        checkpoint.restore(run, state, said.append)


def test_other_training_images_are_refused(run):
    """A removed identity shifts the classes; a removed image shifts the rows of the bad ones."""
    state = make_state()
    trained = checkpoint.identify(make_index([(2, 2), (3, 2), (2, 3)]))
    checkpoint.save(run, dataclasses.replace(state, data=trained), at(), "sysu")
    for now, how in (
        ([(2, 2), (3, 2)], "9 images of 2 identities"),
        ([(2, 2), (3, 2), (2, 2)], "13 images of 3 identities"),
        ([(2, 2), (2, 3), (3, 2)], "others, or in another order"),
    ):
        other = dataclasses.replace(state, data=checkpoint.identify(make_index(now)))
        with pytest.raises(
            InputError, match=f"trained on 14 images of 3 identities, but .* are now {how}; restore"
        ):
            checkpoint.restore(run, other, pytest.fail)


def test_a_run_of_an_earlier_version_names_no_training_images(run):
    checkpoint.save(run, make_state(), at(), "sysu")
    (path,) = checkpoint.found(run)
    tensors, about = checkpoint._read(path)
    del about["data"]
    path.write_bytes(safetensors.torch.save(tensors, metadata={"about": json.dumps(about)}))
    now = dataclasses.replace(make_state(), data=checkpoint.identify(make_index([(2, 2)])))
    assert checkpoint.restore(run, now, pytest.fail)


def test_a_state_of_another_network_is_refused_in_one_line(run):
    checkpoint.save(run, make_state(), at(), "sysu")
    with pytest.raises(InputError, match=r"does not fit the run's config\.json") as error:
        checkpoint.restore(run, make_state(num_classes=6), pytest.fail)
    assert "\n" not in str(error.value)


def test_copies_of_a_checkpoint_are_neither_used_nor_removed(run):
    state = make_state()
    copy = checkpoint.save(run, state, at(1), "sysu").with_name("step-0000007-best.safetensors")
    shutil.copy(checkpoint.latest(run), copy)
    for epoch in (2, 3, 4):
        saved = checkpoint.save(run, state, at(epoch), "sysu")
        assert checkpoint.latest(run) == saved
    assert copy.exists()


def test_a_folder_whose_name_is_not_utf_8_is_named_not_called_damaged(run):
    checkpoint.save(run, make_state(), at(), "sysu")
    odd = run.rename(run.with_name(os.fsdecode(b"\xff")))
    with pytest.raises(InputError, match="must be UTF-8, for safetensors; rename the folder"):
        checkpoint.restore(odd, make_state(), pytest.fail)


def test_a_run_without_a_checkpoint_restores_nothing(run):
    assert checkpoint.restore(run, make_state(), pytest.fail) is None


def test_a_full_disk_leaves_the_older_checkpoint_intact(run, monkeypatch):
    state = make_state()
    first = checkpoint.save(run, state, at(1), "sysu")
    content = first.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(run, state, at(2), "sysu")
    assert [path.name for path in (run / "checkpoints").iterdir()] == [first.name]
    assert first.read_bytes() == content


@pytest.mark.parametrize(
    "metadata", [None, {"format": "other"}, {"about": "not json"}, {"about": "[1]"}]
)
def test_a_file_from_another_program_is_rejected(run, metadata):
    path = run / "foreign.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(3)}, metadata=metadata))
    with pytest.raises(InputError, match=r"foreign\.safetensors: is of unknown format"):
        checkpoint.load(path, METHOD, (32, 16))


@pytest.mark.parametrize(
    ("trained_on", "tested_on", "leaks"),
    [
        ("regdb trial 3 after sysu", "regdb trial 4", True),
        ("regdb trial 4 after regdb trial 3", "regdb trial 4", True),
        ("sysu after regdb trial 3", "regdb trial 3", False),
        ("regdb trial 3", "regdb trial 4", True),
        ("regdb trial 1", "regdb trial 10", True),
        ("regdb trial 3", "regdb trial 3", False),
        ("regdb trial 3", "sysu", False),
        ("regdb trial 3", "regdb-like", False),
        ("sysu", "regdb trial 3", False),
        ("sysu", "sysu", False),
    ],
)
def test_only_another_trial_of_one_data_set_leaks(run, trained_on, tested_on, leaks):
    path = checkpoint.save(run, make_state(2), at(), trained_on)
    if not leaks:
        return checkpoint.check_leak(path, tested_on)
    seen = next(part for part in trained_on.split(" after ") if part != tested_on)
    with pytest.raises(InputError, match=f"was trained on {seen}; {tested_on} tests with some"):
        checkpoint.check_leak(path, tested_on)
    return None
