"""A method file of one's own, tests/own_method.py, from the command line to the export."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.datasets.kinds import read_training
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions
from tests.front_door import SMALL, call, refused
from tests.test_cli import events
from tests.train.test_resume import assert_same_run, signal_at
from train import checkpoint
from train.export.formats import load
from train.methods import finding

OWN = Path(__file__).parents[2] / "own_method.py"
ARGS = [*SMALL, "--log-every", "1"]


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    """A finished run; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "own"
    args = ("--data.root", people, "--run-dir", folder, "--centre-weight", "0.02", *ARGS)
    assert call("train", OWN, *args) == 0
    return folder


@pytest.fixture(autouse=True)
def _others_keep_theirs(monkeypatch) -> None:
    """What a test names is forgotten after it."""
    monkeypatch.setattr(finding, "own_module", list(finding.own_module))


@pytest.fixture
def fresh(monkeypatch) -> None:
    """As in a new process: no method file has been named."""
    monkeypatch.setattr(finding, "own_module", [])


def test_its_loss_its_parameters_and_its_options_are_part_of_the_run(run):
    for epoch in events(run, "epoch"):
        parts = epoch["loss_cls"] + epoch["loss_tri"] + 0.02 * epoch["loss_centre"]
        assert epoch["loss"] == pytest.approx(parts, rel=1e-5)
    first, last = events(run, "epoch")[0], events(run, "epoch")[-1]
    assert last["loss_centre"] < first["loss_centre"]
    config = json.loads((run / "config.json").read_text())["method"]
    assert config["centre_weight"] == 0.02
    assert config["from"]["name"] == "own_method"
    tensors = load_file(checkpoint.latest(run))
    assert tensors["network.centres"].abs().sum() > 0
    assert (run / "method.py").read_bytes() == OWN.read_bytes()


@pytest.mark.usefixtures("fresh")
def test_nothing_in_a_run_folder_is_ever_run(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "method.py").write_text("raise SystemExit('the copy was run')")
    for command in (
        ["eval"],
        ["report"],
        ["train", "--resume"],
        ["embed", "--out", tmp_path / "e"],
    ):
        line = refused(capsys, *command, copy)
        assert "name it: --method own_method.py" in line
    line = refused(capsys, "export", copy, "--format", "torchscript")
    assert "name it: --method own_method.py" in line


