"""`cdp bench step`: the training step alone, on pixels in the device's memory."""

import dataclasses
from typing import Any

import torch

from bench.measure import Side
from bench.session import Session
from pipeline.batch import PairedBatch
from pipeline.options import image_size, num_views
from train import runtime
from train.dhsm import Mining
from train.optimizer import build
from train.runtime import StepOptions
from train.step import TrainingStep

BASE = "eager, NCHW"
# Each variant adds to the previous one.
VARIANTS = {
    BASE: {},
    "channels_last": {"channels_last": "on"},
    "+ fused optimizer": {"fused_optimizer": "on"},
    "+ compiled": {"compile": "on"},
    "+ CUDA graph": {"cuda_graph": "on"},
}


def bench_step(session: Session) -> None:
    """Measures steps from eager to recorded, adding switches one by one; then batch sizes."""
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
    """Returns the variants not measured on a CPU, with reasons."""
    left_out = {"+ CUDA graph": "needs a GPU"}
    if session.quick:
        left_out["+ compiled"] = "--quick: compiling for a CPU takes more than a minute"
    return left_out


def make_step(session: Session, **switches: Any) -> TrainingStep:
    """Makes the preset's training step with random weights; `switches` override its options."""
    config, device = session.config, session.device
    method = config.method
    torch.manual_seed(config.seed)
    network = method.network(session.num_classes, image_size(config.data)).to(device).train()
    resolved = runtime.resolve_step(config.step, device, session.precision, network.fixed_shapes)
    options = dataclasses.replace(resolved, **switches)
    optimizer = build(method.groups(network), method.optimizer, options, device)
    mining = Mining(method.dhsm, len(config.data.spectra), device)
    return TrainingStep(network, method, optimizer, mining, session.precision, device, options)


def resident_batch(session: Session, p: int) -> PairedBatch:
    """Makes a batch of random pixels of `p` identities, on the device."""
    data = session.config.data
    n = p * data.k
    size = (n, num_views(data), data.height_px, data.width_px, 3)
    pids = torch.arange(p).repeat_interleave(data.k) % session.num_classes
    batch = PairedBatch(
        images=torch.randint(256, size, dtype=torch.uint8),
        pids=pids,
        modality=torch.arange(n).ge(n // 2).to(torch.uint8),
        spectrum=torch.arange(n).remainder(4).to(torch.int8),
        rows=torch.arange(n).numpy(),
    )
    on_device = {
        name: getattr(batch, name).to(session.device)
        for name in ("images", "pids", "modality", "spectrum")
    }
    return dataclasses.replace(batch, **on_device)


def step_side(session: Session, p: int, **switches: Any) -> Side:
    """Returns a side that repeats the step on one resident batch of `p` identities."""
    step, batch = make_step(session, **switches), resident_batch(session, p)
    return session.resident_side(lambda: step(batch), batch.num_views * len(batch.pids))
