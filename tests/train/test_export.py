"""`cdp export`: each format reproduces the run's network and documents its use."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cdp
from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError
from tests.front_door import call, refused
from tests.untrained import make_run
from train import checkpoint, run_folder
from train.config import of_method
from train.export.formats import load
from train.export.network import FORMAT, Retrieval
from train.export.parity import ParityError, compare
from train.export.publish import publish

MODEL = {"backbone": "test_resnet", "weights": "none", "bnneck": True}
README = (Path(cdp.__file__).parent / "train" / "README.md").read_text()


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    """An untrained run; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, people, "sysu")
    return folder


def network_of(run: Path) -> Network:
    method = run_folder.read_config(run).method
    return checkpoint.load(checkpoint.latest(run), method, (32, 16)).eval()


def pixels(n: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(n)
    return torch.randint(256, (n, 3, 32, 16), dtype=torch.uint8, generator=rng)


def assert_close(found: np.ndarray, expected: torch.Tensor) -> None:
    assert found.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def check_about(about: dict, name: str) -> None:
    assert about["inputs"]["images"] == {
        "dtype": "uint8",
        "shape": ["n", 3, 32, 16],
        "layout": "NCHW",
        "colour": "RGB",
        "range": [0, 255],
    }
    assert about["outputs"]["features"]["shape"] == ["n", 96]
    assert (about["file"], about["run"], about["distance"]) == (name, "run", "cosine")
    assert (about["checkpoint"], about["trained_on"]) == ("step-0000001.safetensors", "sysu")
    assert "resize to 32 x 16" in about["preprocess"]
    assert about["method"]["model"]["backbone"] == "test_resnet"


@pytest.mark.slow
def test_onnx_computes_the_same_in_another_runtime(run, tmp_path, capfd, unchecked):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    assert call("export", run, "--format", "onnx", "--out", file) == 0
    printed, chatter = capfd.readouterr()
    assert re.search(r"parity +8 test images in batches of 1 and 7, .* largest difference", printed)
    assert chatter == ""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["n", 3, 32, 16])
    ]
    check_about(json.loads(session.get_modelmeta().custom_metadata_map["about"]), "onnx")
    network = network_of(run)
    for n in (1, 2, 5, 11):
        (found,) = session.run(["features"], {"images": pixels(n).numpy()})
        with torch.inference_mode():
            assert_close(found, network.embed(pixels(n)))
    assert str(Path(cdp.__file__).parent).encode() not in file.read_bytes()


def test_torchscript_needs_only_torch(run, tmp_path, capfd):
    file = tmp_path / "model.pt"
    assert call("export", run, "--format", "torchscript", "--out", file) == 0
    assert capfd.readouterr().err == ""
    extra = {"about": ""}
    with pytest.deprecated_call():
        module = torch.jit.load(file, _extra_files=extra)
    check_about(json.loads(extra["about"]), "torchscript")
    network = network_of(run)
    for n in (1, 5):  # traced with 2
        torch.testing.assert_close(module(pixels(n)), network.embed(pixels(n)))
    assert not any("classifier" in name for name in module.state_dict())
    home = str(Path(cdp.__file__).parent).encode()
    with zipfile.ZipFile(file) as parts:
        assert not any(home in parts.read(name) for name in parts.namelist())


def test_safetensors_loads_as_documented_in_the_readme(run, tmp_path, monkeypatch):
    again = tmp_path / "again.safetensors"
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert call("export", copy, "--format", "safetensors") == 0
    assert call("export", copy, "--format", "safetensors", "--out", again) == 0
    file = copy / "export" / "model.safetensors"
    assert file.read_bytes() == again.read_bytes()
    lines = [line[4:] for line in README.splitlines() if line.startswith("    ")]
    first = next(i for i, line in enumerate(lines) if "train.export.formats import load" in line)
    monkeypatch.chdir(file.parent)
    scope = {"images": pixels(3)}
    exec("\n".join(lines[first : first + 3]), scope)
    check_about(scope["about"], "safetensors")
    torch.testing.assert_close(scope["features"], network_of(run).embed(pixels(3)))


def test_safetensors_is_enough_for_plain_timm(run, tmp_path):
    file = tmp_path / "model.safetensors"
    assert call("export", run, "--format", "safetensors", "--out", file) == 0
    with safe_open(file, "pt") as opened:
        assert list(opened.metadata()) == ["about"]
        about = json.loads(opened.metadata()["about"])
    tensors = load_file(file)
    assert {name.split(".")[0] for name in tensors} == {"backbone", "neck"}
    backbone = timm.create_model(about["method"]["model"]["backbone"], num_classes=0).eval()
    neck = torch.nn.BatchNorm1d(backbone.num_features).eval()
    for part, prefix in ((backbone, "backbone."), (neck, "neck.")):
        part.load_state_dict(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
    mean, inverse_std = (
        torch.tensor(about["normalisation_inside"][name]).view(3, 1, 1)
        for name in ("mean", "inverse_std")
    )
    expected = network_of(run).embed(pixels(4))
    torch.testing.assert_close(neck(backbone((pixels(4) - mean) * inverse_std)), expected)


@pytest.mark.parametrize("name", ["safetensors", "torchscript"])
def test_a_model_that_knows_its_image_size_is_exported(people, tmp_path, name):
    run = tmp_path / "run"
    make_run(run, people, "sysu", model=ModelOptions("test_vit", "none"))
    assert call("export", run, "--format", name, "--out", tmp_path / "model") == 0
    assert call("eval", run, "--device", "cpu") == 0


@pytest.mark.parametrize("name", ["safetensors", "torchscript"])
def test_a_file_with_other_features_is_removed(run, tmp_path, name):
    trained, other = network_of(run), network_of(run)
    with torch.no_grad():
        other.backbone.layer4[0].conv1.weight *= 1.01
    file = tmp_path / "model"
    file.write_text("what was there")
    inputs = {"images": {"shape": ["n", 3, 32, 16]}}
    method = of_method(run_folder.read_config(run).method)
    about = {"format": FORMAT, "method": method, "num_classes": 5, "inputs": inputs}
    batches = [(pixels(n),) for n in (1, 3)]
    with pytest.raises(ParityError, match=r"model: not written: .* more than 1e-04"):
        publish(name, Retrieval(other), batches[1], about, trained, batches, file)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("model", "what was there")]


