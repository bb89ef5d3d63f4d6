"""The one exception that means: what the user gave cannot work, and here is the mend."""

from pathlib import Path


class InputError(ValueError):
    """Wrong use or bad input; the command line prints its one line and exits with status 2."""


class BadImageError(InputError):
    """A file cannot serve as an image; knows which row of the index it is, and why."""

    def __init__(self, path: Path, row: int, reason: str) -> None:
        super().__init__(f"{path}: {reason}; restore it or take it out of the data set")
        self.row = row
        self.reason = reason
