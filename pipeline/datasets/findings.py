"""What reading a data set found: faults, warnings, and actual and expected counts."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from numpy import ndarray

from pipeline.datasets.records import Index
from pipeline.errors import InputError


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem to fix: the name of its kind, the file or field, and what to do."""

    kind: str
    where: str
    text: str


class FaultError(InputError):
    """The first fault of a data set that was about to be used, with the fault's `kind`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class Findings:
    """What was found at `root`, the folder or CSV file that the user named.

    Readers record faults here and continue, so that `data check` can show them all; before the data
    set is used, `settle` raises the first.
    """

    root: Path
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    files: set[str] = field(default_factory=set)  # images to decode, relative to `folder`
    contents: dict[str, ndarray] = field(default_factory=dict)  # of those inside tar files
    counts: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # found, expected

    @property
    def folder(self) -> Path:
        """The folder that paths are relative to."""
        return self.root.parent if self.root.is_file() else self.root

    def fault(self, kind: str, where: object, text: str) -> None:
        """Records a fault; `where` is a path, maybe with details, shown relative to `folder`."""
        self.faults.append(Fault(kind, self._short(where), text))

    def warn(self, kind: str, where: object, text: str) -> None:
        """Records what may be wrong but stops nothing."""
        self.warnings.append(Fault(kind, self._short(where), text))

    @contextmanager
    def recording(self, kind: str, where: Path) -> Iterator[None]:
        """Turns an `InputError`, whose message is `WHERE…: text`, into a fault."""
        try:
            yield
        except InputError as error:
            more, _, text = str(error).removeprefix(str(where)).partition(": ")
            self.fault(kind, f"{where}{more}", text)

    def has_only(self, *kinds: str) -> bool:
        """Are all faults of these kinds?"""
        return all(fault.kind in kinds for fault in self.faults)

    def merge(self, other: "Findings") -> None:
        """Adds what `other` found, without repeating faults and warnings."""
        for mine, theirs in ((self.faults, other.faults), (self.warnings, other.warnings)):
            known = {(fault.kind, fault.where) for fault in mine}
            mine += [fault for fault in theirs if (fault.kind, fault.where) not in known]
        self.files |= other.files

    def add_images(self, index: Index) -> None:
        """Adds an index's images to those that will be decoded."""
        inside = os.path.join(os.path.abspath(self.folder), "")
        self.files |= {name.removeprefix(inside) for name in index.names()}

    def count(self, found: dict[str, int], expected: dict[str, int]) -> None:
        """Records the numbers found, with the expected ones where known."""
        self.counts |= {what: (number, expected.get(what)) for what, number in found.items()}

    def by_kind(self) -> dict[str, list[Fault]]:
        """Returns the faults by kind, in order of appearance."""
        kinds: dict[str, list[Fault]] = {}
        for fault in self.faults:
            kinds.setdefault(fault.kind, []).append(fault)
        return kinds

    @staticmethod
    def alike(faults: list[Fault]) -> list[tuple[str, str, list[str]]]:
        """Groups faults of one kind with one text: kind, text and where each of them is.

        Groups of a kind follow one another.
        """
        places: dict[str, dict[str, list[str]]] = {}
        for fault in faults:
            places.setdefault(fault.kind, {}).setdefault(fault.text, []).append(fault.where)
        return [(kind, text, of) for kind, texts in places.items() for text, of in texts.items()]

    def settle(self, warn: Callable[[str], None], forgiven: str = "") -> None:
        """Passes on the warnings and raises the first fault whose kind is not `forgiven`."""
        for warning in self.warnings:
            warn(f"{self._long(warning.where)}: {warning.text}")
        faults = [fault for fault in self.faults if fault.kind != forgiven]
        if not faults:
            return
        first, num_more = faults[0], len(faults) - 1
        more = f" (and {num_more} more: cdp data check {self.root} shows all)" if num_more else ""
        raise FaultError(f"{self._long(first.where)}: {first.text}{more}", first.kind)

    def _short(self, where: object) -> str:
        return str(where).removeprefix(f"{self.folder}{os.sep}")

    def _long(self, where: str) -> str:
        return os.path.join(self.folder, where)
