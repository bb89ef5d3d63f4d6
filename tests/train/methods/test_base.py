"""CDP's losses by name, as every method inherits them (Eq. 2-4)."""

import pytest
import torch

from model.losses import (
    TRIPLETS,
    center_loss,
    classification_loss,
    hetero_center_loss,
    hetero_center_triplet_loss,
    triplet_loss,
)
from model.options import LossOptions, ModelOptions
from model.outputs import Examples, Outputs
from pipeline.errors import InputError
from train.methods.base import Method

PIDS = torch.tensor([0, 1, 0, 1])
BATCH = Examples(PIDS, torch.tensor([0, 0, 1, 1]).byte(), torch.tensor([0, 1, -1, -1]).char(), 2)
CENTERS = torch.randn(5, 3)
OUT = Outputs(torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 5), {"centers": CENTERS})


def losses(**options) -> dict[str, torch.Tensor]:
    return Method(loss=LossOptions(**options)).losses(OUT, BATCH, lambda tensor: tensor)


def test_classification_sees_every_image_and_the_triplet_originals_only():
    found = losses(margin=1.0)
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    torch.testing.assert_close(found["cls"], classification_loss(OUT.logits, labels))
    torch.testing.assert_close(found["tri"], triplet_loss(OUT.features[0::2], PIDS, 1.0))
    assert BATCH.infrared.tolist() == [False] * 4 + [True] * 4
    assert torch.equal(BATCH.counterparts(OUT.features), OUT.features[1::2])


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"triplet_weight": 2.0}, {"cls": 1.0, "tri": 2.0}),
        ({"triplet": False}, {"cls": 1.0}),
        ({"classification": False}, {"tri": 1.0}),
        ({"triplet_kind": "weighted"}, {"cls": 1.0, "tri": 1.0}),
        (
            {"hetero_center": 0.5, "hetero_center_triplet": 2.0, "center": 0.1},
            {"cls": 1.0, "tri": 1.0, "hc": 0.5, "hc_tri": 2.0, "center": 0.1},
        ),
        ({"classification": False, "triplet": False, "hetero_center": 1.0}, {"hc": 1.0}),
    ],
)
def test_each_loss_has_a_weight_and_can_be_switched_off(options, weights):
    assert Method(loss=LossOptions(**options)).loss_weights == weights
    assert list(losses(**options)) == list(weights)


def test_a_loss_over_the_whole_batch_gathers_features_and_pids():
    gathered = []

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        gathered.append(tensor)
        return torch.cat([tensor, tensor])

    found = Method().losses(OUT, BATCH, gather)
    assert [tuple(tensor.shape) for tensor in gathered] == [(4, 3), (4,)]
    twice = torch.cat([OUT.features[0::2]] * 2), torch.cat([PIDS] * 2)
    torch.testing.assert_close(found["tri"], triplet_loss(*twice, 0.3))


def test_the_losses_on_centers_take_the_originals_and_the_center_loss_every_image():
    found = losses(hetero_center=1.0, hetero_center_triplet=1.0, center=1.0, margin=2.0)
    originals = OUT.features[0::2], PIDS, BATCH.modality
    torch.testing.assert_close(found["hc"], hetero_center_loss(*originals))
    torch.testing.assert_close(found["hc_tri"], hetero_center_triplet_loss(*originals, 2.0))
    torch.testing.assert_close(found["center"], center_loss(OUT.features, BATCH.labels, CENTERS))
    smoothed = classification_loss(OUT.logits, BATCH.labels, label_smoothing=0.2)
    torch.testing.assert_close(losses(label_smoothing=0.2)["cls"], smoothed)


@pytest.mark.parametrize("kind", TRIPLETS)
def test_each_kind_of_triplet_loss_is_the_one_that_it_names(kind):
    expected = TRIPLETS[kind](OUT.features[0::2], PIDS, 0.3)
    torch.testing.assert_close(losses(triplet_kind=kind)["tri"], expected)


def test_a_tensor_that_several_losses_take_is_gathered_once():
    gathered = []
    method = Method(loss=LossOptions(hetero_center=1.0, hetero_center_triplet=1.0))
    method.losses(OUT, BATCH, lambda tensor: gathered.append(tensor) or tensor)
    assert [tuple(tensor.shape) for tensor in gathered] == [(4, 3), (4,), (4,)]


def test_the_network_has_centers_only_for_the_center_loss():
    small = ModelOptions("test_resnet", "none")
    images = torch.zeros(2, 3, 32, 16, dtype=torch.uint8)
    plain, with_centers = (
        Method(model=small, loss=LossOptions(center=weight)).network(5, (32, 16)).eval()
        for weight in (0.0, 0.1)
    )
    assert plain(images).extras == {}
    assert torch.equal(with_centers(images).extras["centers"], torch.zeros(5, plain.width))
    assert with_centers.state_dict().keys() - plain.state_dict().keys() == {"centers"}


def test_a_users_network_without_centers_is_refused_for_the_center_loss():
    method = Method(loss=LossOptions(center=0.1))
    with pytest.raises(InputError, match=r"--loss.center: the method's network makes no centers"):
        method.losses(OUT._replace(extras={}), BATCH, lambda tensor: tensor)
