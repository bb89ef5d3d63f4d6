"""HSME and D-HSME: network, schedule, decorrelation, runs."""

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from model.heads import CosineClassifier
from model.options import ModelOptions
from pipeline.errors import InputError
from tests.front_door import call
from train import checkpoint, schedule, stages
from train.methods import d_hsme
from train.methods.base import without_weights
from train.methods.d_hsme import decorrelated
from train.methods.hsme import METHOD
from train.paper.recipe import whole
from train.presets import PRESETS, find_preset

SMALL = [
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--device", "cpu"),
    *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "12", "--data.k", "4"),
    *("--optimizer.warmup-epochs", "1", "--checkpoint-every", "0", "--precision", "off"),
]


def test_streams_share_the_classifier_alone():
    network = without_weights(METHOD).network(5, (64, 32))
    assert isinstance(network.classifier, CosineClassifier)
    assert network.classifier.scale == 14.0
    weights = dict(network.named_parameters())
    assert not [name for name in weights if name.startswith("backbone.")]
    assert {name.split(".")[1] for name in weights if name.startswith("enter.")} == {
        "rgb",
        "infrared",
    }
    assert network.width == 2048


def test_features_of_a_small_backbone_become_as_wide_as_identities_are_many():
    small = dataclasses.replace(METHOD.model, backbone="test_resnet", weights="none")
    method = dataclasses.replace(METHOD, model=small)
    assert method.network(90, (32, 16)).width == 96  # the backbone's own
    wide = method.network(120, (32, 16)).eval()
    images = torch.zeros(4, 3, 32, 16, dtype=torch.uint8)
    infrared = torch.tensor([False, False, True, True])
    assert wide.embed(images, infrared).shape == (4, 120)
    assert decorrelated(wide.classifier.weight.detach()).shape == (120, 120)


def test_the_rate_warms_up_and_falls_as_that_of_sphere_reid():
    config = find_preset("hsme").config
    rates = [config.method.lr_at(epoch, 140) for epoch in range(1, 141)]
    assert config.epochs == 140
    assert all(a < b for a, b in pairwise(rates[:21]))
    assert rates[20:80] == [1e-3] * 60
    assert rates[80:100] == pytest.approx([1e-4] * 20)
    assert rates[100:] == pytest.approx([1e-5] * 40)
    assert config.distance == "cosine"
    assert config.data.spectra == ()


def test_at_one_point_an_unbiased_classifier_is_at_ln_m():
    assert METHOD.at_one_point(10) == {"cls": math.log(10)}
    features = torch.ones(6, 4)
    head = CosineClassifier(4, 3, 14.0)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4)[:3])  # of one angle with the point
    loss = torch.nn.functional.cross_entropy(head(features), torch.arange(6) % 3)
    assert float(loss.detach()) == pytest.approx(math.log(3))


def test_it_trains_and_is_tested(people, tmp_path):
    run = tmp_path / "r"
    args = ["--data.root", people, "--run-dir", run, *SMALL, "--epochs", "2"]
    assert call("train", "hsme", *args) == 0
    result = (run / "result.json").read_text()
    assert 0 <= json.loads(result)["mAP"] <= 100
    assert call("eval", run) == 0
    assert (run / "result.json").read_text() == result


@pytest.mark.parametrize(("m", "d"), [(3, 8), (8, 8), (1, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_decorrelated_weights_are_orthogonal_and_keep_the_geometry_of_the_products(m, d, seed):
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(m, d, generator=rng, dtype=torch.double)
    found = decorrelated(weight)
    angles = found @ found.T
    torch.testing.assert_close(angles, torch.diag(angles.diag()))
    torch.testing.assert_close(found.T @ found, weight.T @ weight)  # W W^T
    x = torch.randn(6, d, generator=rng, dtype=torch.double)
    ours, theirs = (x @ w.T for w in (found, weight))
    torch.testing.assert_close(torch.cdist(ours, ours), torch.cdist(theirs, theirs))
    lengths = found.norm(dim=1).sort(descending=True).values
    torch.testing.assert_close(lengths, torch.linalg.svdvals(weight)[:m])


def test_orthogonal_weights_stay_those_of_their_identities():
    """Whatever order and signs SVD finds, an identity keeps its direction."""
    rng = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, generator=rng, dtype=torch.double))
    weight = basis[:5] * torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0])[:, None]
    torch.testing.assert_close(decorrelated(weight), weight)
    # And nearly orthogonal ones do not move far.
    near = weight + 0.05 * torch.randn(5, 8, generator=rng, dtype=torch.double)
    cosine = torch.cosine_similarity(decorrelated(near), near)
    assert (cosine > 0.95).all()


def test_d_hsme_is_hsme_and_two_further_stages():
    config = find_preset("d-hsme").config
    hsme = find_preset("hsme").config
    for options in ("model", "loss", "optimizer", "augmentation"):
        assert getattr(config.method, options) == getattr(hsme.method, options)
    rates = [schedule.rate(config, epoch) for epoch in range(1, 281)]
    assert rates[:140] == [schedule.rate(hsme, epoch) for epoch in range(1, 141)]
    assert rates[140:210] == rates[210:]
    assert [e for e in range(1, 281) if schedule.begins_stage(config, e)] == [1, 141, 211]


def test_identities_that_cannot_all_be_orthogonal_are_refused():
    model = ModelOptions("test_resnet", "none", structure="two-stems", fc="shared", fc_width=8)
    method = dataclasses.replace(d_hsme.METHOD, model=model)
    assert method.network(8, (32, 16)).width == 8
    with pytest.raises(InputError, match=r"features have 8 dimensions, .* pass --model.fc-width 9"):
        method.network(9, (32, 16))


@pytest.mark.parametrize(
    ("name", "lengths", "quick"),
    [("hsme", [12], [2]), ("d-hsme", [12, 6, 6], [2, 1, 1]), ("cmgan", [12], [2])],
)
def test_an_experiment_gives_d_hsme_hsmes_epochs_first_and_adds_no_crop(name, lengths, quick):
    base = PRESETS["small"].config
    for epochs, expected in ((12, lengths), (2, quick)):
        found = whole(name)(dataclasses.replace(base, epochs=epochs))
        assert stages.lengths(found.method.stages, found.epochs) == expected
        assert found.method.augmentation.crop_padding_px == 0
        warmup = 2 if epochs == 12 and name != "cmgan" else 0
        assert found.method.optimizer.warmup_epochs == warmup


def test_d_hsme_trains_with_a_decorrelated_classifier_and_is_tested(people, tmp_path):
    run = tmp_path / "r"
    args = ["--data.root", people, "--run-dir", run, *SMALL, "--checkpoint-every", "1"]
    no_warmup = ("--optimizer.warmup-epochs", "0", "--epochs", "3")
    assert call("train", "d-hsme", *args, *no_warmup) == 0
    held, free = (load_file(path) for path in checkpoint.found(run))  # the last two epochs'
    weight = held["network.classifier.weight"].double()
    cosines = torch.nn.functional.normalize(weight) @ torch.nn.functional.normalize(weight).T
    torch.testing.assert_close(cosines, torch.eye(len(weight)).double(), atol=1e-6, rtol=0)
    assert not torch.equal(weight, free["network.classifier.weight"].double())
    assert 0 <= json.loads((run / "result.json").read_text())["mAP"] <= 100
    assert call("eval", run) == 0
