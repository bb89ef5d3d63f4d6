"""D2RL: its setting, its stages, and what a run of it can do."""

import base64
import dataclasses
import io
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from model.options import LossOptions, ModelOptions
from model.outputs import Examples
from model.translator import TranslatorOptions
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from tests.front_door import SMALL, call, refused
from tests.test_cli import events
from tests.train.test_resume import assert_same_run, signal_at
from train import checkpoint
from train.config import with_data
from train.evaluation.trained import embed_test, open_run
from train.live.display import Display
from train.methods.d2rl import METHOD, STRUCTURE, D2rl
from train.optimizer import OptimizerOptions, build
from train.paper.recipe import of_method
from train.paper.rows import ROWS
from train.presets import PRESETS, find_preset
from train.reporting.translated import some_pairs
from train.runtime import StepOptions
from train.stages import learning

TERMS = ("recon", "cycle", "kl", "gan", "critics")
TINY = TranslatorOptions(width=2, blocks=1, lr=2e-4)


def small(**changes) -> D2rl:
    options = {"model": ModelOptions("test_resnet", "none", structure=STRUCTURE)} | changes
    return D2rl(**{"dhsm": METHOD.dhsm, "translator": TINY} | options)


def test_its_losses_are_cdps_and_the_translators_with_the_weights_of_unit():
    weights = {"recon": 10.0, "cycle": 10.0, "kl": 0.02, "gan": 1.0, "critics": 1.0}
    assert METHOD.loss_weights == {"cls": 1.0, "tri": 1.0, **weights}
    torch.manual_seed(0)
    images = torch.randint(256, (4, 3, 32, 16), dtype=torch.uint8)
    modality = torch.tensor([0, 0, 1, 1]).byte()
    batch = Examples(torch.tensor([0, 1, 0, 1]), modality, torch.full((4,), -1).char(), views=1)
    method = small()
    out = method.network(5, (32, 16))(images, batch.infrared)
    found = method.losses(out, batch, lambda tensor: tensor)
    assert list(found) == list(method.loss_weights)
    assert all(found[name] is out.extras[name] for name in TERMS)


def test_its_text_has_the_figures_that_the_papers_tables_give_it():
    about = " ".join(find_preset("d2rl").about.split())
    assert "Command: cdp train d2rl --data.root DIR. Hardware:" in about
    paper = of_method("d2rl").paper
    assert set(paper) == {"sysu", "regdb"}
    for rank1, rank10, rank20, mean in paper.values():
        assert f"R1 {rank1}, R10 {rank10}, R20 {rank20}, mAP {mean}" in about


def test_the_published_translator_is_for_images_of_the_published_size():
    config = find_preset("d2rl").config
    assert (config.data.spectra, config.data.sampling) == ((), "balanced")
    assert config.method.translator == TranslatorOptions(64, 4, 4, 3, 1e-4)
    lower = of_method("d2rl").setting(with_data(PRESETS["small"].config, height_px=64))
    assert (lower.method.translator.width, lower.method.translator.blocks) == (8, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bnneck": True},
        {"fc": "shared"},
        {"pooling": "gem", "gem_learned": True},
        {"cosine_scale": 14.0},
    ],
)
@pytest.mark.parametrize("center", [0.0, 0.1])
def test_of_two_networks_each_stage_trains_the_one_that_it_names(changes, center):
    model = ModelOptions("test_resnet", "none", structure=STRUCTURE, **changes)
    method = small(model=model, loss=LossOptions(center=center))
    network = method.network(5, (32, 16))
    names = learning(network, method.stages)  # each stage freezes what is there
    in_translator = {name for name in names if name.startswith("enter.translator.")}
    learn = [{n for n in names if not n.startswith(stage.frozen)} for stage in method.stages]
    assert [stage.name for stage in method.stages] == ["translator", "features", "joint"]
    assert learn == [in_translator, names - in_translator, names]


@pytest.mark.parametrize("head_scale", [1.0, 10.0])
def test_every_weight_has_a_rate_and_the_translators_have_their_own(head_scale):
    optimizer = OptimizerOptions(lr=1e-3, head_scale=head_scale)
    method = small(optimizer=optimizer)
    network = method.network(5, (32, 16))
    made = build(
        method.groups(network),
        method.optimizer,
        StepOptions("off", "off", "on", "off"),
        torch.device("cpu"),
    )
    every = [id(w) for group in made.param_groups for w in group["params"]]
    assert sorted(every) == sorted(id(w) for w in network.parameters())
    *others, last = made.param_groups
    translator = {id(w) for w in network.enter.translator.parameters()}
    assert {id(w) for w in last["params"]} == translator
    assert (last["lr"], last["betas"]) == (pytest.approx(2e-4), (0.5, 0.999))
    assert {group["betas"] for group in others} == {(0.9, 0.999)}
    assert [group["lr"] for group in others] == ([1e-3] if head_scale == 1 else [1e-3, 1e-2])


def test_another_structure_is_refused():
    with pytest.raises(InputError, match=r"^--model.structure one-stream: d2rl is the generated-"):
        small(model=ModelOptions("test_resnet", "none")).network(5, (32, 16))