def test_parity_is_the_largest_difference_and_fails_for_nan():
    expected = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    found = torch.tensor([[3.0, 4.5], [0.0, 1.0]])
    parity = compare(lambda _: found, lambda _: expected, [(), ()])
    assert (parity.absolute, parity.relative) == pytest.approx((0.5, 0.1))
    assert not parity.holds
    assert compare(lambda _: expected, lambda _: expected, [()]).holds
    nan = torch.full((2, 2), torch.nan)
    assert not compare(lambda _: nan, lambda _: expected, [()]).holds
    assert not compare(lambda _: expected[:1], lambda _: expected, [()]).holds


AGW = {"structure": "two-stems", "non_local": True, "pooling": "gem", "gem_learned": True}
LATER = AGW | {"stem_depth": 1, "parts": 2, "last_stride": 1, "classifier_bias": False}


@pytest.mark.parametrize("name", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_attention_parts_and_gem_are_exported(people, tmp_path, name, unchecked):
    run = tmp_path / "run"
    make_run(run, people, "sysu", model=ModelOptions(**MODEL, **LATER))
    file = tmp_path / "model"
    assert call("export", run, "--format", name, "--out", file) == 0
    infrared = torch.tensor([True, False, False])
    network = network_of(run)
    assert (
        network.backbone.layer2[0].non_local.norm.weight.min() > 0
    )  # otherwise it would do nothing
    expected = network.embed(pixels(3), infrared).detach()
    assert expected.shape == (3, 192)
    if name == "torchscript":
        with pytest.deprecated_call():
            found = torch.jit.load(file)(pixels(3), infrared).detach().numpy()
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        inputs = {"images": pixels(3).numpy(), "infrared": infrared.numpy()}
        (found,) = session.run(["features"], inputs)
    assert_close(found, expected)


def test_parts_that_only_losses_need_are_not_exported():
    network = Network(ModelOptions(**MODEL), 5, (32, 16), centers=True)
    assert "network.centers" not in Retrieval(network).state_dict()
    assert network.centers is not None


@pytest.mark.parametrize("structure", ["zero-padding-2", "two-stems"])
def test_a_network_that_needs_the_modality_takes_it_as_input(people, tmp_path, structure):
    run = tmp_path / "run"
    make_run(run, people, "sysu", model=ModelOptions(**MODEL, structure=structure))
    assert call("export", run, "--format", "torchscript") == 0
    with pytest.deprecated_call():
        module = torch.jit.load(run / "export" / "model.pt")
    infrared = torch.tensor([True, False, False, True, True])
    expected = network_of(run).embed(pixels(5), infrared)
    torch.testing.assert_close(module(pixels(5), infrared), expected)


def test_exporting_does_not_change_the_network(run):
    network = network_of(run)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    Retrieval(network)
    assert set(before) == set(network.state_dict())
    assert network.classifier.out_features == 5


def test_what_cannot_be_exported_gives_one_clear_line(run, tmp_path, capsys, monkeypatch):
    file = tmp_path / "model.pt"
    file.write_text("mine")
    args = ("export", run, "--format", "torchscript", "--out")
    assert f"--out {file}: exists; name another, or pass --overwrite" in refused(
        capsys, *args, file
    )
    assert file.read_text() == "mine"
    assert "is a folder; name a file" in refused(capsys, *args, tmp_path)
    assert "/nowhere: is not a run folder" in refused(
        capsys, "export", "/nowhere", "--format", "onnx"
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refused(capsys, "export", run, "--format", "onnx", "--out", tmp_path / "m.onnx")
    assert "--format onnx: needs onnxruntime; uv sync --group export" in line
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_without_its_data_an_export_is_checked_on_noise(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    config = copy / "config.json"
    config.write_text(re.sub('"root": "[^"]*"', '"root": "/nowhere"', config.read_text()))
    file = tmp_path / "model.safetensors"
    file.write_text("old")
    args = ("export", copy, "--format", "safetensors", "--out", file, "--overwrite")
    assert call(*args) == 0
    printed = capsys.readouterr().out
    assert "no test images (/nowhere: no such folder" in printed
    assert "parity    8 images of random pixels" in printed
    assert file.read_bytes() != b"old"


def test_a_file_from_another_program_is_not_loaded(run, tmp_path):
    with pytest.raises(InputError, match="is not a 'cdp-reid export 2' file; write one"):
        load(checkpoint.latest(run))
    (tmp_path / "x.safetensors").write_bytes(b"text")
    with pytest.raises(InputError, match=r"x\.safetensors: is not an intact \.safetensors file"):
        load(tmp_path / "x.safetensors")
    inputs = {"images": {"shape": ["n", 3, 32, 16]}}
    for described in ({"method": {}}, {"inputs": inputs, "method": {}}):
        metadata = {"about": json.dumps({"format": FORMAT, **described})}
        save_file({}, tmp_path / "x.safetensors", metadata=metadata)
        with pytest.raises(InputError, match="metadata does not describe a network"):
            load(tmp_path / "x.safetensors")
