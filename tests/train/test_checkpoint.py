"""Checkpoints: equal runs give equal files, foreign files are refused, and trials do not leak."""

import pytest
import safetensors.torch
import torch

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError
from train import checkpoint, run_folder

OPTIONS = ModelOptions(backbone="resnet10t", weights="none")


@pytest.fixture
def run(tmp_path):
    (tmp_path / run_folder.CHECKPOINTS).mkdir()
    return tmp_path


def test_equal_weights_give_equal_files(run):
    # safetensors writes metadata of several entries in random order.
    network = Network(OPTIONS, 5)
    files = {checkpoint.save(run, network, 1, "regdb trial 3").read_bytes() for _ in range(8)}
    assert len(files) == 1


def test_what_was_saved_is_loaded(run):
    network = Network(OPTIONS, 5)
    loaded = checkpoint.load(checkpoint.save(run, network, 1, "sysu"), OPTIONS)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


@pytest.mark.parametrize(
    "metadata", [None, {"format": "other"}, {"about": "not json"}, {"about": "[1]"}]
)
def test_a_file_of_another_program_is_refused(run, metadata):
    path = run / "foreign.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(3)}, metadata=metadata))
    with pytest.raises(InputError, match=r"foreign\.safetensors: is of no known format"):
        checkpoint.load(path, OPTIONS)


@pytest.mark.parametrize(
    ("trained_on", "tested_on", "leaks"),
    [
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
    path = checkpoint.save(run, Network(OPTIONS, 2), 1, trained_on)
    if not leaks:
        return checkpoint.check_leak(path, tested_on)
    with pytest.raises(InputError, match=f"was trained on {trained_on}; on {tested_on} it would"):
        checkpoint.check_leak(path, tested_on)
    return None
