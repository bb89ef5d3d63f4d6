"""Caches features on disk by image content, so that a later search need not embed them again.

    CACHE/known-files              path, size and times of an image file → digest of its content
    CACHE/KEY/NAME.safetensors     digest → features, for one network and way of embedding

An image file with unchanged size and times is not read again. One that was moved or touched is
read, but embedded only if its content is new. Cache files carry checksums; damaged ones are
reported, removed and written again. Those used least recently make room for new ones.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from pipeline.errors import in_one_line
from train import checkpoint
from train.config import of_method
from train.evaluation.known_files import DIGEST, Note, save
from train.evaluation.trained import TrainedRun

VERSION = 2
NAMES = "[0-9a-f]" * 24  # of the folders and files in a cache, as a pattern


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

    def checks(self) -> Int64[ndarray, " n"]:
        """Returns a checksum of each image's numbers."""
        width = self.features.shape[1]
        words = self.features.view(np.int32 if width % 2 else np.int64)
        return torch.from_numpy(words).sum(dim=1).numpy() + self.norms.view(np.int64)


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


def load(folder: Path, wanted: dict[bytes, int], note: Note) -> Iterator[Part]:
    """Yields cached features, and removes what it finds from `wanted`, digest → row."""
    for file in sorted(folder.glob(f"{NAMES}.safetensors")):
        try:
            held, digests = _read(file)
        except FileNotFoundError:  # another search has just removed it
            continue
        except Exception as error:  # safetensors and the disk raise many kinds
            note(f"{file}: is damaged ({in_one_line(error)}); its images are embedded again")
            file.unlink(missing_ok=True)
            continue
        rows = np.array([wanted.pop(digest, -1) for digest in digests], np.int64)
        chosen = np.flatnonzero(rows >= 0)
        if len(chosen):
            with suppress(OSError):  # not ours to touch
                os.utime(file)  # `prune` keeps what was used last
            yield held.take(chosen, rows[chosen])


def prune(cache: Path, limit: int, since: float) -> int:
    """Removes the features used least recently until at most `limit` bytes of them are left.

    Keeps those used after the time `since`. Returns how many bytes it removed.
    """
    found = []
    for file in cache.glob(f"{NAMES}/{NAMES}.safetensors"):
        with suppress(OSError):  # another search removes files too
            at = file.stat()
            found.append((at.st_mtime, at.st_size, file))
    left, removed = sum(size for _, size, _ in found), 0
    for used, size, file in sorted(found):
        if left - removed <= limit or used >= since:
            break
        with suppress(OSError):
            file.unlink()
            removed += size
            file.parent.rmdir()  # if it is empty
    return removed


def _read(file: Path) -> tuple[Part, list[bytes]]:
    """Returns a file's features, memory-mapped, and their digests; raises if it is damaged."""
    tensors = {name: t.numpy() for name, t in safetensors.torch.load_file(file).items()}
    features = tensors["features"]
    part = Part(np.arange(len(features)), features, tensors["norms"])
    digests = tensors["digests"]
    if digests.shape != (len(features), DIGEST) or digests.dtype != np.uint8:
        raise ValueError("its digests have the wrong shape")
    if _name(digests) != file.name or not (part.checks() == tensors["checks"]).all():
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
        "checks": part.checks(),
    }
    content = safetensors.torch.save({n: torch.from_numpy(a) for n, a in tensors.items()})
    save(folder / _name(named), content, note)


def _name(digests: ndarray) -> str:
    return f"{blake2b(digests.tobytes(), digest_size=12).hexdigest()}.safetensors"
