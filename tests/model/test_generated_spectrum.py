"""The generated-spectrum structure: what it generates, and what learns from what."""

import pytest
import torch

from model.generated_spectrum import TranslatingNetwork
from model.network import Network
from model.options import ModelOptions
from model.structures import LUMA
from model.translator import INFRARED, RGB, TranslatorOptions
from pipeline.errors import InputError

MODEL = ModelOptions("test_resnet", "none", structure="generated-spectrum", dropout=0.0)
SMALL = TranslatorOptions(width=4, blocks=2)
HALVES = torch.arange(4) >= 2
TERMS = ("recon", "cycle", "kl", "gan", "critics")


@pytest.fixture
def network() -> TranslatingNetwork:
    torch.manual_seed(0)
    network = TranslatingNetwork(MODEL, 5, (32, 16), False, SMALL)
    for module in network.modules():  # timm initialises residual branches with weight 0
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return network


@pytest.fixture
def images() -> torch.Tensor:
    """Two RGB images and two infrared ones, whose channels are equal."""
    rng = torch.Generator().manual_seed(1)
    rgb = torch.randint(256, (2, 3, 32, 16), dtype=torch.uint8, generator=rng)
    gray = torch.randint(256, (2, 1, 32, 16), dtype=torch.uint8, generator=rng)
    return torch.cat([rgb, gray.expand(-1, 3, -1, -1)])


def freeze(network: torch.nn.Module, part: str) -> None:
    for name, weight in network.named_parameters():
        if name.startswith(part):
            weight.requires_grad_(False)


def moved(network: torch.nn.Module) -> set[str]:
    """The parts that have a gradient."""
    return {
        ".".join(name.split(".")[: 3 if name.startswith("enter.") else 1])
        for name, weight in network.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }


@pytest.mark.parametrize("training", [True, False])
def test_an_image_keeps_its_own_channels_and_gets_the_missing_ones(network, images, training):
    network.train(training)
    normal = (images.float() - network.mean) * network.inverse_std
    entered = network.enter(normal, HALVES)
    assert entered.shape == (4, 4, 32, 16)
    torch.testing.assert_close(entered[:2, :3], normal[:2], rtol=1e-4, atol=1e-4)
    luma = torch.einsum("bchw,c->bhw", normal, torch.tensor(LUMA))
    torch.testing.assert_close(entered[2:, 3], luma[2:], rtol=1e-4, atol=1e-4)
    # What is generated is the translation, normalised as an image of that kind is.
    levels = images / 127.5 - 1
    made_rgb = network.enter.translator.translate(levels[2:, :1], INFRARED)
    made_infrared = network.enter.translator.translate(levels[:2], RGB)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return ((x + 1) * 127.5 - network.mean) * network.inverse_std

    torch.testing.assert_close(entered[2:, :3], normalised(made_rgb), rtol=1e-3, atol=1e-3)
    expected = torch.einsum(
        "bchw,c->bhw", normalised(made_infrared.expand(-1, 3, -1, -1)), torch.tensor(LUMA)
    )
    torch.testing.assert_close(entered[:2, 3], expected, rtol=1e-3, atol=1e-3)


def test_in_evaluation_modalities_may_be_in_any_order(network, images):
    network.eval()
    order = [2, 0, 3, 1]
    found = network.embed(images[order], HALVES[order])
    torch.testing.assert_close(found, network.embed(images, HALVES)[order])
    assert not torch.allclose(network.embed(images, ~HALVES), network.embed(images, HALVES))
    assert not network(images, HALVES).extras


def test_translated_pixels_are_those_that_the_backbone_gets(network, images):
    network.eval()
    entered = network.enter(network.normalised(images), HALVES)
    made_rgb, made_infrared = (network.translated(images[i:][:2], i == 2) for i in (2, 0))
    assert made_rgb.shape == made_infrared.shape == (2, 3, 32, 16)
    assert (made_infrared[:, 0] == made_infrared[:, 2]).all()
    torch.testing.assert_close(
        network.normalised(made_rgb), entered[2:, :3], rtol=0, atol=0.52 / 255 / 0.224
    )
    gray = torch.einsum("bchw,c->bhw", network.normalised(made_infrared), torch.tensor(LUMA))
    torch.testing.assert_close(gray, entered[:2, 3], rtol=0, atol=0.52 / 255 / 0.224)


def test_behind_a_frozen_backbone_the_translator_learns_by_its_own_losses_alone(network, images):
    freeze(network, "backbone.")
    freeze(network, "classifier.")
    out = network(images, HALVES)
    assert not out.features.requires_grad
    assert not out.logits.requires_grad
    sum(out.extras[name] for name in TERMS).backward()
    every = {f"enter.translator.{name}" for name, _ in network.enter.translator.named_children()}
    assert moved(network) == every


def test_on_a_frozen_translator_the_feature_network_learns_alone(network, images):
    freeze(network, "enter.translator.")
    out = network(images, HALVES)
    assert {name: float(out.extras[name]) for name in TERMS} == dict.fromkeys(TERMS, 0.0)
    (out.logits.square().sum() + sum(out.extras.values())).backward()
    assert moved(network) == {"backbone", "classifier"}


def test_jointly_the_identities_reach_the_translator_but_not_its_discriminators(network, images):
    out = network(images, HALVES)
    out.logits.square().sum().backward()
    inside = {"encoders", "encode_shared", "generate_shared", "generators"}
    expected = {"backbone", "classifier", *(f"enter.translator.{name}" for name in inside)}
    assert moved(network) == expected


def test_without_a_translator_the_structure_is_refused():
    with pytest.raises(InputError, match=r"--model.structure generated-spectrum: .* use d2rl"):
        Network(MODEL, 5, (32, 16))
