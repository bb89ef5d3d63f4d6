"""Fine-tuning from a run, a checkpoint or an export, and what is rejected."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError
from tests.front_door import SMALL, call, refused
from tests.untrained import make_run
from train import checkpoint, run_folder, start

NONE = ModelOptions("test_resnet", "none", bnneck=True)


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    """An untrained run; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, people, "regdb trial 1")
    return folder


def model(weights: Path) -> ModelOptions:
    return ModelOptions("test_resnet", str(weights), bnneck=True)


def test_a_run_is_fine_tuned_from_its_newest_checkpoint(run, people, tmp_path, capsys):
    args = (*SMALL, "--data.root", people, "--run-dir", tmp_path / "new", "--epochs", "1")
    assert call("train", "demo", *args, "--model.weights", run) == 0
    file = checkpoint.latest(run)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("weights")]
    (line,) = lines
    assert line.startswith(f"weights   79 of 79 tensors from {file}; left out: classifier")
    assert checkpoint.history(checkpoint.latest(tmp_path / "new")) == ["sysu", "regdb trial 1"]


@pytest.mark.parametrize("kind", ["run", "checkpoint", "export"])
def test_the_network_starts_with_the_runs_final_weights(run, tmp_path, kind):
    weights = {
        "run": run,
        "checkpoint": checkpoint.latest(run),
        "export": tmp_path / "e.safetensors",
    }
    if kind == "export":
        args = ("--format", "safetensors", "--out", weights[kind])
        assert call("export", run, *args) == 0
    origin = start.find(model(weights[kind]), tmp_path / "new", False, "sysu")
    assert Path(origin.model.weights).is_file()
    assert origin.trained_on == "sysu after regdb trial 1"
    network = Network(origin.model, 17, (32, 16)).eval()
    old = load_file(checkpoint.latest(run))
    for name, value in network.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(value, old["network." + name]), name


def test_weights_trained_on_the_test_are_rejected(run, tmp_path):
    with pytest.raises(InputError, match="was trained on regdb trial 1, and so on identities that"):
        start.find(model(run), tmp_path, False, "regdb trial 2")
    assert start.find(model(run), tmp_path, False, "regdb trial 1").trained_on == "regdb trial 1"
    assert start.find(NONE, tmp_path, False, "regdb trial 2").trained_on == "regdb trial 2"


def test_a_resumed_run_does_not_need_its_first_weights(run):
    origin = start.find(model(Path("/gone.pth")), run, True, "sysu")
    assert origin.model.weights == "none"
    assert origin.trained_on == "regdb trial 1"


def test_a_resumed_run_without_a_checkpoint_starts_again(run, tmp_path):
    assert start.find(model(run), tmp_path, True, "sysu").model.weights != "none"


def test_damaged_weights_are_rejected(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    file = checkpoint.latest(copy)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="its checksum is wrong"):
        start.find(model(copy), tmp_path, False, "sysu")
    file.unlink()
    with pytest.raises(InputError, match="has no checkpoint yet"):
        start.find(model(copy), tmp_path, False, "sysu")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model.weights", "EMPTY", "conv1.0.weight is missing; 0 of its 79 tensors are there"),
        ("--model.weights", "FOLDER", "is not a run folder"),
        (
            "--model.weights",
            "/nowhere.pth",
            "no such file; pass a .safetensors or .pth file, a run",
        ),
        ("--model.backbone", "halonet_h1", "--model.backbone halonet_h1: cannot take 32x16 images"),
        (
            "--model.backbone",
            "resnet18.mine",
            "timm has no weights of that name; it has resnet18.a",
        ),
    ],
)
def test_a_run_that_cannot_start_leaves_no_folder(people, tmp_path, capsys, option, value, message):
    torch.save({}, tmp_path / "empty.pth")
    value = {"EMPTY": tmp_path / "empty.pth", "FOLDER": tmp_path}.get(value, value)
    args = (*SMALL, "--data.root", people, "--run-dir", tmp_path / "new")
    line = refused(capsys, "train", "demo", *args, option, value)
    assert message in line
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_fine_tuning_starts_at_a_much_lower_loss(people, tmp_path, capsys):
    args = (*SMALL, "--checkpoint-every", "0", "--data.root", people)
    old, new = tmp_path / "old", tmp_path / "new"
    assert call("train", "demo", *args, "--epochs", "20", "--run-dir", old) == 0
    tuned = ("--epochs", "1", "--model.weights", old, "--run-dir", new)
    assert call("train", "demo", *args, *tuned) == 0
    scratch, after = (run_folder.read_metrics(run)[0]["loss"] for run in (old, new))
    with capsys.disabled():
        print(f"\nloss of the first epoch: from scratch {scratch:.3f}, fine-tuned {after:.3f}")
    assert after < 0.6 * scratch
