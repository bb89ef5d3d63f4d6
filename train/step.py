"""One optimizer step: forward, losses, backward, precision."""

import torch
from jaxtyping import Float32
from torch import Tensor

from model.losses import total_loss
from model.network import Network
from model.options import LossOptions
from pipeline.loader import PairedBatch
from train.dhsm import Confidence

AMP_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingStep:
    """Takes a batch, improves the network; nothing in it waits for the device."""

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        confidence: Confidence,
        loss: LossOptions,
        precision: str,
        device: torch.device,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.confidence = confidence
        self.loss = loss
        self.autocast = torch.autocast(
            device.type, AMP_DTYPE.get(precision), enabled=precision in AMP_DTYPE
        )
        # bf16 has float32's range and needs no scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def __call__(self, batch: PairedBatch) -> Float32[Tensor, "3"]:
        """Returns (L, L_cls, L_tri) of Eq. 2-4 before the update, on the device."""
        with self.autocast:
            features, logits = self.network(batch.flat())
        # Images alternate: original, counterpart.
        loss, cls, tri = total_loss(
            logits, batch.pids.repeat_interleave(2), features[0::2], batch.pids, self.loss
        )
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.confidence.add(logits.detach()[1::2], batch.pids, batch.spectrum)
        return torch.stack([loss, cls, tri]).detach()
