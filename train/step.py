"""One optimizer step: forward, losses, backward, update; how it is compiled and recorded."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int8, Int64, UInt8
from torch import Tensor, nn

from model.losses import total_loss
from model.network import Network
from model.options import LossOptions
from pipeline.batch import PairedBatch
from train.config import OptimizerOptions
from train.dhsm import Confidence
from train.distributed import ALONE, World, wrapped
from train.runtime import StepOptions

AMP_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}
RECORDED = ("images", "pids", "modality", "spectrum")  # what a recorded step reads of a batch
# (L, L_cls, L_tri), and what DHSM adds up.
Computed = tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]
WARMUP = 3  # steps before a CUDA graph is recorded: kernels get compiled, buffers allocated


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    how: StepOptions,
    device: torch.device,
) -> torch.optim.Adam:
    """Adam that fits the step: a recorded step reads its learning rate from the device."""
    recorded = how.cuda_graph == "on"
    return torch.optim.Adam(
        parameters,
        torch.tensor(lr, device=device) if recorded else lr,
        weight_decay=weight_decay,
        fused=how.fused_optimizer == "on",
        capturable=recorded,
    )


def learning_rate(options: OptimizerOptions, epoch: int, epochs: int) -> float:
    """That of `epoch`, from 1: multiplied by gamma at each milestone that lies behind."""
    lr = options.lr
    for share in options.milestones:
        if epoch > round(share * epochs):
            lr *= options.gamma
    return lr


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Also that of a recorded step, which reads it from a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


class TrainingStep:
    """Takes a batch, improves the network; nothing in it waits for the device.

    All batches must be of one size when the step is recorded as a CUDA graph, and the caller must
    have left the default stream (`runtime.own_stream`).
    """

    def __init__(
        self,
        network: Network,
        optimizer: torch.optim.Optimizer,
        confidence: Confidence,
        loss: LossOptions,
        precision: str,
        device: torch.device,
        how: StepOptions,
        world: World = ALONE,
        sync_batch_norm: bool = True,
    ) -> None:
        """`how` is resolved: each switch on or off (`runtime.resolve_step`)."""
        self.world = world
        layout = torch.channels_last if how.channels_last == "on" else torch.contiguous_format
        self.network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.optimizer = optimizer
        self.confidence = confidence
        self.loss = loss
        self.how = how
        self.device = device
        self.amp_dtype = AMP_DTYPE.get(precision)
        # bf16 has float32's range and needs no scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        all_used = loss.classification and network.structure != "two-stems"
        self._network: Any = wrapped(self.network, world, sync_batch_norm, all_used)
        self._compute: Callable[..., Computed] = self._forward
        if how.compile == "on":
            # Dropout draws what it draws when nothing is compiled.
            # Batches of another size in the same process get kernels of their own.
            compiled = partial(torch.compile, dynamic=False, options={"fallback_random": True})
            if world.size == 1:  # network, losses and DHSM's sums as one function
                self._compute = compiled(self._forward)
            else:  # what the ranks exchange cannot be compiled
                self._network = compiled(self._network)
        self._num_calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: PairedBatch) -> Float[Tensor, "3"]:
        """Returns (L, L_cls, L_tri) of Eq. 2-4 before the update, on the device.

        With several ranks `batch` is this one's share, and the losses those of the global batch.
        """
        self._num_calls += 1
        if self.how.cuda_graph == "off" or self._num_calls <= WARMUP:
            return self._update(batch)
        if self._graph is None:
            self._record(batch)
        for name in RECORDED:
            getattr(self._batch, name).copy_(getattr(batch, name), non_blocking=True)
        self._graph.replay()  # type: ignore[union-attr]
        return self._losses.clone()

    def _record(self, batch: PairedBatch) -> None:
        """Records `_update` on buffers of its own; nothing is computed yet."""
        self._batch = dataclasses.replace(
            batch,
            **{name: getattr(batch, name).clone() for name in RECORDED},
        )
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self.device)
        # thread_local: the pipeline's threads allocate memory meanwhile, which is none of our work.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._losses = self._update(self._batch)

    def _update(self, batch: PairedBatch) -> Float[Tensor, "3"]:
        losses, of_step = self.forward(batch)
        loss, _, tri = losses
        self.optimizer.zero_grad()
        # The mean of the ranks' gradients is taken. Each has its part of L_cls, so that is its
        # gradient; each has the whole of L_tri, but only its own images' part of the gradient.
        whole_tri = (self.world.size - 1) * self.loss.triplet_weight * tri
        self.scaler.scale(loss + whole_tri).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if of_step is not None:
            self.confidence.add(of_step)
        return self.world.mean(torch.stack(losses).detach())

    def forward(self, batch: PairedBatch) -> Computed:
        """(L, L_cls, L_tri) with their graph, and DHSM's (sums, counts) if there are pairs."""
        return self._compute(batch.flat(), batch.pids, batch.modality, batch.spectrum)

    def _forward(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        pids: Int64[Tensor, " n"],
        modality: UInt8[Tensor, " n"],
        spectrum: Int8[Tensor, " n"],
    ) -> Computed:
        views = len(images) // len(pids)
        if self.how.channels_last == "off":
            images = images.contiguous()
        # A counterpart goes the way of its original.
        infrared = modality.bool().repeat_interleave(views)
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            features, logits = self._network(images, infrared)
        originals, all_pids = self.world.gather_batch(features[::views], pids)
        labels = pids.repeat_interleave(views)
        losses = total_loss(logits, labels, originals, all_pids, self.loss)
        if views == 1:
            return losses, None
        return losses, self.confidence.of_step(logits.detach()[1::2], pids, spectrum)
