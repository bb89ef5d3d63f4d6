"""HSME: its network, its schedule, a run."""

import json
import math
from itertools import pairwise

import pytest
import torch

from model.heads import CosineClassifier
from tests.front_door import call
from train.methods.base import without_weights
from train.methods.hsme import METHOD
from train.presets import find_preset

SMALL = [
    *("--model.backbone", "test_resnet", "--model.weights", "none", "--device", "cpu"),
    *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "3", "--data.k", "4"),
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


def test_of_one_point_an_unbiased_classifier_is_at_ln_m():
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
