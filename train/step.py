"""One optimizer step: forward, losses, backward, update; compiled and recorded as a CUDA graph."""

import dataclasses
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from jaxtyping import Float, Int8, Int64, UInt8
from torch import Tensor, nn

from model.outputs import Examples
from pipeline.batch import PairedBatch
from pipeline.errors import InputError
from train.dhsm import Mining
from train.distributed import ALONE, World, wrapped
from train.divergence import SPREAD, spread
from train.methods.base import Method
from train.runtime import StepOptions

AMP_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}
RECORDED = ("images", "pids", "modality", "spectrum")  # batch fields that a recorded step reads
# The losses (total first) and the spread; then DHSM's sums.
Computed = tuple[Tensor, Tensor | None]
WARMUP = 3  # steps before a CUDA graph is recorded: kernels get compiled, buffers allocated


def check_losses(losses: Any, weights: dict[str, float]) -> None:
    """Raises `InputError` naming a method's loss that is not a scalar or has no weight."""
    if not isinstance(losses, dict):
        raise InputError(f"the method's losses() returned {losses!r}; return a dict of scalars")
    for name in losses.keys() ^ weights.keys():
        has, lacks = (
            ("losses()", "loss_weights") if name in losses else ("loss_weights", "losses()")
        )
        raise InputError(
            f"the method's {has} names {name!r}, which its {lacks} lacks; name it in both"
        )
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            what = (
                f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            )
            raise InputError(f"the method's loss {name!r} is {what}; return a scalar tensor")


class TrainingStep:
    """Trains the network on one batch per call, without waiting for the device.

    To record the step as a CUDA graph, all batches must have the same size and the caller must be
    off the default stream (`runtime.own_stream`).
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        optimizer: torch.optim.Optimizer,
        mining: Mining,
        precision: str,
        device: torch.device,
        options: StepOptions,
        world: World = ALONE,
        sync_batch_norm: bool = True,
        balanced: bool = True,
    ) -> None:
        """`options` must be resolved: each switch on or off (`runtime.resolve_step`).

        `balanced`: a batch's first half is its RGB originals, the second half its infrared ones.
        """
        self.world = world
        layout = torch.channels_last if options.channels_last == "on" else torch.contiguous_format
        self.network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
        self.method = method
        self.optimizer = optimizer
        self.mining = mining
        self.options = options
        self.device = device
        self.weights = method.loss_weights
        # The figures that a step returns: its losses and the spread of the features.
        self.names = ("loss", *(f"loss_{name}" for name in self.weights), SPREAD)
        self.clip_norm = method.optimizer.clip_norm
        self.amp_dtype = AMP_DTYPE.get(precision)
        # bf16 has float32's range and needs no scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._network: Any = wrapped(self.network, world, sync_batch_norm, balanced)
        self._compute: Callable[..., Computed] = self._forward
        if options.compile == "on":
            # fallback_random: dropout draws the same numbers as without compilation.
            # dynamic=False: each batch size gets its own kernels.
            compiled = partial(torch.compile, dynamic=False, options={"fallback_random": True})
            if world.size == 1:  # network, losses and DHSM's sums as one function
                self._compute = compiled(self._forward)
            else:  # collective operations cannot be compiled
                self._network = compiled(self._network)
        self._num_calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: PairedBatch) -> Float[Tensor, " names"]:
        """Updates the network; returns the losses before the update and the features' spread.

        The figures are in the order of `names` and stay on the device. With several ranks `batch`
        is this rank's share, and the figures are those of the global batch.
        """
        self._num_calls += 1
        if self.options.cuda_graph == "off" or self._num_calls <= WARMUP:
            return self._update(batch)
        if self._graph is None:
            self._record(batch)
        for name in RECORDED:
            getattr(self._batch, name).copy_(getattr(batch, name), non_blocking=True)
        self._graph.replay()  # type: ignore[union-attr]
        return self._losses.clone()

    def restart(self) -> None:
        """Forgets compiled and recorded code, when other weights learn or the optimizer restarts.

        Compiled code does not notice that a weight has been frozen or freed.
        """
        self._num_calls = 0
        self._graph = None
        if self.options.compile == "on":
            torch.compiler.reset()

    def _record(self, batch: PairedBatch) -> None:
        """Records `_update` on separate buffers without computing anything."""
        self._batch = dataclasses.replace(
            batch,
            **{name: getattr(batch, name).clone() for name in RECORDED},
        )
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self.device)
        # thread_local: the pipeline's threads may allocate memory during the recording.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._losses = self._update(self._batch)

    def _update(self, batch: PairedBatch) -> Float[Tensor, " names"]:
        losses, of_step = self.forward(batch)
        self.optimizer.zero_grad()
        # Averaging gradients over ranks gives the gradient of the mean loss.
        self.scaler.scale(losses[0]).backward()
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if of_step is not None:
            self.mining.add(of_step)
        return self.world.mean(losses.detach())

    def forward(self, batch: PairedBatch) -> Computed:
        """Returns a step's figures, in the order of `names`, with gradients; and DHSM's sums."""
        return self._compute(batch.flat(), batch.pids, batch.modality, batch.spectrum)

    def _forward(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        pids: Int64[Tensor, " n"],
        modality: UInt8[Tensor, " n"],
        spectrum: Int8[Tensor, " n"],
    ) -> Computed:
        batch = Examples(pids, modality, spectrum, len(images) // len(pids))
        if self.options.channels_last == "off":
            images = images.contiguous()
        amp = torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None)
        with amp:
            out = self._network(images, batch.infrared)
        losses = self.method.losses(out, batch, self.world.gather)
        check_losses(losses, self.weights)
        parts = [losses[name] for name in self.weights]
        weighted = [weight * losses[name] for name, weight in self.weights.items()]
        originals = batch.originals(out.features.detach()).float()
        spread_of_all = spread(originals, self.world.gather)
        every = torch.stack([reduce(torch.add, weighted), *parts, spread_of_all])
        if batch.views == 1:
            return every, None
        logits = batch.counterparts(out.logits.detach())
        return every, self.mining.of_step(logits, pids, spectrum)
