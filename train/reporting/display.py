"""What people see: a live panel on a terminal, plain lines elsewhere, a table at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from rich.box import SIMPLE_HEAD as HEADS
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pipeline.datasets.findings import Survey
from pipeline.datasets.records import Index, Modality, Protocol
from train.config import Config
from train.evaluation.metrics import FIGURES

MAX_FAULTS = 20  # shown, of each kind

# Names and colours of the spectra as people expect them.
SPECTRUM_STYLES = {"R": "red", "G": "green", "B": "blue", "X": "white"}


class Display:
    """Shows a run. On a terminal things move in place; elsewhere an epoch is one line."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet)
        self._bars = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._live: Live | None = None
        self._status: Text | None = None
        self._last_epoch: dict[str, Any] | None = None

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def begin(
        self, run_dir: Path, hardware: str, cfg: Config, images: Index, protocol: Protocol
    ) -> None:
        """What is about to happen, and on what."""
        infrared = int((images.modality == Modality.IR).sum())
        self.say(f"device    {hardware}; mixed precision {cfg.precision}")
        self.say(
            f"training  {len(np.unique(images.pids))} identities, {len(images) - infrared} RGB and "
            f"{infrared} infrared images from {images.root}"
        )
        self.say(
            f"network   {cfg.model.backbone}, weights {cfg.model.weights}, "
            f"{cfg.data.height_px}x{cfg.data.width_px}, P {cfg.data.p} x K {cfg.data.k} pairs"
        )
        where = {"none": "decoded at each use", "host": "kept in memory", "gpu": "kept on the GPU"}
        self.say(f"pixels    {where[cfg.data.cache]} (--data.cache {cfg.data.cache})")
        modes = ", ".join(mode.name for mode in protocol.modes)
        self.say(f"test      {protocol.name}: {modes}; unseen identities")
        if protocol.remark:
            self.say(f"note      {protocol.remark}")
        self.say(f"run       {run_dir}")

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for long work; call the result with (parts done, parts in all)."""
        task = self._bars.add_task(what, total=None)
        with self._showing():
            yield lambda done, total: self._bars.update(task, completed=done, total=total)
        self._bars.remove_task(task)

    @contextmanager
    def training(self, epochs: int, steps: int) -> Iterator[None]:
        """The panel around the training loop."""
        self._epoch_task = self._bars.add_task("epoch", total=epochs)
        self._step_task = self._bars.add_task("step", total=steps)
        self._status = Text("           waiting for the first batch")
        with self._showing():
            yield
        for task in (self._epoch_task, self._step_task):
            self._bars.remove_task(task)
        self._status = self._last_epoch = None

    def step(
        self, epoch: int, losses: Float32[Tensor, "seen 3"], images_per_second: float, wait: float
    ) -> None:
        """A look at the running epoch: the losses of its first steps, as far as they are known."""
        if not len(losses):
            return
        loss, cls, tri = losses[-1].tolist()
        self._status = Text(
            f"           loss {loss:.3f} = {cls:.3f} classification + {tri:.3f} triplet   "
            f"{images_per_second:.0f} images/s   waiting for data {100 * wait:.1f} %"
        )
        self._bars.update(self._epoch_task, completed=epoch - 1)
        self._bars.update(self._step_task, completed=len(losses))
        self._refresh()

    def epoch(self, record: dict[str, Any]) -> None:
        """A finished epoch, as `metrics.jsonl` has it."""
        self._last_epoch = record
        self._bars.update(self._epoch_task, completed=record["epoch"])
        if self._live:
            self._refresh()
            return
        spectra = " ".join(f"{name} {p:.2f}" for name, p in record["probability"].items())
        self.say(
            f"epoch {record['epoch']:3d}  loss {record['loss']:.3f}  "
            f"{record['images_per_second']:6.0f} images/s  "
            f"data wait {100 * record['data_wait']:4.1f} %  P̂ {spectra}"
            + (f"  {record['num_bad_images']} bad images" if record["num_bad_images"] else "")
        )

    def survey(self, survey: Survey) -> None:
        """What a data set holds beside what was expected, and its faults."""
        counts = Table("", "found", "expected", title="counts")
        for what, (found, expected) in survey.counts.items():
            differs = expected is not None and found != expected
            counts.add_row(
                what,
                str(found),
                "" if expected is None else str(expected),
                style="yellow" if differs else None,
            )
        self.console.print(counts)
        if any(expected not in (None, found) for found, expected in survey.counts.values()):
            self.say("counts that differ from the official ones are no fault in a subset of it")
        if not survey.faults:
            return
        faults = Table("fault", "where", "what to do", title=f"{len(survey.faults)} faults")
        for kind, of_kind in survey.by_kind().items():
            for fault in of_kind[:MAX_FAULTS]:
                faults.add_row(kind, fault.where, fault.text)
            if len(of_kind) > MAX_FAULTS:
                faults.add_row(kind, f"… and {len(of_kind) - MAX_FAULTS} more", "")
        self.console.print(faults)

    def result(self, result: dict[str, Any]) -> None:
        """The retrieval table: a mode of searching a row, means above deviations over trials."""
        modes = result.get("modes", [result])
        trials = modes[0]["num_trials"]
        over = f", mean ± std of {trials} trials" if trials > 1 else ""
        title = f"retrieval, percent, {result['distance']} distance{over}"
        table = Table(title=title, box=HEADS, padding=0, pad_edge=False)  # fits 80 columns
        table.add_column("protocol", min_width=18)
        for name in (*FIGURES, "chance"):
            table.add_column(name, justify="right", no_wrap=True)
        for mode in modes:
            std = mode["std"] if mode["num_trials"] > 1 else {}
            table.add_row(
                f"{mode['protocol']}\n[dim]{mode['num_query']} × {mode['num_gallery']}[/]",
                *(f"{mode[n]:.1f}" + (f"\n[dim]± {std[n]:.1f}[/]" if std else "") for n in FIGURES),
                f"{mode['chance_rank1']:.1f}",
            )
        table.caption = "below a protocol: queries × gallery; chance: rank-1 of a random order"
        self.console.print(table)
        if "remark" in result:
            self.say(f"note      {result['remark']}")

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """Keeps the live panel on screen; nested uses share it, and only a terminal has one."""
        if self._live or not self.console.is_terminal:
            yield
            return
        with Live(self._panel(), console=self.console, refresh_per_second=4) as self._live:
            try:
                yield
            finally:
                self._live.update(self._panel())
                self._live = None

    def _refresh(self) -> None:
        if self._live:
            self._live.update(self._panel())

    def _panel(self) -> Group:
        parts: list[Any] = [self._bars]
        if self._status:
            parts.append(self._status)
        if self._last_epoch:
            parts.append(spectrum_bars(self._last_epoch))
        return Group(*parts)


def spectrum_bars(record: dict[str, Any]) -> Table:
    """P̂ of each spectrum as a bar, beside the confidence R that the network reached with it."""
    table = Table.grid(padding=(0, 1))
    for name, probability in record["probability"].items():
        table.add_row(
            Text(f"{name:>10}"),
            ProgressBar(
                total=1,
                completed=probability,
                width=40,
                complete_style=SPECTRUM_STYLES.get(name, "cyan"),
                finished_style=SPECTRUM_STYLES.get(name, "cyan"),
            ),
            Text(f"P̂ {probability:.3f}   confidence {record['confidence'][name]:.3f}"),
        )
    return table
