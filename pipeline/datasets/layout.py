"""Describes a kind of data set: each reader has one `KIND`, listed in `kinds.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.datasets.findings import Findings
from pipeline.datasets.records import Index, Protocol
from pipeline.options import DataOptions


@dataclass(frozen=True, slots=True)
class Kind:
    """A layout of files, and its readers.

    Readers decode no image. They record every fault in `Findings`, so reading is also checking;
    what they return may be used only if there was none. Reading the training set does not need the
    files of the test.
    """

    layout: str
    marks: tuple[str, ...]  # folders that identify the layout
    read_training: Callable[[Path, DataOptions, Findings], Index]
    read_protocol: Callable[[Path, DataOptions, Findings], Protocol | None]
    survey: Callable[[Path, DataOptions, Findings], None]  # all splits and trials, with counts
    num_trials: int = 1  # training runs that the protocol requires
    splits: tuple[str, ...] = ("train+val",)  # splits that its reader distinguishes
