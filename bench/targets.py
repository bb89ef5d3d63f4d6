"""Targets for the suite's ratios, by their names in the results."""

import statistics
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD as HEADS
from rich.table import Table

from bench.session import figure


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio: its description, the part that measures it, and its bounds (None: no bound)."""

    text: str
    part: str
    cpu: tuple[float | None, float | None] = (None, None)  # (at least, at most), on two cores
    gpu: tuple[float | None, float | None] = (None, None)  # one H200


TARGETS = {
    "streaming_over_dataloader_pil": Target(
        "streaming loader / DataLoader with PIL, float32", "peers", cpu=(2.0, None)
    ),
    "streaming_over_best_peer": Target(
        "streaming loader / best peer of any kind", "peers", cpu=(1.1, None)
    ),
    "streaming_over_dataloader_pil_augmented": Target(
        "augmented: streaming loader / DataLoader with PIL, float32", "augmented", cpu=(2.0, None)
    ),
    "streaming_over_best_peer_augmented": Target(
        "augmented: streaming loader / best peer of any kind", "augmented", cpu=(1.1, None)
    ),
    "cached_over_streaming": Target("cached / streaming loader", "loader", cpu=(2.5, None)),
    "decodes_per_image": Target(
        "decodes per emitted image", "loader", cpu=(0.5, 0.5), gpu=(0.5, 0.5)
    ),
    "end_to_end_streaming_over_resident": Target(
        "real run, streaming / same step on resident data", "end-to-end", gpu=(0.98, None)
    ),
    "end_to_end_cached_over_resident": Target(
        "real run, cached / same step on resident data",
        "end-to-end",
        cpu=(0.97, None),
        gpu=(0.995, None),
    ),
    "data_wait_streaming": Target(
        "share of time waiting for data, streaming", "end-to-end", gpu=(None, 0.01)
    ),
    "data_wait_cached": Target(
        "share of time waiting for data, cached", "end-to-end", gpu=(None, 0.01)
    ),
    "step_p99_over_p50": Target("step, p99 / p50", "end-to-end", gpu=(None, 1.1)),
    "host_syncs_per_step": Target(
        "times the host waits for the GPU per step", "end-to-end", gpu=(None, 0.0)
    ),
    "streaming_over_step": Target(
        "streaming loader / what the step consumes", "end-to-end", gpu=(3.0, None)
    ),
    "translator_over_counterparts": Target(
        "time of a translator's images / of counterparts", "stages"
    ),
    "step_over_eager_nchw": Target("step / eager NCHW AMP", "step", gpu=(1.8, None)),
    "step_over_timm_benchmark": Target(
        "step / timm's benchmark script, same model, size, batch", "timm", gpu=(1.0, None)
    ),
    "host_memory_growth": Target(
        "peak host memory / peak after the first round", "end-to-end", gpu=(None, 1.02)
    ),
}


def judge(ratios: dict[str, list[float]], on_gpu: bool) -> dict[str, dict[str, Any]]:
    """Returns every target with its measurement; `measured` is None if there is none."""
    judged = {}
    for name, target in TARGETS.items():
        low, high = target.gpu if on_gpu else target.cpu
        samples = ratios.get(name)
        median = statistics.median(samples) if samples else None
        met = None
        if median is not None and (low, high) != (None, None):
            met = (low is None or median >= low) and (high is None or median <= high)
        judged[name] = {
            "text": target.text,
            "part": target.part,
            "at_least": low,
            "at_most": high,
            "goal": goal(low, high),
            "measured": median,
            "samples": samples,
            "met": met,
        }
    return judged


def table(judged: dict[str, dict[str, Any]], parts: Collection[str]) -> Table:
    """Returns a table of these parts' targets and measurements."""
    shown = Table(title="targets", box=HEADS, padding=0)
    shown.add_column("", max_width=42)
    for name in ("goal", "measured", "min … max", ""):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in judged.values():
        if row["part"] not in parts:
            continue
        samples = row["samples"] or []
        shown.add_row(
            row["text"],
            row["goal"],
            figure(row["measured"]) if samples else "not measured",
            f"{figure(min(samples))} … {figure(max(samples))}" if len(samples) > 1 else "",
            {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row["met"]],
        )
    return shown


def goal(low: float | None, high: float | None) -> str:
    """Formats bounds for people."""
    if low is not None and low == high:
        return f"= {low:g}"
    return " ".join(
        f"{sign} {bound:g}" for sign, bound in (("≥", low), ("≤", high)) if bound is not None
    )
