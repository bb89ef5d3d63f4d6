"""`cdp bench stages`: what each stage costs, of the pipeline and of the step that it feeds.

Two ways for each stage of the pipeline: cut the graph off after it and see what it adds; leave it
out and see what that saves. The pipeline and the step run side by side, so the slower one limits.
At last, what an image in a second spectrum costs: a counterpart, or a translator's.
"""

import dataclasses
import statistics
import typing
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.generation import compare_generation
from bench.loader import loader_side, make_loader
from bench.measure import Pass, Samples, Side, steady
from bench.plan import AUGMENTED
from bench.session import Session
from bench.step import make_step, resident_batch
from pipeline import spectrum
from pipeline.augment import augmented
from pipeline.batches import device_id, run_raw
from pipeline.graph import Stage, training_graph
from pipeline.options import AugmentationOptions, DataOptions, num_threads
from pipeline.source import TrainingSource
from train import runtime

STAGES: tuple[Stage, ...] = typing.get_args(Stage)
OPTIONAL: tuple[Stage, ...] = ("flip", "counterpart", "stack")
AUGMENTATIONS = {
    "crop": AugmentationOptions(crop_padding_px=10),
    "crop, a pair's apart": AugmentationOptions(crop_padding_px=10, share_crop=False),
    "erasing 0.5": AugmentationOptions(erasing=0.5),
    "channel 0.5": AugmentationOptions(channel=0.5),
    "gray 0.5": AugmentationOptions(gray=0.5),
    "color jitter": AugmentationOptions(brightness=0.2, contrast=0.2, saturation=0.2),
    "crop, erasing, channel": AUGMENTED,
}
HAND_OVER = "hand-over"  # DALI's tensors as torch's, in a PairedBatch


def bench_stages(session: Session) -> None:
    """Truncated, leaving out, augmented; forward, backward, update; the limiting stage named."""
    loader = make_loader(session, cache="none")
    whole, steps = loader_side(loader, session), session.loader_steps(loader)
    cut: dict[str, Side] = {f"… {s}": _graph_side(session, steps, last=s) for s in STAGES}
    pipeline = session.compare(
        "stages, pipeline, truncated", {**cut, f"… {HAND_OVER}": whole}, f"… {HAND_OVER}"
    )
    without = {f"without {s}": _graph_side(session, steps, leave_out=s) for s in OPTIONAL}
    cached = loader_side(make_loader(session, cache="host"), session)
    session.compare(
        "stages, pipeline, leaving out",
        {"all": whole, **without, "without read, decode, resize (cache)": cached},
        "all",
        warmup=2,
    )
    added = {
        f"with {name}": _graph_side(session, steps, augment=partial(augmented, options=options))
        for name, options in AUGMENTATIONS.items()
    }
    session.compare(
        "stages, augmentation", {"none": _graph_side(session, steps), **added}, "none", warmup=2
    )
    if session.device.type == "cuda":
        session.compare("stages, host to device", {"pinned": _host_to_device(session)}, "pinned")
    with runtime.own_stream(session.device):
        step = session.compare("stages, step, truncated", _step_sides(session), "… optimizer")
        alone = dataclasses.replace(session.config.data, spectra=())
        num = session.config.data.p * session.config.data.k
        compare_generation(
            session,
            _graph_side(session, steps, alone, images=num),
            _graph_side(session, steps, images=num),
        )
    session.waterfall = _waterfall(pipeline, step)
    _say_what_limits(session, pipeline, step)


def _graph_side(
    session: Session,
    steps: int,
    options: DataOptions | None = None,
    images: int | None = None,
    **cut: Any,
) -> Side:
    """The training graph alone, what comes out dropped as DALI has it; `images` of a batch count.

    All of them by default.
    """
    data = options or session.config.data
    source = TrainingSource(session.index, data, seed=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The external source node")  # that a cut leaves unused
        graph = training_graph(source, data, device_id(session.device), num_threads(data), **cut)

    def side() -> Pass:
        source.begin(1, spectrum.uniform())
        batches = run_raw(graph, source, session.device)
        try:
            return steady(batches, steps, images or session.images)
        finally:
            batches.close()

    return side


def _host_to_device(session: Session) -> Side:
    """A batch's pixels from pinned memory: what it would cost to make them on the host."""
    pixels = resident_batch(session, session.config.data.p).images.cpu().pin_memory()

    return session.resident_side(
        lambda: pixels.to(session.device, non_blocking=True), session.images
    )


def _step_sides(session: Session) -> dict[str, Side]:
    """The training step on resident pixels, cut off after forward, backward, optimizer."""
    eager = {"compile": "off", "cuda_graph": "off"}  # a recorded step cannot be cut
    step = make_step(session, **eager)
    batch = resident_batch(session, session.config.data.p)

    def forward() -> object:
        return step.forward(batch)

    def backward() -> object:
        step.optimizer.zero_grad()
        return step.forward(batch)[0][0].backward()

    def whole() -> object:
        return step(batch)

    def side(work: Callable[[], object]) -> Side:
        return session.resident_side(work, session.images)

    return {"… forward": side(forward), "… backward": side(backward), "… optimizer": side(whole)}


def _waterfall(pipeline: Samples, step: Samples) -> dict[str, dict[str, float]]:
    """µs an image that each stage adds to those before it, median over rounds."""
    return {"pipeline": _added(pipeline), "step": _added(step)}


def _added(samples: Samples) -> dict[str, float]:
    before: list[float] = [0.0] * len(next(iter(samples.passes.values())))
    added = {}
    for name in samples.passes:
        now = [1e6 / rate for rate in samples.rates(name)]
        added[name.removeprefix("… ")] = statistics.median(
            [b - a for a, b in zip(before, now, strict=True)]
        )
        before = now
    return added


def _say_what_limits(session: Session, pipeline: Samples, step: Samples) -> None:
    for name, added in session.waterfall.items():
        total = sum(added.values())
        parts = ", ".join(f"{stage} {100 * us / total:.0f} %" for stage, us in added.items())
        session.display.say(f"share of the {name}: {parts}")
    ends = {"pipeline": (pipeline, f"… {HAND_OVER}"), "step": (step, "… optimizer")}
    rates = {n: statistics.median(samples.rates(last)) for n, (samples, last) in ends.items()}
    slower, faster = sorted(rates, key=lambda name: rates[name])
    stage = max(session.waterfall[slower], key=lambda s: session.waterfall[slower][s])
    session.display.say(
        f"the {slower} limits, {rates[slower]:.0f} images/s against the {faster}'s "
        f"{rates[faster]:.0f}, and in it: {stage}"
    )
