"""Each loss against a brute-force oracle in float64, gradients included."""

import math

import numpy as np
import pytest
import torch

from model.losses import classification_loss, pairwise_distance, triplet_loss
from model.options import LossOptions
from pipeline.errors import InputError


def oracle_classification(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. 2 without its factor 1/M, one term at a time."""
    terms = []
    for row, target in zip(logits, targets, strict=True):
        shifted = row - row.max().detach()
        terms.append(-torch.log(torch.exp(shifted)[target] / torch.exp(shifted).sum()))
    return sum(terms) / len(terms)


def oracle_triplet(features: torch.Tensor, pids: list[int], margin: float) -> torch.Tensor:
    """Eq. 3, one anchor at a time."""
    total = 0.0
    for a in range(len(pids)):
        positives, negatives = [], []
        for other in range(len(pids)):
            if other == a:
                continue
            squared = ((features[a] - features[other]) ** 2).sum()
            (positives if pids[other] == pids[a] else negatives).append(torch.sqrt(squared))
        hinge = margin + max(positives) - min(negatives)
        total = total + torch.clamp(hinge, min=0)
    return total / len(pids)


def gradients(function, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


@pytest.mark.parametrize("seed", range(5))
def test_classification_equals_the_oracle(seed):
    rng = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(12, 7, generator=rng, dtype=torch.float64)
    targets = torch.randint(7, (12,), generator=rng)
    ours = gradients(lambda x: classification_loss(x, targets), logits)
    theirs = gradients(lambda x: oracle_classification(x, targets), logits)
    torch.testing.assert_close(ours, theirs)
    literal = classification_loss(logits, targets, divide_by_classes=True)
    torch.testing.assert_close(literal, theirs[0] / 7)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_triplet_equals_the_oracle(seed, margin):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(12, 5, generator=rng, dtype=torch.float64)
    pids = torch.arange(4).repeat_interleave(3)[torch.randperm(12, generator=rng)]
    ours = gradients(lambda x: triplet_loss(x, pids, margin), features)
    theirs = gradients(lambda x: oracle_triplet(x, pids.tolist(), margin), features)
    torch.testing.assert_close(ours, theirs)


def test_triplet_by_hand():
    # On a line at 0 and 1 (identity 0), 3 and 5 (identity 1): each anchor's terms are
    # 0: m + 1 - 3, 1: m + 1 - 2, 3: m + 2 - 2, 5: m + 2 - 4.
    features = torch.tensor([[0.0], [1.0], [3.0], [5.0]])
    pids = torch.tensor([0, 0, 1, 1])
    assert triplet_loss(features, pids, margin=0.3).item() == pytest.approx(0.3 / 4)
    assert triplet_loss(features, pids, margin=2.0).item() == pytest.approx((0 + 1 + 2 + 0) / 4)


def test_equal_features_give_no_nan_gradient():
    value, gradient = gradients(
        lambda x: triplet_loss(x, torch.tensor([0, 0, 1, 1]), 0.3), torch.ones(4, 3)
    )
    assert value.item() == pytest.approx(0.3)
    assert torch.isfinite(gradient).all()


def test_close_features_keep_their_distance_in_float32():
    # |a|² + |b|² - 2ab would give 0 or noise here.
    features = torch.tensor([[1000.0, 0.0], [1000.0, 0.01]])
    assert pairwise_distance(features)[0, 1].item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    features, logits = torch.randn(4, 3).to(dtype), torch.randn(8, 5).to(dtype)
    assert classification_loss(logits, torch.zeros(8).long()).dtype == torch.float32
    assert triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.3).dtype == torch.float32


def test_a_uniform_prediction_costs_log_m():
    assert classification_loss(torch.zeros(4, 10), torch.arange(4)).item() == pytest.approx(
        math.log(10)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classification": False, "triplet": False}, "nothing is left to learn from"),
        ({"margin": -0.1}, "--loss.margin -0.1: must be at least 0"),
        ({"triplet_weight": -1.0}, "--loss.triplet-weight -1.0: must be at least 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LossOptions(**options)


def test_oracle_and_numpy_agree_on_distance():
    x = np.random.default_rng(0).normal(size=(6, 4))
    expected = np.linalg.norm(x[:, None] - x[None], axis=-1)
    np.testing.assert_allclose(pairwise_distance(torch.from_numpy(x)).numpy(), expected)
