"""`cdp bench step`: the training step alone, on pixels that lie in the device's memory."""

import dataclasses
from typing import Any

import torch

from bench.measure import Side
from bench.session import Session
from model.network import Network
from pipeline.batch import PairedBatch
from pipeline.options import num_views
from train import runtime
from train.dhsm import Confidence
from train.runtime import StepOptions
from train.step import TrainingStep, adam

BASE = "eager, NCHW"
# Each adds to the one before.
VARIANTS = {
    BASE: {},
    "channels_last": {"channels_last": "on"},
    "+ fused optimizer": {"fused_optimizer": "on"},
    "+ compiled": {"compile": "on"},
    "+ CUDA graph": {"cuda_graph": "on"},
}


def bench_step(session: Session) -> None:
    """Eager to recorded, each switch added to those before; then batch sizes, if asked for."""
    on_gpu = session.device.type == "cuda"
    left_out = {} if on_gpu else _without_a_gpu(session)
    p = session.config.data.p
    with runtime.own_stream(session.device):
        switches: dict[str, Any] = {field.name: "off" for field in dataclasses.fields(StepOptions)}
        sides: dict[str, Side] = {}
        for name, added in VARIANTS.items():
            switches |= added
            if name in left_out:
                session.display.say(f"step: {name} left out ({left_out[name]})")
            else:
                sides[name] = step_side(session, p, **switches)
        samples = session.compare("step", sides, BASE, left_out=left_out)
        session.ratios["step_over_eager_nchw"] = samples.ratios(list(sides)[-1], BASE)

        if session.sweep:
            sizes = {f"P {n}": step_side(session, n) for n in (p // 2, p, 2 * p)}
            session.compare("step, batch", sizes, f"P {p}")


def _without_a_gpu(session: Session) -> dict[str, str]:
    """Variants that are not measured on a CPU, and why."""
    left_out = {"+ CUDA graph": "needs a GPU"}
    if session.quick:
        left_out["+ compiled"] = "--quick: compiling for a CPU takes more than a minute"
    return left_out


def make_step(session: Session, **switches: Any) -> TrainingStep:
    """The preset's training step on random weights; switches as named, else as resolved."""
    config, device = session.config, session.device
    how = dataclasses.replace(
        runtime.resolve_step(config.step, device, session.precision, config.model.structure),
        **switches,
    )
    torch.manual_seed(config.seed)
    network = Network(config.model, session.num_classes).to(device).train()
    optimizer = adam(
        network.parameters(), config.optimizer.lr, config.optimizer.weight_decay, how, device
    )
    confidence = Confidence(len(config.data.spectra), device)
    return TrainingStep(network, optimizer, confidence, config.loss, session.precision, device, how)


def resident_batch(session: Session, p: int) -> PairedBatch:
    """Random pixels of `p` identities, on the device."""
    data = session.config.data
    n = p * data.k
    size = (n, num_views(data), data.height_px, data.width_px, 3)
    pids = torch.arange(p).repeat_interleave(data.k) % session.num_classes
    batch = PairedBatch(
        images=torch.randint(256, size, dtype=torch.uint8),
        pids=pids,
        modality=torch.arange(n).remainder(2).to(torch.uint8),
        spectrum=torch.arange(n).remainder(4).to(torch.int8),
        rows=torch.arange(n).numpy(),
    )
    on_device = {
        name: getattr(batch, name).to(session.device)
        for name in ("images", "pids", "modality", "spectrum")
    }
    return dataclasses.replace(batch, **on_device)


def step_side(session: Session, p: int, **switches: Any) -> Side:
    """The step on one resident batch of `p` identities, again and again."""
    step, batch = make_step(session, **switches), resident_batch(session, p)
    return session.resident_side(lambda: step(batch), batch.num_views * len(batch.pids))
