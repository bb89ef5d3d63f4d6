"""The one exception that means: what the user gave cannot work, and here is the mend."""

import re
from pathlib import Path

# As torch, CUDA's libraries and DALI say it.
MEMORY_IS_FULL = re.compile(
    "out of memory|CUDA allocation failed|can(?:'|no)t allocate|bad_alloc|allocator failed"
    "|ALLOC_FAILED|ALLOCATION_FAILED|ALLOCATOR_FAILURE|cudaErrorMemoryAllocation",
    re.I,
)


class InputError(ValueError):
    """Wrong use or bad input; the command line prints its one line and exits with status 2."""


class BadImageError(InputError):
    """A file cannot serve as an image; knows which row of the index it is, and why."""

    def __init__(
        self,
        path: Path,
        row: int,
        reason: str,
        mend: str = "restore it or take it out of the data set",
    ) -> None:
        super().__init__(f"{path}: {reason}; {mend}")
        self.row = row
        self.reason = reason


def in_one_line(error: BaseException) -> str:
    """What an error says, on one line of at most 300 characters; its type if it says nothing."""
    words = " ".join(str(error).split())
    return words[:300] or type(error).__name__


def is_out_of_memory(error: Exception) -> bool:
    """Did the GPU or the host have no memory left? What raises so has many types."""
    return isinstance(error, MemoryError) or bool(MEMORY_IS_FULL.search(str(error)))


def said_of_memory(error: Exception) -> str:
    """The line of such an error that says so."""
    lines = str(error).splitlines()
    return next((line for line in lines if MEMORY_IS_FULL.search(line)), type(error).__name__)
