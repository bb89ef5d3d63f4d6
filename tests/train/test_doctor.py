"""`cdp doctor`: what it says is what the program does, and nothing that is broken stops it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

import cdp
from model.backbone import cached_file
from tests.front_door import call
from train import runtime
from train.doctor import hardware
from train.doctor.software import GROUPS
from train.runtime import StepOptions

REPOSITORY = Path(cdp.__file__).parent


def checks(capsys, status: int = 0) -> dict[str, dict]:
    """What `cdp doctor --json` says, by name."""
    capsys.readouterr()
    assert call("doctor", "--json") == status
    report = json.loads(capsys.readouterr().out)
    assert report["environment"]["packages"]["torch"]
    return {check["name"]: check for check in report["checks"]}


@pytest.fixture
def here(tmp_path, capsys, monkeypatch) -> dict[str, dict]:
    """The checks of this machine, without a GPU and without weights of timm's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return checks(capsys)


def test_every_part_is_there_and_none_failed(here):
    assert {check["state"] for check in here.values()} <= {"ok", "low", "off", "missing"}
    assert all(check["why"] for check in here.values() if check["state"] != "ok")
    assert set(here) >= {"torch", "timm", "numpy", "DALI", "memory", "disk", "C++ compiler"}
    assert here["torch"]["value"] == torch.__version__


def test_without_a_gpu_the_lines_are_what_training_would_choose(here):
    cpu = torch.device("cpu")
    assert (here["GPU"]["value"], here["GPU"]["state"]) == ("none", "off")
    resolved = runtime.resolve_step(StepOptions(), cpu, "off")
    for name in ("compile", "cuda_graph", "channels_last", "fused_optimizer"):
        assert here[f"--step.{name.replace('_', '-')}"]["value"] == getattr(resolved, name)
    assert here["--precision"]["value"] == runtime.resolve_precision("auto", cpu)
    assert "incorrectly in bf16 on a CPU" in here["--precision"]["why"]
    assert "no GPU here" in here["--step.cuda-graph"]["why"]
    assert here["decoder, CPU"]["state"] == "ok"
    assert here["decoder, JPEG engine"]["why"] == "needs a GPU"

    num_cores = len(os.sched_getaffinity(0))
    assert here["CPU"]["value"].startswith(f"{num_cores} of {os.cpu_count()} cores, ")
    assert f"DALI {num_cores}" in here["CPU"]["why"]


def test_weights_are_found_where_timm_keeps_them(here, tmp_path):
    assert here["pretrained"]["state"] == "missing"
    assert "--model.weights FILE" in here["pretrained"]["why"]
    assert cached_file("resnet50.tv_in1k") is None
    repository = tmp_path / "models--timm--resnet50.tv_in1k"
    file = repository / "snapshots" / "abc" / "model.safetensors"
    for path, content in ((file, "weights"), (repository / "refs" / "main", "abc")):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    assert cached_file("resnet50.tv_in1k") == file


def test_without_a_compiler_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = checks(capsys)
    assert found["C++ compiler"]["state"] == "missing"
    assert "install g++" in found["C++ compiler"]["why"]
    assert "found no C++ compiler" in found["--step.compile"]["why"]
    (tmp_path / "mycc").write_text("")
    (tmp_path / "mycc").chmod(0o755)
    monkeypatch.setenv("CXX", "mycc")
    found = checks(capsys)
    assert found["C++ compiler"]["value"] == str(tmp_path / "mycc")
    assert found["--step.compile"]["why"] == "auto is off on a CPU; on is possible"


def test_too_few_hardware_queues_are_told():
    assert hardware.queues("32").state == "ok"
    few = hardware.queues("8")
    assert few.state == "low"
    assert few.why.startswith("CUDA_DEVICE_MAX_CONNECTIONS=8: the GPU may wait for data; unset it")


def test_a_part_that_raises_is_a_line_and_status_1(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    found = checks(capsys, status=1)
    assert found["disk"]["state"] == "failed"
    assert found["disk"]["why"].startswith("FileNotFoundError: ")
    assert found["memory"]["state"] == "ok"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_installation_without_a_working_torch_is_still_looked_at(flags, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: cannot\\nopen')\n")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "cdp.py", "doctor", *flags],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (1, "")
    if not flags:
        assert "OSError" in done.stdout
        assert "failed: GPU, CPU, " in done.stdout
        return
    report = json.loads(done.stdout)
    assert "libtorch.so: cannot open" in report["environment"]["error"]
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states["torch"] == states["DALI"] == states["step"] == "failed"


def test_the_table_fits_80_columns_and_holds_all_checks(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = checks(capsys)
    assert call("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = {line[1:].split("  ")[0].strip() for line in lines if line[1:2].strip()}
    assert shown >= set(names)


def test_the_groups_are_those_that_can_be_synced():
    written = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]
    names = {group: {line.split(">")[0] for line in written[group]} for group in GROUPS}
    assert names == {group: set(distributions) for group, (distributions, _) in GROUPS.items()}
    assert set(written) - {"dev"} == set(GROUPS)
