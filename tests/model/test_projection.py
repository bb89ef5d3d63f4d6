"""The fully connected layer after pooling: shared, or one for each modality."""

import pytest
import torch
from torch import nn

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError

INFRARED = torch.tensor([False, True, True, False])


def network(**options) -> Network:
    torch.manual_seed(0)
    return Network(ModelOptions("test_resnet", "none", **options), 5)


def pixels() -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(256, (4, 3, 32, 16), dtype=torch.uint8, generator=rng)


def test_without_it_a_network_is_as_it_was():
    assert not any(name.startswith("project.") for name in network().state_dict())


def test_a_shared_layer_makes_the_features_and_the_classifier_sees_its_relu():
    net, images = network(fc="shared", fc_width=7).eval(), pixels()
    assert not net.needs_modality
    pooled = network().eval().embed(images)
    expected = net.project.layer(pooled)
    features, embedding, logits, _ = net(images)
    assert (net.width, features.shape) == (7, (4, 7))
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(embedding, expected)
    torch.testing.assert_close(net.embed(images), expected)
    assert (expected < 0).any()
    torch.testing.assert_close(logits, net.classifier(expected.clamp(min=0)))


def test_layers_per_modality_are_equal_at_first_and_each_takes_its_own_images():
    net, images = network(fc="per-modality").eval(), pixels()
    assert net.needs_modality
    assert not net.needs_balanced
    torch.testing.assert_close(net.embed(images, INFRARED), net.embed(images, ~INFRARED))
    with torch.no_grad():
        net.project.infrared.weight.mul_(2)
    pooled = network().eval().embed(images)
    found = net.embed(images, INFRARED)
    for layer, mask in ((net.project.rgb, ~INFRARED), (net.project.infrared, INFRARED)):
        torch.testing.assert_close(found[mask], layer(pooled[mask]))


@pytest.mark.parametrize("fc", ["shared", "per-modality"])
def test_dropout_is_before_and_after_it(fc):
    net = network(fc=fc, dropout=0.5)
    dropped = [layer for layer in net.modules() if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in dropped] == [0.5, 0.5]
    net.eval()
    net.project.dropout.train()
    with torch.no_grad():
        assert not torch.equal(net(pixels(), INFRARED).features, net(pixels(), INFRARED).features)


def test_a_bnneck_and_centers_are_as_wide_as_it():
    options = ModelOptions("test_resnet", "none", fc="shared", fc_width=7, bnneck=True)
    net = Network(options, 5, centers=True).train()
    out = net(pixels())
    assert out.embedding.shape == (4, 7)
    assert out.extras["centers"].shape == (5, 7)


def test_it_is_taken_from_a_file_that_has_one_and_starts_afresh_otherwise(tmp_path):
    trained, plain = network(fc="shared", fc_width=7), network()
    with torch.no_grad():
        trained.project.layer.weight.fill_(0.25)
    for name, saved, account in (
        ("trained.pth", trained, ""),
        ("plain.pth", plain, "the fully connected layer starts afresh"),
    ):
        file = tmp_path / name
        torch.save(saved.state_dict(), file)
        loaded = Network(ModelOptions("test_resnet", str(file), fc="shared", fc_width=7), 3)
        assert account in loaded.account
        assert ("afresh" in loaded.account) == bool(account)
        assert (loaded.project.layer.weight == 0.25).all() == (not account)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fc": "shared", "fc_width": -1}, "--model.fc-width -1: must be at least 0"),
        ({"fc_width": 9}, "--model.fc-width 9: only with --model.fc shared or per-modality"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ModelOptions(**options)
