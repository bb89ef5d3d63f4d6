"""The input types of Fig. 5 and the structures of Fig. 7, against what the figures say."""

import pytest
import torch
from torch import nn

from model.network import Network
from model.options import ModelOptions
from model.structures import CHANNELS, LUMA, ZeroPadding
from pipeline.errors import InputError

STRUCTURES = tuple(name for name in CHANNELS if name != "generated-spectrum")  # its own file
INFRARED = torch.tensor([False, True, True, False, True, False])
HALVES = torch.arange(6) >= 3  # the layout of a balanced batch


def network(structure: str, **options) -> Network:
    torch.manual_seed(0)
    return Network(ModelOptions("test_resnet", "none", structure=structure, **options), 5)


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


def test_two_stems_treat_both_halves_in_training_as_in_evaluation():
    net = network("two-stems")
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()  # the rest stays in training mode, where each stem takes its half
    with torch.no_grad():
        for weight in net.enter.infrared.parameters():
            weight.add_(0.1)
    same = torch.randn(6, 3, 32, 16)
    in_training = net.enter(same, HALVES)
    net.eval()
    torch.testing.assert_close(net.enter(same, HALVES), in_training)


@pytest.mark.parametrize("depth", range(5))
def test_stems_of_any_depth_are_equal_at_first_and_share_what_follows(depth):
    net, one, images = network("two-stems", stem_depth=depth), network("one-stream"), pixels()
    net.eval(), one.eval()
    torch.testing.assert_close(net.embed(images, INFRARED), one.embed(images))
    stages = [f"layer{i}" for i in range(1, 5)]
    shared = {name.split(".")[0] for name, _ in net.backbone.named_parameters()}
    assert shared == set(stages[depth:])
    count = {n: len([*one.backbone.get_submodule(n).parameters()]) for n in stages[:depth]}
    stem = len([*one.backbone.conv1.parameters(), *one.backbone.bn1.parameters()])
    for own in (net.enter.rgb, net.enter.infrared):
        assert len([*own.parameters()]) == stem + sum(count.values())
    # In training the gradient of one modality's images stays out of the other's stem.
    net.train()
    net.enter(torch.randn(6, 3, 32, 16), HALVES)[:3].square().sum().backward()
    assert all(w.grad is None or not w.grad.any() for w in net.enter.infrared.parameters())
    assert any(w.grad.any() for w in net.enter.rgb.parameters())


def test_non_local_blocks_in_stems_are_each_modalitys_own():
    net = network("two-stems", stem_depth=2, non_local=True)
    blocks = [stem[5][0].non_local for stem in (net.enter.rgb, net.enter.infrared)]
    ran = []
    for block in blocks:
        block.register_forward_hook(lambda block, *_: ran.append(block))
    net(pixels(), HALVES)
    assert ran == blocks
    assert blocks[0].theta.weight is not blocks[1].theta.weight


@pytest.mark.parametrize("structure", STRUCTURES)
def test_modality_matters_except_for_one_stream(structure):
    net, images = network(structure).eval(), pixels()
    if structure == "two-stems":
        with torch.no_grad():
            for weight in net.enter.infrared.parameters():
                weight.mul_(1.5)
    a, b = (net.embed(images, mask) for mask in (INFRARED, ~INFRARED))
    assert torch.allclose(a, b) == (structure == "one-stream")


def test_two_stems_without_a_resnet_are_refused():
    options = ModelOptions("convnext_atto", "none", structure="two-stems")
    with pytest.raises(InputError, match=r"--model.structure two-stems: .* not a ResNet"):
        Network(options, 3)
