"""CDP's losses by name, as every method inherits them (Eq. 2-4)."""

import pytest
import torch

from model.losses import classification_loss, triplet_loss
from model.options import LossOptions
from model.outputs import Examples, Outputs
from train.methods.base import Method

PIDS = torch.tensor([0, 1, 0, 1])
BATCH = Examples(PIDS, torch.tensor([0, 0, 1, 1]).byte(), torch.tensor([0, 1, -1, -1]).char(), 2)
OUT = Outputs(torch.randn(8, 3), torch.randn(8, 3), torch.randn(8, 5))


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
