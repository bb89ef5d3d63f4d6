"""The losses on pairs across modalities against brute-force oracles in float64, with gradients."""

import math

import pytest
import torch
from hypothesis import given, settings

from model.pair_losses import contrastive_loss, dual_constrained_ranking_losses
from tests.model.test_losses import batches, gradients

MARGINS = (0.5, 0.1)
# Directions in the plane, in degrees: identity 0 at 0 (RGB) and 90 (infrared), identity 1 at 180
# (RGB) and 150 (infrared). Lengths differ, and do not count.
DEGREES, LENGTHS = (0, 90, 180, 150), (1.0, 2.0, 0.5, 3.0)
PLANE = torch.tensor(
    [
        [length * math.cos(math.radians(d)), length * math.sin(math.radians(d))]
        for d, length in zip(DEGREES, LENGTHS, strict=True)
    ],
    dtype=torch.float64,
)
PIDS, MODALITY = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1], dtype=torch.uint8)


def chord(degrees: float) -> float:
    """Distance of two points of the unit circle."""
    return 2 * math.sin(math.radians(degrees) / 2)


def unit_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a / a.norm() - b / b.norm()).norm()


def mean(terms: list[torch.Tensor]) -> torch.Tensor | float:
    return sum(terms) / len(terms) if terms else 0.0


def oracle_contrastive(features, pids, modality, margin: float) -> torch.Tensor:
    """Every RGB image with every infrared one."""
    same, other = [], []
    for i, a in enumerate(features):
        for j, b in enumerate(features):
            if modality[i] == 0 and modality[j] == 1:
                d = unit_distance(a, b)
                if pids[i] == pids[j]:
                    same.append(d**2 / 2)
                else:
                    other.append(torch.clamp(margin - d, min=0) ** 2 / 2)
    return 0.0 * features.sum() + mean(same) / 2 + mean(other) / 2


def oracle_ranking(features, pids, modality, margin, intra_margin) -> list[torch.Tensor]:
    """One direction after the other, one anchor at a time."""
    cross, intra = 0.0 * features.sum(), 0.0 * features.sum()
    for of_anchor in (0, 1):
        cross_terms, intra_terms = [], []
        for i, pid in enumerate(pids):
            others = [j for j, m in enumerate(modality) if m != of_anchor]
            to = {j: unit_distance(features[i], features[j]) for j in others}
            positives = [j for j in others if pids[j] == pid]
            negatives = [j for j in others if pids[j] != pid]
            if modality[i] != of_anchor or not positives or not negatives:
                continue
            p, n = max(positives, key=to.__getitem__), min(negatives, key=to.__getitem__)
            cross_terms.append(torch.clamp(margin + to[p] - to[n], min=0))
            apart = unit_distance(features[p], features[n])
            intra_terms.append(torch.clamp(intra_margin - apart, min=0))
        cross, intra = cross + mean(cross_terms), intra + mean(intra_terms)
    return [cross, intra]


@given(batches())
@settings(deadline=None, max_examples=40)
def test_the_contrastive_loss_equals_its_oracle(batch):
    features, pids, modality = batch
    lists = pids.tolist(), modality.tolist()
    for margin in (0.5, 1.5):
        torch.testing.assert_close(
            gradients(lambda x, m=margin: contrastive_loss(x, pids, modality, m), features),
            gradients(lambda x, m=margin: oracle_contrastive(x, *lists, m), features),
        )


@given(batches())
@settings(deadline=None, max_examples=40)
def test_the_dual_constrained_ranking_losses_equal_their_oracles(batch):
    features, pids, modality = batch
    lists = pids.tolist(), modality.tolist()
    for margins in (MARGINS, (1.5, 1.0)):
        for term in (0, 1):
            torch.testing.assert_close(
                gradients(
                    lambda x, m=margins, t=term: dual_constrained_ranking_losses(
                        x, pids, modality, *m
                    )[t],
                    features,
                ),
                gradients(lambda x, m=margins, t=term: oracle_ranking(x, *lists, *m)[t], features),
            )


def test_by_hand():
    # RGB to infrared: at 0, 90 from its own and 150 from the other; at 180, 30 and 90.
    same, other = [chord(90), chord(30)], [chord(150), chord(90)]
    expected = sum(d * d for d in same) / 8 + sum(max(0, 1.8 - d) ** 2 for d in other) / 8
    assert contrastive_loss(PLANE, PIDS, MODALITY, 1.8).item() == pytest.approx(expected)
    # Infrared to RGB: at 90, 90 from its own and 90 from the other; at 150, 30 and 150.
    cross, intra = dual_constrained_ranking_losses(PLANE, PIDS, MODALITY, 0.6, 1.5)
    pairs = [(90, 150), (30, 90), (90, 90), (30, 150)]
    hinges = [max(0, 0.6 + chord(p) - chord(n)) for p, n in pairs]
    assert cross.item() == pytest.approx(sum(hinges) / 2)
    # Two identities are 60 apart in infrared, 180 in RGB, whoever is the anchor.
    assert intra.item() == pytest.approx(1.5 - chord(60))


@pytest.mark.parametrize("lonely", [torch.zeros(4).byte(), torch.ones(4).byte()])
def test_without_pairs_across_modalities_they_are_0(lonely):
    for loss in (
        lambda x: contrastive_loss(x, PIDS, lonely, 0.5),
        lambda x: sum(dual_constrained_ranking_losses(x, PIDS, lonely, *MARGINS)),
    ):
        value, gradient = gradients(loss, PLANE)
        assert value == 0
        assert (gradient == 0).all()


def test_equal_features_give_no_nan_gradient():
    for loss, expected in (
        (lambda x: contrastive_loss(x, PIDS, MODALITY, 0.5), 0.5**2 / 4),
        (lambda x: dual_constrained_ranking_losses(x, PIDS, MODALITY, *MARGINS)[0], 1.0),
        (lambda x: dual_constrained_ranking_losses(x, PIDS, MODALITY, *MARGINS)[1], 0.2),
    ):
        value, gradient = gradients(loss, torch.ones(4, 3))
        assert value.item() == pytest.approx(expected)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_features_are_compared_in_float32(dtype):
    features = (1000 * PLANE).to(dtype)  # whose squares float16 cannot hold
    exact = features.double()
    found = contrastive_loss(features, PIDS, MODALITY, 1.8)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(contrastive_loss(exact, PIDS, MODALITY, 1.8).item())
    for ours, theirs in zip(
        dual_constrained_ranking_losses(features, PIDS, MODALITY, 0.6, 1.5),
        dual_constrained_ranking_losses(exact, PIDS, MODALITY, 0.6, 1.5),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
