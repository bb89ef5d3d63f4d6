"""Generalized mean and part pooling against loops in plain Python, and what cannot be pooled."""

import math

import pytest
import torch

from model.network import Network
from model.options import ModelOptions
from model.pooling import Pooling, average, generalized_mean
from pipeline.errors import InputError

SIZE = (64, 32)


def maps(height: int = 4, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(3, 5, height, 2, generator=rng, dtype=torch.float64).to(dtype)


def pooling(**options) -> Pooling:
    return Pooling(ModelOptions(**options))


@pytest.mark.parametrize("p", [1.0, 3.0, 4.5])
def test_gem_is_the_root_of_the_mean_power(p):
    found = generalized_mean(maps(), p)
    for image, of_image in zip(maps().tolist(), found.tolist(), strict=True):
        for channel, value in zip(image, of_image, strict=True):
            powers = [x**p for row in channel for x in row]
            assert value == pytest.approx((sum(powers) / len(powers)) ** (1 / p), rel=1e-9)


def test_gem_goes_from_the_mean_to_the_maximum():
    x = maps()
    torch.testing.assert_close(generalized_mean(x, 1.0), average(x))
    above_1 = 1 + x  # whose powers do not vanish
    nearly = generalized_mean(above_1, 500.0)
    torch.testing.assert_close(nearly, above_1.amax(dim=(2, 3)), rtol=0.01, atol=0)


@pytest.mark.parametrize("p", [3.0, 8.0])
def test_gem_of_nonpositive_values_is_finite_in_every_precision(p):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.stack([torch.zeros(2, 4, 2), -torch.ones(2, 4, 2), torch.full((2, 4, 2), 100.0)])
        x = x.to(dtype).requires_grad_()  # 100³ is more than float16 holds
        pooled = generalized_mean(x, p)
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pooled[2], torch.full((2,), 100.0))
        torch.testing.assert_close(pooled[:2], torch.full((2, 2), 1e-4))
        assert torch.autograd.grad(pooled.sum(), x)[0].isfinite().all()


def test_p_is_trained_only_if_requested():
    assert list(pooling(pooling="gem").parameters()) == []
    learned = pooling(pooling="gem", gem_learned=True, gem_p=2.0)
    assert [(n, p.item()) for n, p in learned.named_parameters()] == [("p", 2.0)]
    x, h = maps(dtype=torch.float32), 1e-3
    (gradient,) = torch.autograd.grad(learned(x).sum(), learned.p)
    slope = (generalized_mean(x.double(), 2 + h) - generalized_mean(x.double(), 2 - h)).sum()
    assert gradient.item() == pytest.approx(slope.item() / (2 * h), rel=1e-3)


@pytest.mark.parametrize(("height", "rows"), [(6, [2, 2, 2]), (8, [3, 3, 2])])
@pytest.mark.parametrize("kind", ["avg", "gem"])
def test_parts_are_stripes_from_top_to_bottom(kind, height, rows):
    x = maps(height)
    found = pooling(pooling=kind, parts=3)(x)
    assert found.shape == (3, 15)
    top = 0
    for part, size in enumerate(rows):
        stripe = x[:, :, top : top + size]
        expected = average(stripe) if kind == "avg" else generalized_mean(stripe, 3.0)
        torch.testing.assert_close(found[:, 5 * part : 5 * part + 5], expected)
        top += size


@pytest.mark.parametrize("backbone", ["test_resnet", "lcnet_035"])
def test_a_network_pools_the_map_of_its_backbone(backbone):
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    network = Network(ModelOptions(backbone, "none", pooling="gem", parts=2, bnneck=True), 5, SIZE)
    network.eval()
    pixels = (images - network.mean) * network.inverse_std
    made = network.backbone(pixels)
    assert made.shape[2] == 2
    expected = torch.cat([generalized_mean(made[:, :, i : i + 1], 3.0) for i in (0, 1)], dim=1)
    features, embedding, logits, _ = network(images)
    torch.testing.assert_close(features, expected)
    assert network.width == network.neck.num_features == 2 * made.shape[1]
    assert (embedding.shape, logits.shape) == ((2, network.width), (2, 5))
    torch.testing.assert_close(network.embed(images), embedding)


def test_average_pooling_equals_timms():
    torch.manual_seed(0)
    theirs = Network(ModelOptions("test_resnet", "none"), 5, SIZE).eval()
    one_part = ModelOptions("test_resnet", "none", pooling="gem", gem_p=1.0)
    ours = Network(one_part, 5, SIZE).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    torch.testing.assert_close(ours.embed(images), theirs.embed(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone": "test_vit", "pooling": "gem"},
            "--model.pooling gem: test_vit has no feature map",
        ),
        (
            {"backbone": "test_mambaout", "parts": 2},
            "--model.parts 2: test_mambaout has no feature map",
        ),
        ({"parts": 3}, "--model.parts 3: the feature map of test_resnet is only 2 high; pass --mo"),
    ],
)
def test_what_cannot_be_pooled_is_refused(options, message):
    with pytest.raises(InputError, match=message) as error:
        Network(ModelOptions(**{"backbone": "test_resnet", "weights": "none"} | options), 5, SIZE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 0}, "--model.parts 0: must be at least 1"),
        ({"gem_p": 0.5}, "--model.gem-p 0.5: must be in 1…8"),
        ({"gem_p": 4.0}, "--model.gem-p 4.0: only with --model.pooling gem"),
        ({"gem_p": math.nan}, "--model.gem-p nan: must be in 1…8"),
        ({"gem_learned": True}, "--model.gem-learned: only with --model.pooling gem"),
        ({"stem_depth": 1}, "--model.stem-depth 1: only with --model.structure two-stems"),
    ],
)
def test_contradictory_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ModelOptions(**options)
