"""The methods that the paper compares with: published settings, losses, a training of each."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from model.outputs import Examples, Outputs
from model.pair_losses import contrastive_loss, dual_constrained_ranking_losses
from pipeline.errors import InputError
from tests.front_door import call
from train.methods.bdtr import METHOD as BDTR
from train.methods.tone import METHOD as TONE
from train.paper.recipe import of_method
from train.presets import PRESETS, find_preset

WU = ("wu-one-stream", "wu-two-stream", "wu-asymmetric-fc", "wu-zero-padding")
NAMES = (*WU, "tone", "bdtr")


@pytest.mark.parametrize("name", NAMES)
def test_its_text_has_the_command_and_the_figures_that_the_paper_gives_it(name):
    about = find_preset(name).about
    assert f"Command: cdp train {name} --data.root DIR" in about
    words = " ".join(about.split())
    for search, (rank1, rank10, rank20, mean) in of_method(name).paper.items():
        if search != "regdb-thermal":
            assert f"R1 {rank1}, R10 {rank10}, R20 {rank20}, mAP {mean}" in words


@pytest.mark.parametrize("name", WU)
def test_the_baselines_of_2017_learn_from_scratch_by_cross_entropy_alone(name):
    config = find_preset(name).config
    method, data = config.method, config.data
    assert method.loss_weights == {"cls": 1.0}
    assert (method.model.weights, method.model.dropout) == ("none", 0.0)
    optimizer = method.optimizer
    found = (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay)
    assert found == ("sgd", 1e-3, 0.9, 5e-4)
    sampling = "balanced" if name == "wu-two-stream" else "shuffle"
    assert (data.p * data.k, data.spectra, data.sampling) == (64, (), sampling)
    assert config.distance == "euclidean"


def test_the_baselines_of_2017_differ_in_their_network():
    networks = [find_preset(name).config.method.model for name in WU]
    found = [(n.structure, n.stem_depth, n.fc) for n in networks]
    assert found == [
        ("one-stream", 0, "none"),
        ("two-stems", 3, "none"),
        ("one-stream", 0, "per-modality"),
        ("zero-padding-2", 0, "none"),
    ]


@pytest.mark.parametrize(
    ("name", "weights", "width", "batch", "epochs"),
    [
        ("tone", {"cls": 1.0, "contrastive": 0.2}, 2048, (16, 8), 50),
        ("bdtr", {"cls": 1.0, "ranking": 1.0, "intra": 0.1}, 1024, (64, 2), 150),
    ],
)
def test_tone_and_bdtr_are_set_as_in_the_authors_code(name, weights, width, batch, epochs):
    config = find_preset(name).config
    method, data = config.method, config.data
    assert method.loss_weights == weights
    model = method.model
    assert (model.structure, model.stem_depth, model.fc) == ("two-stems", 4, "shared")
    assert (model.fc_width, model.dropout, model.weights) == (width, 0.5, "imagenet")
    assert (data.p, data.k) == batch
    assert (data.sampling, data.spectra, data.flip) == ("balanced", (), 0.0)
    assert (config.epochs, config.distance) == (epochs, "cosine")
    assert (method.optimizer.name, method.optimizer.weight_decay) == ("sgd", 0.0)
    assert {method.lr_at(epoch, epochs) for epoch in (1, epochs // 2, epochs)} == {1e-3}


PIDS = torch.tensor([0, 1, 2] * 2)
MODALITY = torch.tensor([0] * 3 + [1] * 3).byte()
BATCH = Examples(PIDS, MODALITY, torch.full((6,), -1).char(), 2)


def outputs() -> Outputs:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(12, 4, generator=rng)
    return Outputs(features, features, torch.randn(12, 5, generator=rng))


def twice(tensor: torch.Tensor) -> torch.Tensor:
    """A gather of two processes."""
    return torch.cat([tensor, 2 * tensor if tensor.is_floating_point() else tensor])


def test_their_losses_are_over_the_originals_of_the_global_batch():
    out = outputs()
    features, pids, modality = (twice(x) for x in (out.features[::2], PIDS, MODALITY))
    tone = dataclasses.replace(TONE, contrastive_margin=1.2).losses(out, BATCH, twice)
    expected = contrastive_loss(features, pids, modality, 1.2)
    torch.testing.assert_close(tone["contrastive"], expected)
    changed = dataclasses.replace(BDTR, ranking_margin=0.7, intra_margin=1.9)
    bdtr = changed.losses(out, BATCH, twice)
    expected = dual_constrained_ranking_losses(features, pids, modality, 0.7, 1.9)
    torch.testing.assert_close((bdtr["ranking"], bdtr["intra"]), expected)
    assert list(tone) == list(TONE.loss_weights)
    assert list(bdtr) == list(BDTR.loss_weights)


@pytest.mark.parametrize("method", [TONE, BDTR], ids=["tone", "bdtr"])
def test_predicted_losses_at_one_point_are_the_actual_ones(method):
    one_point = Outputs(torch.ones(12, 4), torch.ones(12, 4), torch.zeros(12, 5))
    found = method.losses(one_point, BATCH, lambda tensor: tensor)
    expected = method.at_one_point(5)
    assert expected.keys() == found.keys()
    assert {name: float(loss) for name, loss in found.items()} == pytest.approx(expected)


def test_a_loss_that_is_0_at_one_point_is_not_used_as_a_sign():
    tone = dataclasses.replace(TONE, contrastive_margin=0.0)
    bdtr = dataclasses.replace(BDTR, intra_margin=0.0)
    assert tone.at_one_point(5) == {"cls": math.log(5)}
    assert bdtr.at_one_point(5) == {"cls": math.log(5), "ranking": 1.0}


@pytest.mark.parametrize(
    ("method", "option"),
    [(TONE, "contrastive_weight"), (TONE, "contrastive_margin")]
    + [(BDTR, name) for name in ("ranking_weight", "ranking_margin")]
    + [(BDTR, name) for name in ("intra_weight", "intra_margin")],
)
def test_a_negative_option_is_refused(method, option):
    flag = "--" + option.replace("_", "-")
    with pytest.raises(InputError, match=rf"^{flag} -0.1: must be at least 0$"):
        dataclasses.replace(method, **{option: -0.1})
    with pytest.raises(InputError, match=rf"^{flag} nan: must be at least 0$"):
        dataclasses.replace(method, **{option: math.nan})


@pytest.mark.parametrize("name", ["wu-two-stream", "wu-asymmetric-fc", "tone", "bdtr"])
def test_both_modalities_branches_get_gradients_of_their_own_images(name):
    torch.manual_seed(0)
    method = find_preset(name).config.method
    small = dataclasses.replace(method.model, backbone="test_resnet", weights="none")
    method = dataclasses.replace(method, model=small)
    network = method.network(3, (32, 16)).train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)  # a new residual branch ends in 0, and so gets no gradient
    images = torch.randint(256, (6, 3, 32, 16), dtype=torch.uint8)
    batch = dataclasses.replace(BATCH, views=1)
    losses = method.losses(network(images, batch.infrared), batch, lambda tensor: tensor)
    weight = method.loss_weights
    sum(weight[key] * loss for key, loss in losses.items()).backward()
    own = {n: p.grad for n, p in network.named_parameters() if ".rgb." in n or ".infrared." in n}
    assert own
    for key, gradient in own.items():
        assert gradient.abs().sum() > 0, key
    # Both began equal, and have seen other images.
    first = next(key for key in own if ".rgb." in key)
    assert not torch.equal(own[first], own[first.replace(".rgb.", ".infrared.")])


@pytest.mark.parametrize("name", NAMES)
def test_in_an_experiment_it_gets_no_crop_and_no_warm_up_that_it_does_not_have(name):
    base = dataclasses.replace(PRESETS["small"].config, epochs=6)
    found, published = of_method(name).setting(base), find_preset(name).config
    crop = 2 if published.method.augmentation.crop_padding_px else 0
    assert found.method.augmentation.crop_padding_px == crop
    assert found.method.optimizer == published.method.optimizer
    assert found.method.loss_weights == published.method.loss_weights
    assert (found.data.p, found.data.k, found.epochs) == (base.data.p, base.data.k, 6)
    assert (found.data.sampling, found.data.flip) == (
        published.data.sampling,
        published.data.flip,
    )


SMALL = [
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--device", "cpu"),
    *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "12", "--data.k", "2"),
    *("--epochs", "1", "--checkpoint-every", "0", "--precision", "off"),
]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_is_tested(name, people, tmp_path):
    assert call("train", name, "--data.root", people, "--run-dir", tmp_path / "r", *SMALL) == 0
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert 0 <= result["mAP"] <= 100
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    epoch = next(event for event in map(json.loads, lines) if event["event"] == "epoch")
    weights = find_preset(name).config.method.loss_weights
    total = sum(weight * epoch[f"loss_{loss}"] for loss, weight in weights.items())
    assert epoch["loss"] == pytest.approx(total, rel=1e-5)
