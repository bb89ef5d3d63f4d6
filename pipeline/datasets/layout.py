"""What a data set's file says of its kind: one `KIND` each, listed in `kinds.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.findings import Findings
from pipeline.datasets.records import Index, Protocol
from pipeline.options import DataOptions


@dataclass(frozen=True, slots=True)
class Kind:
    """A layout of files, and its readers.

    Readers decode no image. They note every fault in `Findings`, so reading is also the check;
    what they return is to be used only if there was none. Reading the training set needs no file of
    the test.
    """

    layout: str
    marks: tuple[str, ...]  # folders by which the layout is recognized
    read_training: Callable[[Path, DataOptions, Findings], Index]
    read_protocol: Callable[[Path, DataOptions, Findings], Protocol | None]
    survey: Callable[[Path, DataOptions, Findings], None]  # all splits and trials, with counts
    num_trials: int = 1  # trainings that the protocol asks for
    splits: tuple[str, ...] = ("train+val",)  # those that its reader tells apart
