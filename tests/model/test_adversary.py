"""The modality discriminator: which way its gradients go."""

import pytest
import torch
import torch.nn.functional as F

from model.adversary import ModalityDiscriminator, reversed_gradient

SCALE = 0.05


def gradients(discriminate, features: torch.Tensor, weights: list[torch.Tensor]):
    labels = torch.arange(len(features)) % 2
    loss = F.cross_entropy(discriminate(features), labels)
    return torch.autograd.grad(loss, [features, *weights])


def test_the_features_get_its_gradient_reversed_and_scaled_and_its_own_weights_do_not():
    torch.manual_seed(0)
    discriminator = ModalityDiscriminator(6, SCALE).double()
    features = torch.randn(8, 6, dtype=torch.double, requires_grad=True)
    weights = list(discriminator.parameters())
    plain = gradients(discriminator.layers, features, weights)  # without the reversal
    found = gradients(discriminator, features, weights)
    assert plain[0].abs().sum() > 0
    torch.testing.assert_close(found[0], -SCALE * plain[0])
    for ours, theirs in zip(found[1:], plain[1:], strict=True):
        assert torch.equal(ours, theirs)


def test_it_has_the_layers_that_were_published():
    layers = [x for x in ModalityDiscriminator(2048, SCALE).layers if hasattr(x, "weight")]
    assert [tuple(x.weight.shape) for x in layers] == [(1000, 2048), (500, 1000), (2, 500)]


@pytest.mark.parametrize("scale", [0.0, 1.0, 0.05])
def test_what_is_passed_on_is_unchanged(scale):
    x = torch.randn(3, 4, requires_grad=True)
    y = reversed_gradient(x, scale)
    assert torch.equal(x, y)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, -scale))
