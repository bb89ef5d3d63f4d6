"""One optimizer step: what it returns, what it learns from, each precision."""

import pytest
import torch
import torch.nn.functional as F

from model.losses import triplet_loss
from model.network import Network
from model.options import LossOptions, ModelOptions
from pipeline.loader import PairedBatch
from train.dhsm import Confidence
from train.step import TrainingStep

CPU = torch.device("cpu")


def make_batch(seed: int = 0, device: torch.device = CPU) -> PairedBatch:
    """Four identities, one RGB and one infrared original each."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (8, 2, 64, 32, 3), dtype=torch.uint8, generator=rng)
    return PairedBatch(
        images=images.to(device),
        pids=torch.arange(4).repeat_interleave(2).to(device),
        modality=torch.tensor([0, 1] * 4, dtype=torch.uint8).to(device),
        spectrum=torch.tensor([0, -1, 1, -1, 2, -1, 3, -1], dtype=torch.int8).to(device),
        rows=torch.arange(8).numpy(),
    )


def make_step(precision: str = "off", device: torch.device = CPU, lr: float = 1e-3):
    torch.manual_seed(0)
    network = Network(ModelOptions("resnet10t", "none", dropout=0.0), num_classes=4)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), lr)
    confidence = Confidence(4, device)
    step = TrainingStep(network, optimizer, confidence, LossOptions(), precision, device)
    return network, confidence, step


def test_losses_and_confidence_are_those_of_the_forward_pass_before_the_update():
    network, confidence, step = make_step()
    batch = make_batch()
    twin, _, _ = make_step()
    features, logits = twin(batch.flat())
    cls = F.cross_entropy(logits, batch.pids.repeat_interleave(2))
    tri = triplet_loss(features[0::2], batch.pids, 0.3)
    before = network.classifier.weight.clone()

    losses = step(batch)

    torch.testing.assert_close(losses, torch.stack([cls + tri, cls, tri]).detach())
    assert not torch.equal(before, network.classifier.weight)
    sums, counts = confidence.take()
    probability = logits.softmax(1)
    expected = [probability[2 * n + 1, batch.pids[n]].item() for n in (0, 2, 4, 6)]
    assert sums.tolist() == pytest.approx(expected, rel=1e-5)
    assert counts.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_it_learns_a_batch_by_heart(precision):
    _, _, step = make_step(precision)
    batch = make_batch()
    losses = [step(batch)[0].item() for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]


def test_bf16_stays_close_to_full_precision():
    exact = make_step("off")[2](make_batch())
    rounded = make_step("bf16")[2](make_batch())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_every_precision_learns_on_the_gpu(precision):
    device = torch.device("cuda")
    _, confidence, step = make_step(precision, device)
    batch = make_batch(device=device)
    losses = [step(batch)[0].item() for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]
    assert confidence.counts.is_cuda


@pytest.mark.gpu
def test_a_step_never_waits_for_the_gpu():
    device = torch.device("cuda")
    _, _, step = make_step("bf16", device)
    batch = make_batch(device=device)
    for _ in range(3):
        step(batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = step(batch)  # raises if anything in it waits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses.isfinite().all()
