"""Losses across modalities against brute-force oracles in float64, gradients included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.pair_losses import cross_modality_triplet_loss

BATCHES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=2, max_size=9)


def oracle(features: torch.Tensor, pids, modality, margin: float) -> torch.Tensor:
    """One anchor at a time."""
    terms = []
    for a in range(len(pids)):
        others = [i for i in range(len(pids)) if modality[i] != modality[a]]
        positives = [(features[a] - features[i]).norm() for i in others if pids[i] == pids[a]]
        negatives = [(features[a] - features[i]).norm() for i in others if pids[i] != pids[a]]
        if positives and negatives:
            terms.append(torch.clamp(margin + max(positives) - min(negatives), min=0))
    return sum(terms) / len(terms) if terms else 0 * features.sum()


@settings(max_examples=60, deadline=None)
@given(batch=BATCHES, seed=st.integers(0, 1000), margin=st.sampled_from([0.0, 1.4, 5.0]))
def test_it_equals_an_oracle_for_any_batch(batch, seed, margin):
    torch.manual_seed(seed)
    pids, modality = zip(*batch, strict=True)
    features = torch.randn(len(pids), 3, dtype=torch.double, requires_grad=True)
    found = cross_modality_triplet_loss(
        features, torch.tensor(pids), torch.tensor(modality).byte(), margin
    )
    expected = oracle(features, pids, modality, margin)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(x, features)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_images_of_one_modality_pull_nothing():
    pids, modality = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]).byte()
    near, far = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 9.0])
    across = torch.stack([near, near, far, far])  # each beside its own in the other modality
    assert cross_modality_triplet_loss(across, pids, modality, 1.4) == 0
    # Beside the other identity in the other modality: 1.4 + 9.06 - 0 for each anchor.
    within = torch.stack([near, far, far, near])
    distance = (near - far).norm()
    found = cross_modality_triplet_loss(within, pids, modality, 1.4)
    torch.testing.assert_close(found, 1.4 + distance)


@pytest.mark.parametrize("features", [torch.zeros(4, 3), torch.ones(4, 3)])
def test_at_one_point_the_loss_is_the_margin_and_its_gradient_0(features):
    features = features.clone().requires_grad_()
    pids, modality = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]).byte()
    loss = cross_modality_triplet_loss(features, pids, modality, 1.4)
    assert float(loss.detach()) == pytest.approx(1.4)
    loss.backward()
    assert torch.equal(features.grad, torch.zeros(4, 3))
