"""The methods of train/methods/: published settings, losses, experiments."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from model.outputs import Examples, Outputs
from pipeline.errors import InputError
from tests.front_door import call, refused
from train.config import flat, to_json
from train.methods import finding
from train.methods.caj import METHOD as CAJ
from train.paper.recipe import PARTS, of_method
from train.presets import PRESETS, find_preset
from train.runs import _method

NAMES = ("agw", "caj", "cdp-strong")


def published_rate(epoch: int) -> float:
    """Of the head, as AGW's and CAJ's public code set it; epochs from 0."""
    if epoch < 10:
        return 0.1 * (epoch + 1) / 10
    return 0.1 if epoch < 20 else 0.01 if epoch < 50 else 0.001


@pytest.mark.parametrize(("name", "epochs"), [("agw", 80), ("caj", 100)])
def test_learning_rates_are_those_published(name, epochs):
    config = find_preset(name).config
    assert config.epochs == epochs
    method = config.method
    found = [method.lr_at(epoch, epochs) for epoch in range(1, epochs + 1)]
    assert [10 * rate for rate in found] == pytest.approx(
        [published_rate(e) for e in range(epochs)]
    )
    assert (method.optimizer.head_scale, method.optimizer.weight_decay) == (10.0, 5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_found_by_its_name_and_says_what_to_expect(name):
    preset = find_preset(name)
    assert name in finding.names()
    for words in (f"Command: cdp train {name} --data.root DIR", "Hardware:", "time:", "ublished"):
        assert words in preset.about
    assert preset.config.distance == "cosine"


@pytest.mark.parametrize("name", finding.names())
def test_a_run_tells_its_method(name):
    written = json.loads(to_json(find_preset(name).config))
    assert _method(written) == name


@pytest.mark.parametrize("name", ["cmgan", "hcml", "hsme", "d-hsme"])
def test_the_figures_of_a_row_are_those_of_its_docstring(name):
    about = " ".join(find_preset(name).about.split())
    assert f"Command: cdp train {name} --data.root DIR. Hardware:" in about
    for figures in of_method(name).paper.values():
        words = zip(("R1", "R10", "R20", "mAP"), figures, strict=True)
        assert ", ".join(f"{what} {x}" for what, x in words) in about


def test_batches_are_those_published():
    agw, caj = (find_preset(name).config.data for name in ("agw", "caj"))
    for data in (agw, caj):
        assert (data.p, data.k, data.height_px, data.width_px) == (8, 8, 288, 144)
    assert agw.spectra == ()
    assert (caj.spectra, caj.jitter) == (("R", "G", "B"), 0.0)


def test_caj_learns_from_rgb_images_their_counterparts_and_infrared_ones():
    """Two identities, four RGB and four infrared originals, whose counterparts do not count."""
    torch.manual_seed(0)
    pids = torch.tensor([0, 0, 1, 1] * 2)
    batch = Examples(
        pids, torch.tensor([0] * 4 + [1] * 4).byte(), torch.tensor([0] * 4 + [-1] * 4).char(), 2
    )
    features, logits = torch.randn(16, 3), torch.randn(16, 5)
    found = CAJ.losses(Outputs(features, features, logits), batch, lambda tensor: tensor)

    kept = [*range(8), *range(8, 16, 2)]  # interleaved: original, counterpart, original, …
    labels = [int(pids[i // 2]) for i in kept]
    nll = [-F.log_softmax(logits[i], 0)[label] for i, label in zip(kept, labels, strict=True)]
    torch.testing.assert_close(found["cls"], torch.stack(nll).mean())

    terms = []
    for a, i in enumerate(kept):
        near, far = [], []
        for b, j in enumerate(kept):
            distance = (features[i] - features[j]).norm()
            if labels[a] == labels[b]:
                near.append(distance)
            else:
                far.append(distance)
        positive, negative = torch.stack(near), torch.stack(far)
        gap = (positive.softmax(0) * positive).sum() - ((-negative).softmax(0) * negative).sum()
        terms.append(F.softplus(gap.sign() * gap.square()))
    torch.testing.assert_close(found["tri"], torch.stack(terms).mean(), rtol=1e-4, atol=1e-4)


def test_caj_is_refused_batches_that_are_not_balanced(people, tmp_path, capsys):
    """Also in a structure that would take them: half of a batch's originals count as RGB."""
    args = ("--model.structure", "one-stream", "--data.sampling", "random")
    args += ("--data.root", people, "--run-dir", tmp_path / "r", *SMALL, "--epochs", "10")
    assert "--data.sampling random: this method's" in refused(capsys, "train", "caj", *args)


def test_caj_without_counterparts_is_refused():
    batch = Examples(torch.tensor([0, 0]), torch.tensor([0, 1]).byte(), torch.zeros(2).char(), 1)
    out = Outputs(torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 5))
    with pytest.raises(InputError, match=r"--data.spectra: caj needs counterparts"):
        CAJ.losses(out, batch, lambda tensor: tensor)


@pytest.mark.parametrize("name", NAMES)
def test_in_an_experiment_a_method_keeps_backbone_size_batches_and_epochs(name):
    base = dataclasses.replace(PRESETS["small"].config, epochs=6)
    found = of_method(name).setting(base)
    for field in ("height_px", "width_px", "p", "k"):
        assert getattr(found.data, field) == getattr(base.data, field)
    assert found.epochs == 6
    model = found.method.model
    assert (model.backbone, model.weights) == ("test_resnet", "none")
    assert found.method.augmentation.crop_padding_px == 2
    assert found.method.optimizer.warmup_epochs == 1
    published = find_preset(name).config.method
    assert found.method.loss == published.loss
    assert dataclasses.replace(model, backbone="", weights="") == dataclasses.replace(
        published.model, backbone="", weights=""
    )


@pytest.mark.parametrize("name", PARTS)
def test_a_part_changes_one_thing(name):
    base = PRESETS["small"].config
    before, after = flat(base), flat(PARTS[name].setting(base))
    changed = {option for option in after if after[option] != before[option]}
    assert len(changed) == (2 if name == "erasing-spectrum" else 1)


SMALL = [
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--device", "cpu"),
    *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "12", "--data.k", "4"),
    *("--epochs", "2", "--optimizer.warmup-epochs", "1", "--augmentation.crop-padding-px", "2"),
    *("--checkpoint-every", "0", "--precision", "off"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_trains_and_is_tested(name, people, tmp_path):
    assert call("train", name, "--data.root", people, "--run-dir", tmp_path / "r", *SMALL) == 0
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert 0 <= result["mAP"] <= 100
    assert call("eval", tmp_path / "r") == 0
    assert json.loads((tmp_path / "r" / "result.json").read_text()) == result