@pytest.mark.slow
@pytest.mark.usefixtures("fresh", "no_charts")
def test_named_again_it_is_tested_reported_embedded_and_exported(run, people, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    expected = (copy / "result.json").read_bytes()
    (copy / "result.json").unlink()
    assert call("eval", copy, "--method", OWN, "--device", "cpu") == 0
    assert (copy / "result.json").read_bytes() == expected
    assert call("report", copy, "--method", OWN) == 0
    assert "centre" in (copy / "report" / "index.html").read_text()
    embed = ("embed", copy, people / "cam1", "--method", OWN, "--out", tmp_path / "f.npz")
    assert call(*embed) == 0
    assert np.isfinite(np.load(tmp_path / "f.npz")["features"]).all()
    file = tmp_path / "m.safetensors"
    assert call("export", copy, "--format", "safetensors", "--method", OWN, "--out", file) == 0
    network, _ = load(file, OWN)
    assert network.embed(torch.zeros(2, 3, 32, 16, dtype=torch.uint8)).shape[0] == 2


@pytest.mark.usefixtures("fresh")
def test_a_changed_file_is_said_to_have_changed(run, tmp_path, capsys):
    other = tmp_path / "own_method.py"
    other.write_text(OWN.read_text() + "\n# another line\n")
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert call("eval", copy, "--method", other, "--device", "cpu") == 0
    assert "has changed since the run was trained" in " ".join(capsys.readouterr().out.split())


def test_interrupted_and_resumed_it_is_as_if_it_had_not_been(
    run, people, tmp_path, monkeypatch, capsys
):
    cut = tmp_path / "run"
    signal_at(monkeypatch, 2, 1, signal.SIGTERM)
    args = ("--data.root", people, "--run-dir", cut, "--centre-weight", "0.02", *ARGS)
    assert call("train", OWN, *args) == 3
    assert f"`cdp train --resume {cut} --method {OWN}`" in capsys.readouterr().err
    assert call("train", "--resume", cut, "--method", OWN) == 0
    assert_same_run(cut, run)


def test_its_erasing_is_drawn_by_name_and_changes_no_other_draw(people):
    options = DataOptions(root=people, p=4, k=4, height_px=32, width_px=16)
    index = read_training(options, people)
    method = finding.own(OWN).METHOD
    plain, erased = (
        list(TrainingLoader(index, options, torch.device("cpu"), 3, augment=a).epoch(1, P_HAT))
        for a in (None, method.augment)
    )
    for a, b in zip(plain, erased, strict=True):
        assert (a.rows == b.rows).all()
        assert torch.equal(a.spectrum, b.spectrum)
        off = (a.images != b.images).any(dim=-1)  # n, views, h, w
        assert (b.images[off] == 0).all()
        assert torch.equal(off[:, 0], off[:, 1]) or off[:, 0].float().mean() > 0.05
    boxes = [off_area(a.images, b.images) for a, b in zip(plain, erased, strict=True)]
    assert len({float(box) for box in boxes}) > 1


P_HAT = np.full(4, 0.25)


def off_area(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a != b).float().mean()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", "has no METHOD; end it with METHOD = YourMethod()"),
        ("METHOD = 7\n", "has no METHOD"),
        ("import nothing_like_it\n", "cannot be run (ModuleNotFoundError: No module named"),
        ("raise SystemExit(0)\n", "cannot be run (SystemExit: 0)"),
        ("def f(:\n", "cannot be run"),
    ],
)
def test_a_file_without_a_method_is_refused_in_one_line(source, message, people, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(source)
    line = refused(capsys, "train", file, "--data.root", people, "--run-dir", tmp_path / "r")
    assert message in line
    assert str(file) in line
    assert not (tmp_path / "r").exists()


def test_a_method_file_that_is_not_there_is_named(tmp_path, capsys):
    line = refused(capsys, "train", tmp_path / "gone.py")
    assert "gone.py: no such file" in line


def test_the_readme_shows_it_whole():
    readme = (OWN.parents[1] / "train" / "README.md").read_text()
    section = readme.split("## Your own method\n")[1].split("\n## ")[0]
    shown = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    assert shown == [line for line in OWN.read_text().splitlines() if line.strip()]
    assert len(section.splitlines()) <= 45


HEAD = """from dataclasses import dataclass
from model.options import ModelOptions
from train.methods.base import Method
"""
MINE = "METHOD = M(model=ModelOptions('test_resnet', 'none'))\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("q: int = 3", "M has fields, which count only in a dataclass"),
        ("def losses(self, *a): return {**super().losses(*a), 'c': 0}", "losses() names 'c'"),
        ("loss_weights = {'cls': 1.0}", "losses() names 'tri', which its loss_weights lacks"),
        ("def losses(self, o, b, g): return {'cls': o.logits, 'tri': o.logits}", "of shape [48, "),
        ("def losses(self, o, b, g): return None", "losses() returned None"),
        ("def augment(self, image, draw): return None", "augment() returned None"),
        (
            "def augment(self, image, draw): draw('e', 1), draw('e', 1)",
            "the draw name 'e' is already taken",
        ),
        ("def augment(self, i, draw): draw('e', 1, lambda u, o: None)", "the draw 'e': its host"),
        ("def network(self, n, size): return 7", "network() returned a int"),
    ],
)
def test_a_method_that_cannot_work_is_named_in_a_line(body, message, people, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}class M(Method):\n    {body}\n{MINE}")
    args = [*SMALL, "--data.root", people, "--run-dir", tmp_path / "r"]
    assert message in refused(capsys, "train", file, *args)


@pytest.mark.parametrize("flag", ["crop-padding-px", "erasing", "gray", "contrast"])
def test_flags_that_a_methods_augment_passes_over_are_refused(flag, people, tmp_path, capsys):
    value = "2" if flag == "crop-padding-px" else "0.5"
    args = [*SMALL, "--data.root", people, "--run-dir", tmp_path / "r"]
    line = refused(capsys, "train", OWN, *args, f"--augmentation.{flag}", value)
    assert "the method's augment() ignores these options" in line
    assert not (tmp_path / "r").exists()


def test_a_methods_option_that_exists_already_is_named(people, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}@dataclass(frozen=True)\nclass M(Method):\n    epochs: int = 3\n{MINE}")
    assert "the field 'epochs' of its method is an option" in refused(capsys, "train", file)


@pytest.mark.usefixtures("fresh")
def test_a_run_is_not_resumed_with_a_changed_method_file(run, tmp_path, capsys):
    other = tmp_path / "own_method.py"
    other.write_text(OWN.read_text() + "\n# another line\n")
    line = refused(capsys, "train", "--resume", run, "--epochs", "9", "--method", other)
    assert "has changed since the run began" in line
    assert str(run / "method.py") in line
