"""The input types of Fig. 5 and the structures of Fig. 7, against what the figures say."""

import pytest
import torch
from torch import nn

from model.network import Network
from model.options import ModelOptions
from model.structures import CHANNELS, LUMA, ZeroPadding
from pipeline.errors import InputError

STRUCTURES = tuple(CHANNELS)
INFRARED = torch.tensor([False, True, True, False, True, False])
HALVES = torch.arange(6) >= 3  # as a balanced batch lies


def network(structure: str) -> Network:
    torch.manual_seed(0)
    return Network(ModelOptions("test_resnet", "none", structure=structure), 5)


def pixels() -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(256, (6, 3, 32, 16), dtype=torch.uint8, generator=rng)


@pytest.mark.parametrize(("channels", "visible"), [(2, [0]), (4, [0, 1, 2])])
def test_zero_padding_keeps_the_modalities_apart(channels, visible):
    normalised = torch.randn(6, 3, 4, 2)
    entered = ZeroPadding(channels)(normalised, INFRARED)
    assert entered.shape == (6, channels, 4, 2)
    assert (entered[INFRARED][:, visible] == 0).all()
    assert (entered[~INFRARED][:, -1] == 0).all()
    gray = torch.einsum("bchw,c->bhw", normalised, torch.tensor(LUMA))
    torch.testing.assert_close(entered[INFRARED][:, -1], gray[INFRARED])
    expected = gray[:, None] if channels == 2 else normalised
    torch.testing.assert_close(entered[~INFRARED][:, visible], expected[~INFRARED])


def test_two_stems_are_equal_at_first_and_each_sees_its_modality_only():
    net, one = network("two-stems"), network("one-stream")
    images = pixels()
    net.eval(), one.eval()
    torch.testing.assert_close(net.embed(images, INFRARED), one.embed(images))
    net.train()
    seen = {}
    for name in ("rgb", "infrared"):
        stem = getattr(net.enter, name)
        stem.register_forward_hook(lambda _, args, __, name=name: seen.update({name: args[0]}))
    net(images, HALVES)
    for name, mask in (("rgb", ~HALVES), ("infrared", HALVES)):
        expected = (images[mask].float() - net.mean) * net.inverse_std
        torch.testing.assert_close(seen[name], expected)


def test_two_stems_treat_the_two_halves_in_training_as_they_do_in_a_test():
    net = network("two-stems")
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()  # in training mode otherwise, where the stems take turns
    with torch.no_grad():
        for weight in net.enter.infrared.parameters():
            weight.add_(0.1)
    same = torch.randn(6, 3, 32, 16)
    in_training = net.enter(same, HALVES)
    net.eval()
    torch.testing.assert_close(net.enter(same, HALVES), in_training)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_modality_matters_but_for_one_stream(structure):
    net, images = network(structure).eval(), pixels()
    if structure == "two-stems":
        with torch.no_grad():
            for weight in net.enter.infrared.parameters():
                weight.mul_(1.5)
    a, b = (net.embed(images, mask) for mask in (INFRARED, ~INFRARED))
    assert torch.allclose(a, b) == (structure == "one-stream")


def test_two_stems_of_no_resnet_are_refused():
    options = ModelOptions("convnext_atto", "none", structure="two-stems")
    with pytest.raises(InputError, match=r"--model.structure two-stems: .* no ResNet"):
        Network(options, 3)
