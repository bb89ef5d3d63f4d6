"""The table of `cdp runs`, and what to do about the runs that are not finished."""

import os
import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from train.live.terminal import spelled
from train.runs import Run, group_of

STYLES = {"finished": "green", "running": "cyan", "interrupted": "yellow"}  # others: red
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
ROOMY = 100  # columns; a narrower terminal has no room for the chance of rank-1
WIDE = 200  # columns where there is no terminal: each run is one line, which grep finds


def show(runs: list[Run], folder: Path) -> None:
    """Prints the runs found in `folder`, and a line for each that needs something."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE

    def text(words: str, style: str = "") -> Text:
        return Text(spelled(words, console.encoding), style)

    has_chance = ("chance",) if console.width >= ROOMY else ()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in ("method", "data"):
        table.add_column(name, overflow="fold")
    table.add_column("epochs", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("rank1", *has_chance, "mAP", "age", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    now = time.time()
    headed = ""
    for run in runs:
        group = group_of(run, folder)
        is_inside = len(run.folder.relative_to(folder).parts) > 1
        if is_inside and group != headed:
            count = sum(group_of(other, folder) == group for other in runs)
            table.add_row(text(f"{group}/ ({count} runs)", "dim"))
        headed = group
        name = str(run.folder.relative_to(folder / group)) if is_inside else group or str(folder)
        for row, depth in [(run, int(is_inside)), *((t, is_inside + 1) for t in run.trials)]:
            shown = name if row is run else row.folder.name
            table.add_row(
                text("  " * depth + shown),
                text(row.method or ""),
                text(row.data or ""),
                text("" if row.epochs is None else f"{row.epochs_done}/{row.epochs}"),
                text(row.state, STYLES.get(row.state, "red")),
                text(_percent(row.rank1)),
                *(text(_percent(row.chance_rank1)) for _ in has_chance),
                text(_percent(row.mAP)),
                text(_age(now - row.modified)),
                text(decimal(row.num_bytes)),
            )
    console.print(table)
    for run in runs:
        if run.note:
            short = run.folder.relative_to(folder) if run.folder != folder else folder
            console.print(text(f"{short}: {run.state}; {run.note}"), soft_wrap=True)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _age(seconds: float) -> str:
    """The largest unit of which there is at least one."""
    for size, unit in UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "now"
