"""Remembers the digests of image files, so that unchanged files need not be read again.

A file counts as unchanged while its path, size, times and inode are the same.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from train import run_folder

NAME = "known-files"
MAX_FILES = 2_000_000  # remembered at most, 100-200 MB; but always those of the newest search
DIGEST = 16  # bytes
STATE = 4  # numbers: size, time of modification and of change in ns, inode
CHANGED = 2  # which of them is the time of change; 0: the file cannot be read
SETTLED_NS = 2 * 10**9  # a file changed more recently may change again with the same timestamp

Note = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """The remembered files."""

    paths: list[bytes]
    states: Int64[ndarray, "n 4"]
    digests: UInt8[ndarray, "n 16"]

    def take(self, rows: Int64[ndarray, " k"]) -> "Known":
        """Returns these files."""
        paths = [self.paths[row] for row in rows.tolist()]
        return Known(paths, self.states[rows], self.digests[rows])


NOTHING = Known([], np.empty((0, STATE), np.int64), np.empty((0, DIGEST), np.uint8))


def states_of(paths: Sequence[bytes]) -> tuple[Int64[ndarray, "n 4"], dict[int, str]]:
    """Returns numbers that change with each file, and row → reason of those it cannot find."""
    states: list[int] = []  # in one list: 100,000 tuples would be slower
    bad: dict[int, str] = {}
    for row, path in enumerate(paths):
        try:
            at = os.stat(path)
            states += (at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino % 2**63)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            bad[row] = f"cannot be read ({reason})"
            states += (0,) * STATE
    return np.array(states, np.int64).reshape(-1, STATE), bad


def digests_of(
    paths: Sequence[bytes], folder: Path, note: Note, on_progress: Progress
) -> tuple[UInt8[ndarray, "n 16"], dict[int, str]]:
    """Returns digests of the files' contents, and row → reason of those that cannot be read.

    Remembers them in `folder`.
    """
    known = _read(folder / NAME, note)
    now = time.time_ns()
    states, bad = states_of(paths)
    place = dict(zip(known.paths, range(len(known.paths)), strict=True))
    at = np.array([place.get(path, -1) for path in paths], np.int64)
    same = at >= 0
    same[same] = (known.states[at[same]] == states[same]).all(axis=1)
    digests = np.zeros((len(paths), DIGEST), np.uint8)
    digests[same] = known.digests[at[same]]
    new = [row for row in np.flatnonzero(~same).tolist() if row not in bad]
    with ThreadPoolExecutor(16) as threads:  # they mostly wait for the disk
        found = threads.map(_digest, (paths[row] for row in new))
        for done, (row, digest) in enumerate(zip(new, found, strict=True), start=1):
            if isinstance(digest, str):
                bad[row] = digest
            else:
                digests[row] = np.frombuffer(digest, np.uint8)
            if done % 256 == 0 or done == len(new):
                on_progress(done, len(new))
    settled = states[:, CHANGED] < now - SETTLED_NS
    settled[list(bad)] = False
    if (settled & ~same).any():
        mine = Known(list(paths), states, digests).take(np.flatnonzero(settled | same))
        named = set(paths)
        others = [row for row, path in enumerate(known.paths) if path not in named]
        others = others[max(0, len(others) + len(mine.paths) - MAX_FILES) :]
        _write(folder / NAME, known.take(np.array(others, np.int64)), mine, note)
    return digests, bad


def _digest(path: bytes) -> bytes | str:
    if not os.path.isfile(path):
        return "cannot be read (not a file)"
    try:
        with open(path, "rb") as file:
            return blake2b(file.read(), digest_size=DIGEST).digest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _write(file: Path, old: Known, new: Known, note: Note) -> None:
    paths = old.paths + new.paths
    content = b"".join(
        [
            len(paths).to_bytes(8, "little"),
            np.concatenate([old.states, new.states]).tobytes(),
            np.concatenate([old.digests, new.digests]).tobytes(),
            b"\0".join(paths),
        ]
    )
    save(file, sha256(content).digest() + content, note)


def save(file: Path, content: bytes, note: Note) -> None:
    """Writes a cache file; a failure is only noted: it merely makes the next search slower."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        run_folder.write(file, content)
    except OSError as error:
        note(f"{file}: cannot be written ({error.strerror}); its content is not cached")


def _read(file: Path, note: Note) -> Known:
    if not file.exists():
        return NOTHING
    try:
        whole = memoryview(file.read_bytes())
    except OSError as error:
        note(f"{file}: cannot be read ({error.strerror}); all images are read again")
        return NOTHING
    content = whole[32:]
    if bytes(whole[:32]) != sha256(content).digest():
        note(f"{file}: is damaged; all images are read again")
        return NOTHING
    num = int.from_bytes(content[:8], "little")
    states, digests = 8 + 8 * STATE * num, 8 + (8 * STATE + DIGEST) * num
    return Known(
        bytes(content[digests:]).split(b"\0"),
        np.frombuffer(content[8:states], np.int64).reshape(num, STATE),
        np.frombuffer(content[states:digests], np.uint8).reshape(num, DIGEST),
    )
