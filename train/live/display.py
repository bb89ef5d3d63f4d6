"""Terminal output: a live panel on a terminal, plain lines elsewhere, a table at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from rich.box import SIMPLE_HEAD as HEADS
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pipeline.datasets.findings import Findings
from pipeline.datasets.records import Index, Modality, Protocol
from pipeline.options import unit
from train.config import Config
from train.evaluation.options import disclosed, on_equal_trials
from train.evaluation.sides import listed
from train.live.terminal import spelled
from train.metrics import FIGURES

MAX_FAULTS = 20  # shown of each kind; faults with the same text count as one
MAX_EXAMPLES = 3  # of the places of such faults

USUAL_LOSSES = {"cls", "tri"}  # of which the line of an epoch shows only the total
SPECTRUM_STYLES = {"R": "red", "G": "green", "B": "blue", "X": "white"}


class Screen(Console):
    """A console whose reader may leave while a training runs, as `tee` does at Ctrl-C."""

    when_reader_left: Callable[[], None] | None = None

    def on_broken_pipe(self) -> None:
        """Discards further output, and calls `when_reader_left` or else ends the program."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            if self.when_reader_left is None:
                raise
            self.when_reader_left()


class Display:
    """Shows a run: a live panel on a terminal, one line per epoch elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Screen(quiet=quiet)
        if not self.console.width:  # COLUMNS=0
            self.console.width = 80
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
        """Prints one line."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _cell(self, text: str) -> str:
        """Escapes text for a table cell, spelled as the terminal will print it."""
        return escape(spelled(text, self.console.encoding))

    def note(self, text: str) -> None:
        """Prints a remark."""
        self.say(f"note      {text}")

    def show_setup(
        self, run_dir: Path, hardware: str, cfg: Config, images: Index, protocol: Protocol | None
    ) -> None:
        """Prints hardware, data and network; `protocol` is None without a test."""
        infrared = int((images.modality == Modality.IR).sum())
        self.say(f"device    {hardware}; mixed precision {cfg.precision}")
        self.say(
            f"training  {len(np.unique(images.pids))} identities, {len(images) - infrared} RGB and "
            f"{infrared} infrared images from {cfg.data.root or images.origin}"
        )
        self.say(
            f"network   {cfg.method.model.backbone}, weights {cfg.method.model.weights}, "
            f"{cfg.data.height_px}x{cfg.data.width_px}, P {cfg.data.p} x K {cfg.data.k} "
            f"{unit(cfg.data)}"
        )
        cached = {"none": "decoded at each use", "host": "kept in memory", "gpu": "kept on the GPU"}
        self.say(f"pixels    {cached[cfg.data.cache]} (--data.cache {cfg.data.cache})")
        if protocol:
            modes = ", ".join(mode.name for mode in protocol.modes)
            self.say(f"test      {protocol.name}: {modes}; unseen identities")
        else:
            self.say("test      none (--no-test)")
        if protocol and protocol.remark:
            self.say(f"note      {protocol.remark}")
        self.say(f"run       {run_dir}")

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Shows a progress bar; call the result with (done, total)."""
        task = self._bars.add_task(what, total=None)
        with self._showing():
            yield lambda done, total: self._bars.update(task, completed=done, total=total)
        self._bars.remove_task(task)

    @contextmanager
    def training(
        self, epochs: int, steps: int, when_reader_left: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Shows the live panel during the training loop.

        Calls `when_reader_left` once output goes to a pipe that nobody reads any more.
        """
        self.console.when_reader_left = when_reader_left
        self._epoch_task = self._bars.add_task("epoch", total=epochs)
        self._step_task = self._bars.add_task("step", total=steps)
        self._status = Text("           waiting for the first batch")
        with self._showing():
            yield
        self.console.when_reader_left = None
        for task in (self._epoch_task, self._step_task):
            self._bars.remove_task(task)
        self._status = self._last_epoch = None

    def step(
        self,
        epoch: int,
        losses: Float32[Tensor, "known names"],
        names: tuple[str, ...],
        images_per_second: float,
        wait: float,
    ) -> None:
        """Updates the panel with the losses of the epoch's first steps, as far as known."""
        if not len(losses):
            return
        total, *parts = losses[-1].tolist()
        each = ", ".join(
            f"{value:.3f} {name.removeprefix('loss_')}"
            for name, value in zip(names[1:], parts, strict=True)
            if name.startswith("loss_")
        )
        self._status = Text(
            f"           loss {total:.3f} ({each})   "
            f"{images_per_second:.0f} images/s   waiting for data {100 * wait:.1f} %"
        )
        self._bars.update(self._epoch_task, completed=epoch - 1)
        self._bars.update(self._step_task, completed=len(losses))
        self._refresh()

    def epoch(self, record: dict[str, Any]) -> None:
        """Shows a finished epoch from its record in `metrics.jsonl`."""
        self._last_epoch = record
        self._bars.update(self._epoch_task, completed=record["epoch"])
        if self._live:
            self._refresh()
            return
        spectra = " ".join(f"{name} {p:.2f}" for name, p in record["probability"].items())
        losses = {key[5:]: value for key, value in record.items() if key.startswith("loss_")}
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self.say(
            f"epoch {record['epoch']:3d}  loss {record['loss']:.3f}  "
            f"{record['images_per_second']:6.0f} images/s  "
            f"data wait {100 * record['data_wait']:4.1f} %"
            + (f"  P̂ {spectra}" if spectra else "")
            + (f"  {parts}" if losses.keys() - USUAL_LOSSES else "")
            + (f"  {record['num_bad_images']} bad images" if record["num_bad_images"] else "")
        )

    def findings(self, found: Findings) -> None:
        """Shows a data set's counts beside the expected ones, its warnings and its faults."""
        counts = Table("", "found", "expected", title="counts")
        for what, (number, expected) in found.counts.items():
            differs = expected is not None and number != expected
            counts.add_row(
                what,
                str(number),
                "" if expected is None else str(expected),
                style="yellow" if differs else None,
            )
        self.console.print(counts)
        if any(expected not in (None, number) for number, expected in found.counts.values()):
            self.say("counts may differ from the official ones in a subset of the data set")
        warnings = Findings.alike(found.warnings)
        for _, text, places in warnings[:MAX_FAULTS]:
            self.note(f"{'; '.join(examples(places))}: {text}")
        if len(warnings) > MAX_FAULTS:
            self.note(f"… and {sum(len(of) for *_, of in warnings[MAX_FAULTS:])} more")
        if not found.faults:
            return
        faults = Table("fault", "where", "what to do", title=counted(len(found.faults), "fault"))
        for kind, of_kind in found.by_kind().items():
            groups = Findings.alike(of_kind)
            for _, text, places in groups[:MAX_FAULTS]:
                faults.add_row(kind, self._cell("\n".join(examples(places))), self._cell(text))
            if len(groups) > MAX_FAULTS:
                num_more = sum(len(of) for *_, of in groups[MAX_FAULTS:])
                faults.add_row(kind, self._cell(f"… and {num_more} more"), "")
        self.console.print(faults)

    def result(self, result: dict[str, Any]) -> None:
        """Prints the retrieval table: one row per search mode, means above deviations."""
        if "rank1" in result:
            self._figures(result)
        else:
            self.say("result    no figures (--no-test)")
        for name in ("remark", "training", "unfinished", "collapse"):
            if name in result:
                self.say(f"note      {result[name]}")

    def _figures(self, result: dict[str, Any]) -> None:
        modes = result.get("modes", [result])
        trials = modes[0]["num_trials"]
        over = f", mean ± std of {trials} trials" if trials > 1 else ""
        lines = [f"retrieval, percent, {result['distance']} distance{over}"]
        if made_with := disclosed(result):
            lines.append(", ".join(made_with))
        title = self._cell("\n".join(lines))
        table = Table(title=title, box=HEADS, padding=0, pad_edge=False)  # fits 80 columns
        table.add_column("protocol", min_width=18)
        for name in (*FIGURES, "chance"):
            table.add_column(name, justify="right", no_wrap=True)
        for mode in modes:
            std = mode["std"] if mode["num_trials"] > 1 else {}
            deviations = {name: self._cell(f"± {std[name]:.1f}") for name in std}
            sizes = self._cell(f"{mode['num_query']} × {mode['num_gallery']}")
            table.add_row(
                f"{self._cell(mode['protocol'])}\n[dim]{sizes}[/]",
                *(
                    f"{mode[n]:.1f}" + (f"\n[dim]{deviations[n]}[/]" if std else "")
                    for n in FIGURES
                ),
                f"{mode['chance_rank1']:.1f}",
            )
        notes = "below a protocol: queries × gallery; chance: rank-1 of a random order"
        table.caption = self._cell("\n".join(filter(None, (notes, on_equal_trials(result)))))
        self.console.print(table)

    def foundation(self, result: dict[str, Any]) -> None:
        """Prints the rule and cameras that the figures of `cdp score` depend on."""
        found = "; ".join(f"{side} {listed(of)}" for side, of in result["cameras"].items())
        self.say(f"rule      {result['protocol']}: {result['rule']}")
        self.say(f"cameras   {found}")
        if result["num_query_left_out"]:
            self.say(
                f"note      {result['num_query_left_out']} queries have no valid gallery image of "
                "their pid and are not scored"
            )

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """Keeps the live panel on screen, on a terminal only; nested uses share it."""
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


def examples(places: list[str]) -> list[str]:
    """Returns the first places, and how many more there are."""
    num_more = len(places) - MAX_EXAMPLES
    if num_more <= 1:  # the line would be no shorter
        return places
    return [*places[:MAX_EXAMPLES], f"… and {num_more} more"]


def counted(number: int, what: str) -> str:
    """Returns the number with its noun: 1 fault, 2 faults."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def spectrum_bars(record: dict[str, Any]) -> Table:
    """Draws P̂ of each spectrum as a bar, beside the network's confidence R in it."""
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
