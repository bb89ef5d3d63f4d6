"""The exception for bad user input: one line that says what is wrong and how to fix it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# How torch, CUDA's libraries and DALI word it.
MEMORY_IS_FULL = re.compile(
    "out of memory|CUDA allocation failed|can(?:'|no)t allocate|bad_alloc|allocator failed"
    "|ALLOC_FAILED|ALLOCATION_FAILED|ALLOCATOR_FAILURE|cudaErrorMemoryAllocation",
    re.I,
)


class InputError(Exception):
    """Wrong use or bad input; the command line prints its one line and exits with status 2.

    Not a `ValueError`, which tyro would catch and print over several lines.
    """


class BadImageError(InputError):
    """A file that cannot be used as an image, with its row in the index and the reason."""

    def __init__(
        self,
        path: Path,
        row: int,
        reason: str,
        remedy: str = "restore it or take it out of the data set",
    ) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.row = row
        self.reason = reason


def in_one_line(error: BaseException) -> str:
    """Returns an error's message on one line of at most 300 characters, or its type if empty."""
    message = " ".join(str(error).split())
    return message[:300] or type(error).__name__


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Makes an `OSError` name `path` if it names no file, as on a full disk, or `temporary`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def said_of_file(error: OSError) -> str:
    """Returns an operating system's error in the form of our own: the file, then what is wrong."""
    if error.errno is None or error.filename is None:
        return in_one_line(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU or the host ran out of memory; such errors have many types."""
    return isinstance(error, MemoryError) or bool(MEMORY_IS_FULL.search(str(error)))


def said_of_memory(error: Exception) -> str:
    """Returns the line of an out-of-memory error that says so."""
    lines = str(error).splitlines()
    return next((line for line in lines if MEMORY_IS_FULL.search(line)), type(error).__name__)
