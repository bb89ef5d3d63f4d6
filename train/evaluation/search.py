"""Searches a folder or list of images for those nearest to each query image."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from pipeline.datasets.named import UNKNOWN_MODALITY, fill_modality, look_up, read_named
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from train.evaluation import feature_cache
from train.evaluation.evaluate import extract_features
from train.evaluation.feature_cache import Part
from train.evaluation.known_files import CHANGED, DIGEST, digests_of, states_of
from train.evaluation.nearest import nearest
from train.evaluation.trained import TrainedRun
from train.live.display import Display

CHUNK = 4096  # images embedded and cached at a time


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The queries or the gallery of a search."""

    index: Index
    left_out: dict[str, list[str]] = field(default_factory=dict)  # paths by reason
    bad: dict[int, str] = field(default_factory=dict)  # rows that cannot be read → reason


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The k nearest gallery images of each of q queries, nearest first."""

    query: Side
    gallery: Side
    queries: Int64[ndarray, " q"]  # rows of `query`
    hits: Int64[ndarray, "q k"]  # rows of `gallery`
    distances: Float32[ndarray, "q k"]  # Euclidean, or 1 - cos
    num_searched: int  # gallery images that could be read
    num_embedded: int  # of these; the others' features came from the cache


def read_side(
    option: str,
    images: Sequence[Path],
    modality: str | None,
    needs_modality: bool,
    known: Callable[[], Iterable[Index]] = tuple,
) -> Side:
    """Reads what `--query` or `--gallery` names: files, folders, or a CSV with a column `path`.

    `modality`, rgb or ir, applies to images without one in a CSV. If it is None and the network
    needs it, it is looked up among the images that `known()` returns. Raises `InputError` as
    `read_named` does, and if the network needs a modality that is unknown.
    """
    named = read_named(images, columns=("path",))
    index = named.index
    unknown = index.modality == UNKNOWN_MODALITY
    if needs_modality and modality is None and unknown.any():
        found = look_up(index, known()).modality
        index = dataclasses.replace(index, modality=np.where(unknown, found, index.modality))
    index = fill_modality(index, modality, needs_modality, f"{option}-modality")
    return Side(index, named.left_out)


def search(
    run: TrainedRun,
    query: Side,
    gallery: Side,
    display: Display,
    cache: Path,
    top: int = 20,
    flip_test: bool = False,
) -> Found:
    """Ranks the gallery for each query by the run's distance; ties keep the gallery's order.

    Caches features of gallery images in the folder `cache`. Fills in `bad` of both sides. Raises
    `InputError` if no query or no gallery image can be read.
    """
    rows = np.arange(len(query.index))
    asked = _embed(run, query, rows, flip_test, display, "queries")
    _check_any("--query", query)
    parts, num_embedded = gallery_features(run, gallery, display, cache, flip_test)
    _check_any("--gallery", gallery)
    hits, found = nearest(asked.features, parts, top, run.cfg.distance)
    num_searched = sum(len(part.rows) for part in parts)
    return Found(query, gallery, asked.rows, hits, found, num_searched, num_embedded)


def _check_any(option: str, side: Side) -> None:
    if len(side.bad) == len(side.index):
        row, reason = next(iter(side.bad.items()))
        raise InputError(
            f"{option}: none of {len(side.index)} images can be read; {side.index.path(row)}: "
            f"{reason}"
        )


def _embed(
    run: TrainedRun,
    side: Side,
    rows: Int64[ndarray, " n"],
    flip_test: bool,
    display: Display,
    what: str,
) -> Part:
    """Returns features of the readable `rows`; adds the others to `side.bad`."""
    loader = EvaluationLoader(side.index.take(rows), run.data, run.device, skip_bad=True)
    with display.progress(what) as progress:
        features = extract_features(run.network, loader, progress, flip_test).cpu().numpy()
    bad = loader.source.bad
    side.bad.update({int(rows[row]): reason for row, reason in bad.items()})
    return Part.of(np.delete(rows, list(bad)), features)


def _paths(index: Index, rows: Iterable[int]) -> list[bytes]:
    """Returns the absolute path of each row's file."""
    prefix = os.fsencode(os.path.join(os.path.abspath(index.root), ""))
    paths = index.paths.tolist()
    return [prefix + paths[row] for row in rows]


def gallery_features(
    run: TrainedRun, gallery: Side, display: Display, cache: Path, flip_test: bool
) -> tuple[list[Part], int]:
    """Returns features of all readable gallery images, and of how many the cache had none."""
    with display.progress("reading") as progress:
        paths = _paths(gallery.index, range(len(gallery.index)))
        digests, bad = digests_of(paths, cache, display.note, progress)
    gallery.bad.update(bad)
    if run.network.needs_modality:  # the features depend on it
        digests[:, -1] = gallery.index.modality
    keys = digests.view(f"V{DIGEST}")[:, 0].tolist()
    rows = np.array([row for row in range(len(keys)) if row not in bad], np.int64)
    wanted: dict[bytes, int] = {}  # the first row of each content
    first = np.array([wanted.setdefault(keys[row], row) for row in rows.tolist()], np.int64)
    folder = cache / feature_cache.key_of(run, flip_test)
    parts = list(feature_cache.load(folder, wanted, display.note))
    missing = list(wanted.items())
    for start in range(0, len(missing), CHUNK):
        some = missing[start : start + CHUNK]
        parts.append(_embed_new(run, gallery, some, flip_test, display, folder))
    is_copy = first != rows
    copies = dict(zip(rows[is_copy].tolist(), first[is_copy].tolist(), strict=True))
    gallery.bad.update({row: gallery.bad[of] for row, of in copies.items() if of in gallery.bad})
    parts = [_with_copies(part, copies) for part in parts if len(part.rows)]
    new = set(wanted.values()) - gallery.bad.keys()
    return parts, len(new) + sum(of in new for of in copies.values())


def _with_copies(part: Part, copies: dict[int, int]) -> Part:
    """Returns the part with `copies`, row → earlier row of the same content, that it covers."""
    place = {row: i for i, row in enumerate(part.rows.tolist())} if copies else {}
    more = [(place[of], row) for row, of in copies.items() if of in place]
    if not more:
        return part
    chosen, rows = np.array(more, np.int64).T
    return part.take(
        np.concatenate([np.arange(len(part.rows)), chosen]), np.concatenate([part.rows, rows])
    )


def _embed_new(
    run: TrainedRun,
    gallery: Side,
    contents: list[tuple[bytes, int]],
    flip_test: bool,
    display: Display,
    folder: Path,
) -> Part:
    """Embeds an image, a row of the gallery, of each content and caches the features."""
    rows = np.array([row for _, row in contents])
    paths = _paths(gallery.index, rows.tolist())
    before, _ = states_of(paths)
    made = _embed(run, gallery, rows, flip_test, display, "embedding")
    after, _ = states_of(paths)
    # Otherwise the file changed while it was embedded.
    is_same = (before == after).all(axis=1) & (after[:, CHANGED] > 0)
    is_made = np.isin(rows, made.rows)
    digests = [contents[i][0] for i in np.flatnonzero(is_made & is_same)]
    which = np.flatnonzero(is_same[is_made])
    feature_cache.store(folder, digests, made.take(which, which), display.note)
    return made