def test_the_structures_row_is_cdps_method_in_that_structure():
    base = PRESETS["small"].config
    found = find_preset("generated-spectrum").config
    assert found.method.model.structure == STRUCTURE
    made = ROWS["generated-spectrum"].setting(base)
    assert made.method.model == dataclasses.replace(base.method.model, structure=STRUCTURE)
    for part in ("loss", "optimizer", "augmentation"):
        assert getattr(made.method, part) == getattr(base.method, part)
    assert (made.data.spectra, made.method.dhsm.enabled, made.epochs) == ((), False, base.epochs)
    assert made.method.translator.width == 8
    short = ROWS["generated-spectrum"].setting(dataclasses.replace(base, epochs=1))
    assert short.epochs == 3  # one for each stage


ARGS = [
    *(*SMALL, "--model.weights", "none", "--data.p", "10", "--epochs", "3", "--log-every", "1"),
    *("--translator.width", "2", "--translator.blocks", "1"),
]


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory) -> Path:
    """A run that was never interrupted, of an epoch in each stage."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert call("train", "d2rl", "--data.root", people, "--run-dir", folder, *ARGS) == 0
    return folder


def test_a_stage_records_the_losses_that_it_learns_from(whole):
    first, second, third = events(whole, "epoch")
    weights = METHOD.loss_weights
    for epoch in (first, second, third):
        total = sum(weight * epoch[f"loss_{name}"] for name, weight in weights.items())
        assert epoch["loss"] == pytest.approx(total, rel=1e-4)
    assert all(first[f"loss_{name}"] > 0 and third[f"loss_{name}"] > 0 for name in TERMS)
    assert all(second[f"loss_{name}"] == 0 for name in TERMS)


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), pytest.param(3, 1, marks=pytest.mark.slow)])
def test_interrupted_in_any_stage_it_goes_on_as_if_it_had_not_been(
    whole, people, tmp_path, monkeypatch, epoch, step
):
    run = tmp_path / "run"
    steps = events(whole, "epoch")[0]["step"]
    signal_at(monkeypatch, epoch, step % (steps + 1), signal.SIGTERM)
    assert call("train", "d2rl", "--data.root", people, "--run-dir", run, *ARGS) == 3
    assert call("train", "--resume", run) == 0
    assert_same_run(run, whole)


@pytest.mark.slow
def test_its_translator_travels_with_the_checkpoint_to_every_command(whole, people, tmp_path):
    tensors = load_file(checkpoint.latest(whole))
    assert "network.enter.translator.generators.rgb.1.weight" in tensors
    written = (whole / "result.json").read_text()
    assert call("eval", whole) == 0
    assert (whole / "result.json").read_text() == written
    assert call("embed", whole, "--out", tmp_path / "npz", "--device", "cpu") == 0
    for file in (tmp_path / "npz").glob("*.npz"):
        assert np.isfinite(np.load(file)["features"]).all()
    # Each exported file is compared with the run's network before it gets its name.
    for form in ("safetensors", "torchscript"):
        assert call("export", whole, "--format", form, "--out", tmp_path / form) == 0


@pytest.mark.usefixtures("no_charts")
def test_its_report_has_real_images_with_their_translations(whole, people):
    run = open_run(whole, Display(), device_name="cpu")
    index = embed_test(run, Display()).protocol.index
    pairs = some_pairs(index, seed=0)
    assert len(pairs) == len(np.unique(index.pids))  # fewer than a sheet has room for
    for column, modality in zip(pairs.T, (0, 1), strict=True):
        assert (index.modality[column] == modality).all()
    assert (index.pids[pairs[:, 0]] == index.pids[pairs[:, 1]]).all()
    assert call("report", whole, "--device", "cpu") == 0
    page = (whole / "report" / "index.html").read_text()
    _, _, rest = page.partition('id="translated"')
    section = rest.partition("</section>")[0]
    shown = re.findall(r'<img src="data:image/jpeg;base64,([^"]*)" alt="pid \d+: ([^"]*)"', section)
    assert [what for _, what in shown] == ["RGB", "→ infrared", "infrared", "→ RGB"] * len(pairs)
    content = [np.array(Image.open(io.BytesIO(base64.b64decode(jpeg)))) for jpeg, _ in shown[:4]]
    (first,) = EvaluationLoader(index.take(pairs[:1].ravel()), run.data, run.device)
    made = [run.network.translated(first[i : i + 1], i == 1)[0] for i in (0, 1)]
    expected = [first[0], made[0], first[1], made[1]]
    for found, pixels in zip(content, expected, strict=True):
        difference = found.astype(float) - pixels.permute(1, 2, 0).numpy()
        assert np.abs(difference).mean() < 12  # a JPEG of noise


def test_unbalanced_batches_and_sizes_that_cannot_be_translated_are_refused(
    people, tmp_path, capsys
):
    args = ("train", "d2rl", "--data.root", people, "--run-dir", tmp_path / "r", *ARGS)
    line = refused(capsys, *args, "--data.sampling", "random")
    assert "--data.sampling random: this method's network needs batches" in line
    line = refused(capsys, *args, "--data.height-px", "34")
    assert "--data.height-px 34: the translator halves images twice" in line
    assert not (tmp_path / "r").exists()
