"""cmGAN: its losses, its discriminator, its setting, a run."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from model.options import ModelOptions
from model.outputs import Examples
from model.pair_losses import cross_modality_triplet_loss
from pipeline.errors import InputError
from tests.front_door import call, refused
from tests.test_cli import events
from train import checkpoint
from train.methods.cmgan import METHOD, CmGan
from train.presets import find_preset

PIDS = torch.tensor([0, 1, 0, 1])
BATCH = Examples(PIDS, torch.tensor([0, 0, 1, 1]).byte(), torch.full((4,), -1).char(), views=1)
IMAGES = torch.randint(256, (4, 3, 32, 16), generator=torch.Generator().manual_seed(0)).byte()


def alone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def small(**changes) -> CmGan:
    options = {"model": ModelOptions("test_resnet", "none"), "loss": METHOD.loss} | changes
    return CmGan(**options)


def test_its_losses_are_identity_cross_modality_triplet_and_modality():
    torch.manual_seed(0)
    method = small()
    out = method.network(5, (32, 16))(IMAGES)
    found = method.losses(out, BATCH, alone)
    assert list(found) == list(method.loss_weights) == ["cls", "cross_tri", "adv"]
    assert method.loss_weights == {"cls": 1.0, "cross_tri": 1.0, "adv": 1.0}
    torch.testing.assert_close(found["cls"], F.cross_entropy(out.logits, PIDS))
    expected = cross_modality_triplet_loss(out.features, PIDS, BATCH.modality, 1.4)
    torch.testing.assert_close(found["cross_tri"], expected)
    nll = -out.extras["modality"].log_softmax(dim=1)[range(4), [0, 0, 1, 1]]
    torch.testing.assert_close(found["adv"], nll.mean())


def test_the_backbone_is_driven_against_the_discriminator_with_its_weight():
    torch.manual_seed(0)
    gradients = {}
    for weight in (0.05, 0.1):
        torch.manual_seed(0)
        method = small(adversarial_weight=weight)
        network = method.network(5, (32, 16)).double()
        method.losses(network(IMAGES), BATCH, alone)["adv"].backward()
        gradients[weight] = {name: p.grad for name, p in network.named_parameters()}
    for name, gradient in gradients[0.05].items():
        if name.startswith("discriminator."):  # at full strength
            assert gradient.abs().sum() > 0
            assert torch.equal(gradient, gradients[0.1][name])
        elif name.startswith("backbone."):
            torch.testing.assert_close(2 * gradient, gradients[0.1][name])
    assert any(g.abs().sum() > 0 for n, g in gradients[0.05].items() if n.startswith("backbone."))


def test_counterparts_count_for_the_identity_loss_alone():
    torch.manual_seed(0)
    batch = Examples(PIDS, BATCH.modality, torch.tensor([0, 1, -1, -1]).char(), views=2)
    method = small()
    out = method.network(5, (32, 16))(torch.cat([IMAGES, IMAGES.flip(0)]))
    found = method.losses(out, batch, alone)
    originals = out.features[::2]
    expected = cross_modality_triplet_loss(originals, PIDS, batch.modality, 1.4)
    torch.testing.assert_close(found["cross_tri"], expected)
    told = F.cross_entropy(out.extras["modality"][::2], batch.modality.long())
    torch.testing.assert_close(found["adv"], told)


def test_the_triplet_loss_is_over_the_whole_batch():
    gathered = []
    method = small()
    out = method.network(5, (32, 16))(IMAGES)
    method.losses(out, BATCH, lambda tensor: gathered.append(tuple(tensor.shape)) or tensor)
    assert sorted(gathered) == sorted([tuple(out.features.shape), (4,), (4,)])


def test_the_identity_and_triplet_losses_of_collapsed_features_are_known():
    known = METHOD.at_one_point(10)
    assert known == {"cls": pytest.approx(torch.tensor(10.0).log().item()), "cross_tri": 1.4}
    method = small()
    out = method.network(5, (32, 16))(IMAGES)
    point = out._replace(features=torch.ones_like(out.features), logits=torch.zeros(4, 5))
    found = method.losses(point, BATCH, alone)
    for name, value in method.at_one_point(5).items():
        assert float(found[name]) == pytest.approx(value)


def test_it_has_the_centers_of_the_center_loss_if_asked_for():
    loss = type(METHOD.loss)(triplet=False, margin=1.4, center=0.1)
    extras = small(loss=loss).network(5, (32, 16))(IMAGES).extras
    assert set(extras) == {"centers", "modality"}


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_an_impossible_weight_is_refused(weight):
    with pytest.raises(InputError, match=r"--adversarial-weight .*: must be at least 0"):
        CmGan(adversarial_weight=weight)


def test_its_setting_is_the_published_one():
    config = find_preset("cmgan").config
    assert config.data.spectra == ()
    assert config.method.loss.margin == 1.4
    assert config.method.adversarial_weight == 0.05
    assert config.method.model.structure == "one-stream"


def test_it_trains_is_tested_and_keeps_its_discriminator(people, tmp_path, capsys):
    run = tmp_path / "r"
    args = [
        *("--model.backbone", "test_resnet", "--model.weights", "none", "--device", "cpu"),
        *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "12", "--data.k", "4"),
        *("--epochs", "2", "--checkpoint-every", "0", "--precision", "off"),
    ]
    assert call("train", "cmgan", "--data.root", people, "--run-dir", run, *args) == 0
    for epoch in events(run, "epoch"):
        parts = epoch["loss_cls"] + epoch["loss_cross_tri"] + epoch["loss_adv"]
        assert epoch["loss"] == pytest.approx(parts, rel=1e-5)
    tensors = load_file(checkpoint.latest(run))
    assert "network.discriminator.layers.0.weight" in tensors
    assert any(name.startswith("optimizer.") for name in tensors)
    result = (run / "result.json").read_text()
    assert 0 <= json.loads(result)["mAP"] <= 100
    assert call("eval", run) == 0
    assert (run / "result.json").read_text() == result
    assert "--adversarial-weight" in refused(capsys, "train", "cmgan", "--adversarial-weight", "-1")
