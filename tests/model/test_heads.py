"""The cosine classifier against its definition."""

import math

import pytest
import torch
from torch import nn

from model.heads import CosineClassifier
from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError

SMALL = {"backbone": "test_resnet", "weights": "none"}


def test_logits_are_cosines_times_the_scale():
    torch.manual_seed(0)
    head = CosineClassifier(5, 3, 14.0).double()
    x = torch.randn(4, 5, dtype=torch.double)
    found = head(x).detach()
    for i, feature in enumerate(x):
        for m, weights in enumerate(head.weight):
            a, b = feature.tolist(), weights.tolist()
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            assert float(found[i, m]) == pytest.approx(14 * dot / (math.hypot(*a) * math.hypot(*b)))


def test_only_directions_count():
    head = CosineClassifier(5, 3, 14.0)
    x = torch.randn(4, 5)
    before = head(x)
    with torch.no_grad():
        head.weight *= torch.tensor([[0.5], [3.0], [7.0]])
    torch.testing.assert_close(head(10 * x), before)
    assert head(torch.zeros(1, 5)).isfinite().all()


def test_it_is_the_networks_classifier_if_its_scale_is_not_0():
    linear = Network(ModelOptions(**SMALL), 5, (32, 16)).classifier
    cosine = Network(ModelOptions(**SMALL, cosine_scale=14.0), 5, (32, 16)).classifier
    assert type(linear) is nn.Linear
    assert isinstance(cosine, CosineClassifier)
    assert (cosine.scale, list(cosine.state_dict())) == (14.0, ["weight"])


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_an_impossible_scale_is_refused(scale):
    with pytest.raises(InputError, match=r"--model.cosine-scale .*: must be at least 0"):
        ModelOptions(cosine_scale=scale)
