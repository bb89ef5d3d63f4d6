"""The whole program on a GPU, from the command line."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.front_door import SMALL, call
from tests.test_cli import events
from tests.train.test_resume import signal_at
from train import checkpoint

pytestmark = pytest.mark.gpu  # best in one process (-n 0), so that their run is compiled once

EPOCHS = 3
ON_THE_GPU = [*SMALL, "--precision", "bf16", "--epochs", str(EPOCHS), "--log-every", "1"]
ON_THE_GPU += ["--eval-every", "2"]
ON_THE_GPU[ON_THE_GPU.index("cpu")] = "cuda"
ON_THE_GPU += ["--data.height-px", "64", "--data.width-px", "32"]


@pytest.fixture(scope="module")
def people(more_people) -> Path:
    """Their galleries differ from trial to trial."""
    return more_people


@pytest.fixture
def front_door(unchecked):
    """Calls the command line without shape checks, which torch.compile cannot trace."""
    return call


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    """A finished run, compiled and recorded, with cached pixels on the GPU; do not change it."""
    import jaxtyping

    folder = tmp_path_factory.mktemp("runs") / "gpu"
    jaxtyping.config.update("jaxtyping_disable", True)
    assert call("train", "demo", "--data.root", people, "--run-dir", folder, *ON_THE_GPU) == 0
    jaxtyping.config.update("jaxtyping_disable", False)
    return folder


def test_everything_ran_on_the_gpu(run):
    config = json.loads((run / "config.json").read_text())
    assert (config["device"], config["precision"]) == ("cuda", "bf16")
    assert config["data"]["cache"] == "gpu"
    assert config["step"] == dict.fromkeys(config["step"], "on")
    assert json.loads((run / "result.json").read_text())["num_query"] > 0


def test_dhsm_updates_the_probabilities(run):
    """Each epoch's P̂ follows from the one before by Eq. 5-7."""
    epochs = events(run, "epoch")
    assert len(epochs) == EPOCHS
    for before, after in pairwise(epochs):
        missing = 1 - np.array(list(before["confidence"].values()))
        p_hat = np.array(list(before["probability"].values()))
        expected = 0.1 * p_hat + 0.9 * missing / missing.sum()
        found = list(after["probability"].values())
        assert found == pytest.approx(expected / expected.sum(), rel=1e-9)
        assert found != pytest.approx([0.25] * 4, abs=1e-6)


def test_streaming_and_cached_runs_start_with_the_same_losses(run, people, tmp_path, front_door):
    """They are recorded, but not compiled, to save time."""
    args = ("--data.root", people, "--run-dir", tmp_path / "r", *ON_THE_GPU, "--epochs", "1")
    args += ("--step.compile", "off")
    for cache in ("none", "host"):
        assert front_door("train", "demo", *args, "--data.cache", cache, "--overwrite") == 0
        found, expected = (events(r, "epoch")[0] for r in (tmp_path / "r", run))
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.1)
        assert found["probability"] == expected["probability"]


def test_a_run_without_compiling_and_recording_has_similar_losses(
    run, people, tmp_path, front_door
):
    args = ("--data.root", people, "--run-dir", tmp_path / "r", *ON_THE_GPU)
    off = ("--step.compile", "off", "--step.cuda-graph", "off", "--epochs", "1")
    assert front_door("train", "demo", *args, *off) == 0
    found, expected = (events(r, "epoch")[0] for r in (tmp_path / "r", run))
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.1)


def test_an_interrupted_run_resumes_as_if_never_stopped(
    run, people, tmp_path, monkeypatch, front_door
):
    cut = tmp_path / "r"
    args = ("--data.root", people, "--run-dir", cut, *ON_THE_GPU)
    signal_at(monkeypatch, 2, 1, 15)
    assert front_door("train", "demo", *args) == 3
    assert front_door("train", "--resume", cut) == 0
    for found, expected in zip(events(cut, "epoch"), events(run, "epoch"), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.1)
    kinds = [{n: t.dtype for n, t in load_file(checkpoint.latest(r)).items()} for r in (cut, run)]
    assert kinds[0] == kinds[1]


def test_a_gpu_run_is_tested_and_exported_on_a_cpu(run, people, tmp_path):
    on_gpu = json.loads((run / "result.json").read_text())
    moved = Path(shutil.copytree(run, tmp_path / "r"))
    for device in ("cuda", "cpu"):
        assert call("eval", moved, "--device", device) == 0
        again = json.loads((moved / "result.json").read_text())
        for name, near in {"rank1": 5, "mAP": 2, "mINP": 2}.items():  # of 18 queries
            assert again[name] == pytest.approx(on_gpu[name], abs=near), (device, name)
    assert call("report", moved) == 0
    assert call("embed", moved, people / "cam1", "--out", tmp_path / "f.npz") == 0
    assert np.isfinite(np.load(tmp_path / "f.npz")["features"]).all()
    assert call("export", moved, "--format", "torchscript", "--out", tmp_path / "m.pt") == 0


def test_a_gpu_run_resumes_on_a_cpu_and_back(run, tmp_path, front_door):
    moved = Path(shutil.copytree(run, tmp_path / "r"))
    for device in ("cpu", "auto"):
        checkpoint.latest(moved).unlink()
        assert front_door("train", "--resume", moved, "--device", device) == 0
        for found, expected in zip(events(moved, "epoch"), events(run, "epoch"), strict=True):
            assert found["loss"] == pytest.approx(expected["loss"], rel=0.2)


def test_running_out_of_memory_gives_one_line(people, tmp_path, capsys):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(3e8 / total)  # 300 MB for torch
    try:
        args = ("--data.root", people, "--run-dir", tmp_path / "r", *ON_THE_GPU)
        large = ("--data.height-px", "512", "--data.width-px", "256", "--data.cache", "none")
        off = ("--step.compile", "off", "--model.backbone", "resnet18")
        assert call("train", "demo", *args, *large, *off) == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "memory is full" in lines[0]
    assert "lower --data.p" in lines[0]
