"""timm models of all kinds: each trains, or is refused in one line when the network is built."""

import dataclasses
import warnings

import pytest
import timm
import torch
from torch import nn

from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError

SIZE = (64, 32)
# One per family. The width is often not timm's `num_features`; marked: made for another size only.
FAMILIES = """
    resnet18 resnext26ts seresnet18 resnetv2_18 res2next50 resnest14d skresnet18 regnetx_002
    regnety_002 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small_035
    efficientnet_lite0 ghostnet_050 lcnet_035 repghostnet_050 vgg11 hgnetv2_b0 densenet121
    dla46x_c dpn48b ese_vovnet19b_slim_dw mobileone_s0 repvgg_a0 convnext_atto
    inception_next_atto edgenext_xx_small fastvit_t8 mobilevit_xxs vit_tiny_patch16_224
    deit_tiny_patch16_224 eva02_tiny_patch14_224 swin_tiny_patch4_window7_224 mixer_s32_224
    levit_128s efficientformerv2_s0 efficientvit_m0 efficientvit_b0 xcit_nano_12_p16_224
    pvt_v2_b0 cait_xxs24_224 coat_tiny crossvit_tiny_240 tiny_vit_5m_224 test_coatnet
    test_maxvit halonet_h1* convit_tiny* efficientformer_l1* inception_v3* nest_tiny*
"""


def batch(size: tuple[int, int], n: int = 4) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, *size), dtype=torch.uint8, generator=rng)


def train_a_step(network: Network, size: tuple[int, int]) -> float:
    """Trains one step on a batch; returns its loss."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    features, _, logits, _ = network(batch(size))
    assert features.shape == (4, network.width)
    loss = nn.functional.cross_entropy(logits, torch.arange(4)) + features.square().mean()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    return loss.item()


def assert_restorable(network: Network, options: ModelOptions, size: tuple[int, int]) -> None:
    """What evaluation and export do: a new network with the weights computes the same."""
    again = Network(dataclasses.replace(options, weights="none"), 5, size)
    again.load_state_dict(network.state_dict())
    features = network.eval().embed(batch(size))
    assert torch.equal(again.eval().embed(batch(size)), features)


@pytest.mark.parametrize(
    ("name", "width"),
    [("test_resnet", 96), ("lcnet_035", 1280), ("test_mambaout", 256), ("test_vit", 64)],
)
def test_the_width_is_that_of_the_features(name, width):
    options = ModelOptions(name, "none", bnneck=True)
    network = Network(options, 5, SIZE)
    assert (network.width, network.neck.num_features) == (width, width)
    train_a_step(network, SIZE)
    assert_restorable(network, options, SIZE)


@pytest.mark.parametrize("name", ["resnet10t", "lcnet_035", "test_vit", "test_coatnet"])
def test_measuring_the_width_changes_nothing(name):
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(Network(ModelOptions(name, "none"), 5, SIZE))
        after = torch.rand(1)
        torch.manual_seed(0)
        size = {"img_size": SIZE} if name in ("test_vit", "test_coatnet") else {}
        plain = timm.create_model(name, num_classes=0, **size)
        nn.Linear(networks[0].width, 5)
        assert torch.equal(torch.rand(1), after)
    for key, value in plain.state_dict().items():
        assert all(torch.equal(network.backbone.state_dict()[key], value) for network in networks)
    assert all(module.training for module in networks[0].modules())


def test_evaluation_caches_follow_the_weights():
    options = ModelOptions("levit_128s", "none")
    network = Network(options, 5, SIZE)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("attention_biases"):
                weight.normal_()
    assert_restorable(network, options, SIZE)


@pytest.mark.parametrize("name", ["halonet_h1", "nest_tiny", "efficientformer_l1"])
def test_a_size_that_a_model_cannot_take_is_refused_with_the_one_it_can(name):
    own = timm.get_pretrained_cfg(name).input_size
    with pytest.raises(InputError) as error:
        Network(ModelOptions(name, "none"), 5, SIZE)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"--model.backbone {name}: cannot take 64x32 images (")
    assert line.endswith(f"--data.height-px {own[1]} --data.width-px {own[2]}")


def test_a_model_without_a_feature_vector_is_refused(monkeypatch):
    monkeypatch.setattr(
        timm.models.resnet.ResNet, "forward_head", lambda self, x, pre_logits=False: x
    )
    with pytest.raises(InputError, match="does not return a vector for each image"):
        Network(ModelOptions("test_resnet", "none"), 5, SIZE)


def test_unknown_weights_of_a_known_model_are_refused():
    with pytest.raises(
        InputError, match=r"resnet10t\.mine: timm has no weights of that name; it has"
    ):
        Network(ModelOptions("resnet10t.mine", "none"), 5, SIZE)


@pytest.mark.long
def test_a_model_of_each_family_trains_or_is_refused(capsys):
    """Prints a table; a refused model must train in the size that the message suggests."""
    warnings.simplefilter("ignore")
    rows = []
    for marked in FAMILIES.split():
        name, size = marked.rstrip("*"), SIZE
        options = ModelOptions(name, "none", bnneck=True)
        if name != marked:
            with pytest.raises(InputError) as error:
                Network(options, 5, size)
            rows.append(f"{name:28} {error.value!s}")
            size = timm.get_pretrained_cfg(name).input_size[1:]
        network = Network(options, 5, size)
        loss = train_a_step(network, size)
        assert_restorable(network, options, size)
        shown, timms = "x".join(map(str, size)), network.backbone.num_features
        rows.append(
            f"{name:28} {shown:>7}  width {network.width:4}, timm says {timms:4}, loss {loss:.2f}"
        )
    with capsys.disabled():
        print("", *rows, sep="\n")
    assert len(FAMILIES.split()) >= 26
