"""Metrics as TensorBoard event files, if `Config.tensorboard` is set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

FOLDER = "tensorboard"

Write = Callable[[dict[str, Any]], None]


def check(asked: bool) -> None:
    """Raises `InputError` if event files are asked for but tensorboard is not installed."""
    if asked:
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise InputError("--tensorboard: needs tensorboard; uv sync --group report") from None


@contextmanager
def opened(run_dir: Path, asked: bool) -> Iterator[Write]:
    """Yields a function that writes records of `metrics.jsonl`, or does nothing unless `asked`.

    A resumed run overrides older event files from the first epoch that it writes (purge_step).
    """
    if not asked:
        yield lambda record: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None

    def write(record: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(str(run_dir / FOLDER), purge_step=record["epoch"])
        for name, value in scalars(record):
            writer.add_scalar(f"{record['event']}/{name}", value, record["epoch"])
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields every number of a metrics record except its epoch, with nested keys joined by /.

    Members of a list (the modes of an evaluation) are named after their protocol.
    """
    for key, value in record.items():
        name = prefix + key.replace(" ", "_")
        if isinstance(value, dict):
            yield from scalars(value, f"{name}/")
        elif isinstance(value, list):
            for member in value:
                yield from scalars(member, f"{name}/{member['protocol'].replace(' ', '_')}/")
        elif isinstance(value, int | float) and name != "epoch":
            yield name, value
