"""What looking at a data set found: counts beside those expected, and faults to mend."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from numpy import ndarray


@dataclass(frozen=True, slots=True)
class Fault:
    """Something to mend: a short name of its kind, the file or field, and what to do."""

    kind: str
    where: str
    text: str


@dataclass(slots=True)
class Survey:
    """What was found at a data set's root."""

    root: Path
    files: set[str] = field(default_factory=set)  # images to look at, relative to root
    contents: dict[str, ndarray] = field(default_factory=dict)  # of those that are no files
    faults: list[Fault] = field(default_factory=list)
    counts: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # found, expected
    notes: list[str] = field(default_factory=list)  # to know, but nothing to mend

    def fault(self, kind: str, where: object, text: str) -> None:
        """Notes a fault; `where` is shown relative to the root."""
        name = str(where).removeprefix(f"{self.root}{os.sep}")
        self.faults.append(Fault(kind, name, text))

    def count(self, found: dict[str, int], expected: dict[str, int]) -> None:
        """Notes numbers found beside those expected, where something is."""
        self.counts |= {what: (number, expected.get(what)) for what, number in found.items()}

    def error(self, kind: str, message: str) -> None:
        """Notes an error whose message is `where: text`."""
        where, _, text = message.partition(": ")
        self.fault(kind, where, text)

    def by_kind(self) -> dict[str, list[Fault]]:
        """The faults by kind, in order of appearance."""
        kinds: dict[str, list[Fault]] = {}
        for fault in self.faults:
            kinds.setdefault(fault.kind, []).append(fault)
        return kinds
