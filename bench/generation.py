"""What a second spectrum costs: a counterpart in the pipeline (CSIG), or a translator's image.

The paper claims "almost no extra computation cost" for its counterparts, where D2RL trains a
translator. Here both make one image for each original of the same batch, beside the training step
that takes it.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from bench.measure import Samples, Side
from bench.session import Session
from bench.step import make_step, resident_batch
from model.translator import INFRARED, RGB, Translator
from pipeline.options import image_size
from train.methods.d2rl import fitting
from train.step import AMP_DTYPE

WITHOUT, WITH = "pipeline, no counterparts", "pipeline"
MADE, LEARNING, STEP = "translator", "translator, learning", "training step"
RATIO = "translator_over_counterparts"


def compare_generation(session: Session, without: Side, with_counterparts: Side) -> None:
    """Compares both ways in originals/s; `without`: the pipeline of originals alone."""
    step, batch = make_step(session), resident_batch(session, session.config.data.p)
    translate, learn = _translator(session)
    num = len(batch.pids)

    def side(work: Callable[[], object]) -> Side:
        return session.resident_side(work, num)

    samples = session.compare(
        "stages, second spectrum, originals/s",
        {
            WITHOUT: without,
            WITH: with_counterparts,
            MADE: side(translate),
            LEARNING: side(learn),
            STEP: side(lambda: step(batch)),
        },
        STEP,
        unit="originals/s",
        translator_width=fitting(session.config).width,
    )
    _say(session, samples)


def _translator(session: Session) -> tuple[Callable[[], object], Callable[[], object]]:
    """Translates, and trains the translator on, as many random images as a batch has originals."""
    config, device = session.config, session.device
    height, width = size = image_size(config.data)
    half = config.data.p * config.data.k // 2
    torch.manual_seed(config.seed)
    translator = Translator(fitting(config), size)
    translator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def images(channels: int) -> Tensor:
        pixels = 2 * torch.rand(half, channels, height, width, device=device) - 1
        return pixels.to(memory_format=torch.channels_last)

    rgb, infrared = images(3), images(1)
    dtype = AMP_DTYPE.get(session.precision)
    amp = torch.autocast(device.type, dtype, enabled=dtype is not None)

    @torch.no_grad()
    def translate() -> object:
        with amp:
            return translator.translate(rgb, RGB), translator.translate(infrared, INFRARED)

    def learn() -> object:
        with amp:
            losses = translator.losses(rgb, infrared)
        translator.zero_grad()
        return torch.stack(list(losses.values())).sum().backward()

    return translate, learn


def _say(session: Session, samples: Samples) -> None:
    of_cpu = session.device.type == "cpu"  # there CPU time says more than a rate on busy cores
    us = {
        name: [p.cpu_us if of_cpu else 1e6 / p.rate for p in passes]
        for name, passes in samples.passes.items()
    }
    counterpart = [a - b for a, b in zip(us[WITH], us[WITHOUT], strict=True)]
    times = ""
    if min(counterpart) > 0:  # else noise hides it, and a ratio to it says nothing
        ratios = [a / b for a, b in zip(us[MADE], counterpart, strict=True)]
        session.ratios[RATIO] = ratios
        times = f", {statistics.median(ratios):.0f} times as much"

    def told(added: list[float]) -> str:
        shares = [100 * a / b for a, b in zip(added, us[STEP], strict=True)]
        return f"{statistics.median(added):.0f} ({statistics.median(shares):.1f} %)"

    session.display.say(
        f"second spectrum, µs {'of CPU ' if of_cpu else ''}an original (share of the training "
        f"step): a counterpart {told(counterpart)}; a translator's image {told(us[MADE])}{times}; "
        f"the translator's own learning {told(us[LEARNING])}"
    )
