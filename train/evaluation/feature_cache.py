"""Caches features on disk by image content, so that a later search need not embed them again.

    CACHE/files                    path, size and times of an image file → digest of its content
    CACHE/KEY/NAME.safetensors     digest → features, for one network and way of embedding

An image file with unchanged size and times is not read again. One that was moved or touched is
read, but embedded only if its content is new. Cache files carry checksums; damaged ones are
reported, removed and written again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float32, Float64, Int64, UInt64
from numpy import ndarray

from pipeline.errors import in_one_line
from train import checkpoint, run_folder
from train.config import of_method
from train.evaluation.trained import TrainedRun

VERSION = 1
FILES = "files"
DIGEST = 16  # bytes
SETTLED_NS = 2 * 10**9  # a file changed more recently may change again with the same timestamp

Note = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Features of some images; an array may be a memory map."""

    rows: Int64[ndarray, " n"]  # of the index of queries or gallery
    features: Float32[ndarray, "n d"]
    norms: Float64[ndarray, " n"]

    @staticmethod
    def of(rows: Int64[ndarray, " n"], features: Float32[ndarray, "n d"]) -> "Part":
        """Returns the features with their norms."""
        return Part(rows, features, np.linalg.norm(features.astype(np.float64), axis=1))

    def take(self, chosen: Int64[ndarray, " k"], rows: Int64[ndarray, " k"]) -> "Part":
        """Returns the `chosen` ones, as a view if they are consecutive, as images `rows`."""
        follow = len(chosen) > 0 and bool((np.diff(chosen) == 1).all())
        where = slice(int(chosen[0]), int(chosen[-1]) + 1) if follow else chosen
        return Part(rows, self.features[where], self.norms[where])

    def checks(self) -> UInt64[ndarray, " n"]:
        """Returns a checksum of each image's numbers."""
        words = self.features.view(np.uint32).sum(axis=1, dtype=np.uint64)
        return words + self.norms.view(np.uint64)


def key_of(run: TrainedRun, flip_test: bool) -> str:
    """Returns a name for everything except the image that features depend on."""
    made_with = {
        "version": VERSION,
        "weights": checkpoint.checksum(run.weights),
        "method": of_method(run.cfg.method),
        "size": (run.data.height_px, run.data.width_px),
        "range_16bit": run.data.range_16bit,
        "device": run.device.type,
        "flip_test": flip_test,
    }
    return sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:24]


def tokens_of(paths: Sequence[str]) -> list[tuple[bytes, int] | str]:
    """Returns, per file, a token that changes with it and its time of change, or why it is bad."""
    found: list[tuple[bytes, int] | str] = []
    for path in paths:
        try:
            at = os.stat(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            found.append(f"cannot be read ({reason})")
            continue
        state = f"{at.st_size} {at.st_mtime_ns} {at.st_ctime_ns} {at.st_ino}\0".encode()
        token = blake2b(state + os.fsencode(path), digest_size=DIGEST).digest()
        found.append((token, at.st_ctime_ns))
    return found


def digests_of(
    paths: Sequence[str], folder: Path, note: Note, on_progress: Progress
) -> tuple[list[bytes | None], dict[int, str]]:
    """Returns digests of the files' contents, and row → reason of those that cannot be read."""
    known = _read_files(folder / FILES, note)
    now = time.time_ns()
    tokens = tokens_of(paths)
    bad = {row: token for row, token in enumerate(tokens) if isinstance(token, str)}
    digests = [None if isinstance(token, str) else known.get(token[0]) for token in tokens]
    new = [row for row, digest in enumerate(digests) if digest is None and row not in bad]
    num_known = len(known)
    with ThreadPoolExecutor(16) as threads:  # they mostly wait for the disk
        found = threads.map(_digest, (paths[row] for row in new))
        for done, (row, digest) in enumerate(zip(new, found, strict=True), start=1):
            token = tokens[row]
            if isinstance(digest, str):
                bad[row] = digest
            else:
                digests[row] = digest
                if token[1] < now - SETTLED_NS:  # type: ignore[operator]
                    known[token[0]] = digest  # type: ignore[index]
            if done % 256 == 0 or done == len(new):
                on_progress(done, len(new))
    if len(known) > num_known:
        content = b"".join(token + digest for token, digest in known.items())
        _write(folder / FILES, sha256(content).digest() + content, note)
    return digests, bad


def _digest(path: str) -> bytes | str:
    try:
        return blake2b(Path(path).read_bytes(), digest_size=DIGEST).digest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _read_files(file: Path, note: Note) -> dict[bytes, bytes]:
    if not file.exists():
        return {}
    try:
        whole = file.read_bytes()
    except OSError as error:
        note(f"{file}: cannot be read ({error.strerror}); all images are read again")
        return {}
    content = whole[32:]
    if whole[:32] != sha256(content).digest() or len(content) % (2 * DIGEST):
        note(f"{file}: is damaged; all images are read again")
        return {}
    pairs = np.frombuffer(content, f"V{DIGEST}").reshape(-1, 2)
    return dict(zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True))


def load(folder: Path, wanted: dict[bytes, list[int]], note: Note) -> Iterator[Part]:
    """Yields cached features, and removes what it finds from `wanted`, digest → rows."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            held, digests = _read(file)
        except Exception as error:  # safetensors and the disk raise many kinds
            note(f"{file}: is damaged ({in_one_line(error)}); its images are embedded again")
            file.unlink(missing_ok=True)
            continue
        chosen: list[int] = []
        rows: list[int] = []
        for i, digest in enumerate(digests):
            of_digest = wanted.pop(digest, ())
            chosen += [i] * len(of_digest)
            rows += of_digest
        if rows:
            yield held.take(np.array(chosen), np.array(rows))


def _read(file: Path) -> tuple[Part, list[bytes]]:
    """Returns a file's features, memory-mapped, and their digests; raises if it is damaged."""
    tensors = {name: t.numpy() for name, t in safetensors.torch.load_file(file).items()}
    features = tensors["features"]
    part = Part(np.arange(len(features)), features, tensors["norms"])
    digests = tensors["digests"]
    if digests.shape != (len(features), DIGEST) or digests.dtype != np.uint8:
        raise ValueError("its digests have the wrong shape")
    if _name(digests) != file.name or not (part.checks() == tensors["checks"].view("u8")).all():
        raise ValueError("its checksum is wrong")
    return part, np.ascontiguousarray(digests).view(f"V{DIGEST}")[:, 0].tolist()


def store(folder: Path, digests: Sequence[bytes], part: Part, note: Note) -> None:
    """Adds the features of images with these digests."""
    if not digests:
        return
    named = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST).copy()
    tensors = {
        "digests": named,
        "features": part.features,
        "norms": part.norms,
        "checks": part.checks().view(np.int64),
    }
    content = safetensors.torch.save({n: torch.from_numpy(a) for n, a in tensors.items()})
    _write(folder / _name(named), content, note)


def _name(digests: ndarray) -> str:
    return f"{blake2b(digests.tobytes(), digest_size=12).hexdigest()}.safetensors"


def _write(file: Path, content: bytes, note: Note) -> None:
    """Writes the file; a failure is only noted, since it merely makes the next search slower."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        run_folder.write(file, content)
    except OSError as error:
        note(f"{file}: cannot be written ({error.strerror}); its content is not cached")
