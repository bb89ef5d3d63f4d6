"""`cdp bench end-to-end`: real training compared with the same step on resident data."""

import dataclasses
import resource
import statistics
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise

import torch

from bench.loader import CACHES, caches, loader_side, make_loader
from bench.measure import LEAD, TAIL, Pass, Side, spread, steady
from bench.session import Session
from bench.step import make_step
from pipeline import spectrum
from pipeline.loader import TrainingLoader
from train import runtime
from train.divergence import check_finite
from train.live.clock import Mark, mark, seconds_between
from train.loss_reader import LossReader
from train.step import TrainingStep

CEILING = "resident data"
NUM_RESIDENT = 4  # batches
GPU_STEPS = 64  # timed per round, so that the 99th percentile is not simply the slowest step
QUANTILES = ("median", "p95", "p99")


def bench_end_to_end(session: Session) -> None:
    """Compares streaming and cached training, and the loader alone, with the ceiling."""
    with runtime.own_stream(session.device):
        step = make_step(session)
        loaders = {c: make_loader(session, cache=c) for c in caches(session)}
        session = enough_steps(session, len(loaders["none"]))
        real = {CACHES[c]: Real(session, step, loader) for c, loader in loaders.items()}
        first = loaders["none"].epoch(1, spectrum.uniform())
        resident = list(islice(first, NUM_RESIDENT))
        first.close()  # type: ignore[attr-defined]

        def ceiling() -> Pass:
            return steady(map(step, cycle(resident)), session.steps, session.images)

        alone = {
            f"loader alone, {CACHES[c]}": loader_side(loader, session)
            for c, loader in loaders.items()
        }
        sides: dict[str, Side] = {CEILING: ceiling, **real, **alone}
        samples = session.compare("end to end", sides, CEILING, warmup=2)
        if session.device.type == "cuda":
            syncs = [_host_syncs(session, run) for run in real.values()]
            session.ratios["host_syncs_per_step"] = syncs
        else:
            session.display.say("host syncs per step: not measured, there is no GPU")

    fastest = CACHES[caches(session)[-1]]
    streaming, cached = real["streaming"].rounds, real[fastest].rounds
    session.ratios |= {
        "end_to_end_streaming_over_resident": samples.ratios("streaming", CEILING),
        "end_to_end_cached_over_resident": samples.ratios(fastest, CEILING),
        "streaming_over_step": samples.ratios("loader alone, streaming", CEILING),
        "data_wait_streaming": [r.wait for r in streaming],
        "data_wait_cached": [r.wait for r in cached],
        "step_p99_over_p50": [r.step_ms["p99"] / r.step_ms["median"] for r in streaming],
        "host_memory_growth": [r.peak_mib / cached[0].peak_mib for r in cached],
    }
    for name, run in real.items():
        ms = {q: statistics.median(r.step_ms[q] for r in run.rounds) for q in QUANTILES}
        session.step_ms[name] = {**ms, "steps_per_round": session.steps - 1}
        session.display.say(
            f"{name}: a step takes {ms['median']:.1f} ms (p95 {ms['p95']:.1f}, p99 {ms['p99']:.1f})"
        )
    session.trace(step, loaders["none"])


def enough_steps(session: Session, epoch: int) -> Session:
    """Returns the session with `GPU_STEPS` per round on a GPU, or as many as an epoch allows."""
    if session.device.type != "cuda" or session.quick:
        return session
    steps = max(session.steps, min(GPU_STEPS, epoch - LEAD - TAIL))
    if steps < GPU_STEPS:
        session.display.say(
            f"an epoch has {epoch} batches: {steps} steps per round; {GPU_STEPS} give a better p99 "
            "(make a larger set: `cdp data make DIR --num-train 400`, then --data-root DIR)"
        )
    return dataclasses.replace(session, steps=steps)


@dataclass(frozen=True, slots=True)
class Round:
    """Measurements of one pass of the real run, beside its speed."""

    step_ms: dict[str, float]  # from the end of one step to the end of the next
    wait: float  # share of time, 0…1, that the device waited for data
    peak_mib: float  # peak memory of the process since its start


class Real:
    """The timed inner loop of training."""

    def __init__(self, session: Session, step: TrainingStep, loader: TrainingLoader) -> None:
        self._session, self._step, self._loader = session, step, loader
        self._rounds: list[Round] = []

    @property
    def rounds(self) -> list[Round]:
        """The rounds after warm-up."""
        return self._rounds[-self._session.rounds :]

    def __call__(self) -> Pass:
        session = self._session
        running = self.run()
        try:
            result = steady(running, session.steps, session.images)
        finally:
            running.close()
        step_ms, wait = times(self._ends[LEAD:], self._waits[LEAD:])
        self._rounds.append(
            Round(
                step_ms=spread(step_ms),
                wait=wait,
                peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
        )
        return result

    def run(self) -> Generator[None, None, None]:
        """Does what `train()` does in an epoch, one step at a time."""
        every, device = self._session.config.log_every, self._session.device
        self._waits: list[tuple[Mark, Mark]] = []
        self._ends: list[Mark] = [mark(device)]
        names = self._step.names
        losses = torch.zeros(len(self._loader), len(names), device=device)
        loss_reader = LossReader(losses)
        batches = iter(self._loader.epoch(1, spectrum.uniform()))
        for i in range(1, len(self._loader) + 1):
            start = mark(device)
            batch = next(batches)
            self._waits.append((start, mark(device)))
            losses[i - 1] = self._step(batch)
            if i % every == 0:
                check_finite(loss_reader.read(i), names, 1, self._session.precision)
            self._ends.append(mark(device))
            yield


def times(ends: Sequence[Mark], waits: Sequence[tuple[Mark, Mark]]) -> tuple[list[float], float]:
    """Returns each step's milliseconds, and the share of their time, 0…1, spent waiting for data.

    `ends` starts with the end of the step before the timed ones, `waits` with the first timed
    step's wait. Drops the first timed step, as `steady` has just let the GPU run idle.
    """
    step_ms = [1000 * seconds_between(*step) for step in pairwise(ends[1:])]
    return step_ms, 1000 * sum(seconds_between(*wait) for wait in waits[1:]) / sum(step_ms)


def _host_syncs(session: Session, real: Real) -> float:
    """Counts torch's waits for the GPU per step of the real run, reading losses included."""
    running = real.run()
    for _ in islice(running, LEAD):
        pass
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in islice(running, session.steps):
                pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
        running.close()
    syncs = [w for w in caught if "synchroniz" in str(w.message)]
    for line in sorted({f"{w.filename}:{w.lineno}" for w in syncs}):
        session.display.say(f"host sync in a step: {line}")
    return len(syncs) / session.steps
