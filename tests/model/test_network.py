"""The one-stream network: normalisation, shapes, options."""

import pytest
import torch

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError

SMALL = ModelOptions(backbone="resnet10t", weights="none")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def pixels(n: int = 2, height: int = 64, width: int = 32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8, generator=rng)


def test_the_network_is_normalise_backbone_pool_dropout_linear():
    network = Network(SMALL, num_classes=7).eval()
    images = pixels()
    normalised = (images.float() / 255 - MEAN[:, None, None]) / STD[:, None, None]
    maps = network.backbone.forward_features(normalised)
    expected = maps.mean(dim=(2, 3))
    features, _, logits, _ = network(images)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        logits,
        expected @ network.classifier.weight.T + network.classifier.bias,
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(network.embed(images), features)


def test_dropout_is_between_feature_and_classifier_in_training_only():
    network = Network(SMALL, num_classes=7).train()
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = (network(pixels()).logits for _ in range(2))
        assert not torch.equal(first, second)
        network.eval()
        assert torch.equal(network(pixels()).logits, network(pixels()).logits)


def test_bnneck_is_before_the_classifier_and_the_triplet_loss_sees_the_feature_before_it():
    network = Network(ModelOptions(backbone="resnet10t", weights="none", bnneck=True), 7).eval()
    torch.nn.init.constant_(network.neck.running_mean, 0.5)
    features, embedding, logits, _ = network(pixels())
    torch.testing.assert_close(embedding, network.neck(features))
    necked = network.neck(features)
    assert not torch.allclose(features, necked)
    torch.testing.assert_close(logits, network.classifier(necked))
    torch.testing.assert_close(network.embed(pixels()), necked)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet10t", "resnet50.tv_in1k"])
def test_last_stride_1_doubles_the_last_map_and_keeps_the_weights(backbone):
    options = [ModelOptions(backbone, "none", last_stride=stride) for stride in (2, 1)]
    strided, dense = (Network(o, 3).eval() for o in options)
    dense.load_state_dict(strided.state_dict())
    maps = [n.backbone.forward_features(torch.zeros(1, 3, 64, 32)) for n in (strided, dense)]
    assert maps[0].shape[2:] == (2, 1)
    assert maps[1].shape[2:] == (4, 2)


def test_unreachable_pretrained_weights_say_what_to_do(monkeypatch, tmp_path):
    # Read when a download starts, so no earlier import can have fixed it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"--model.weights FILE .* --model.weights none") as error:
        Network(ModelOptions("resnet10t", "imagenet"), 7)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ModelOptions(backbone="resnet51"), r"timm has no such model; similar: .*resnet51q"),
        (ModelOptions(weights="/nowhere.pth"), r"--model.weights /nowhere.pth: no such file"),
        (
            ModelOptions("convnext_atto", "none", last_stride=1),
            r"--model.last-stride 1: convnext_atto is not a ResNet",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Network(options, 7)


def test_dropout_of_1_is_refused():
    with pytest.raises(InputError, match=r"--model.dropout 1.0"):
        ModelOptions(dropout=1.0)


@pytest.mark.parametrize(
    ("backbone", "mean", "std"),
    [
        ("resnet50.tv_in1k", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # the paper's
        ("resnet10t", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("tf_efficientnet_lite0", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ("vit_tiny_patch16_224.augreg_in21k", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ("mobileone_s0", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ],
)
def test_images_are_normalised_as_the_backbones_weights_expect(backbone, mean, std):
    network = Network(ModelOptions(backbone, "none"), 7, (64, 32))
    assert network.mean.flatten().tolist() == torch.tensor([255 * m for m in mean]).tolist()
    expected = torch.tensor([1 / (255 * s) for s in std]).tolist()
    assert network.inverse_std.flatten().tolist() == expected
