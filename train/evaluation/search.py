"""Searches a folder or list of images for those nearest to each query image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from pipeline.datasets.named import fill_modality, read_named
from pipeline.datasets.records import Index, Modality
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from train.evaluation import feature_cache
from train.evaluation.evaluate import extract_features
from train.evaluation.feature_cache import Part
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
    option: str, images: Sequence[Path], modality: Modality | None, needs_modality: bool
) -> Side:
    """Reads what `--query` or `--gallery` names: files, folders, or a CSV with a column `path`.

    `modality` applies to images without one in a CSV. Raises `InputError` as `read_named` does, and
    if the network needs a modality that is unknown.
    """
    named = read_named(images, columns=("path",))
    index = fill_modality(named.index, modality, needs_modality, f"{option}-modality")
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


def gallery_features(
    run: TrainedRun, gallery: Side, display: Display, cache: Path, flip_test: bool
) -> tuple[list[Part], int]:
    """Returns features of all readable gallery images, and how many were not in the cache."""
    paths = gallery.index.names()
    with display.progress("reading") as progress:
        digests, bad = feature_cache.digests_of(paths, cache, display.note, progress)
    gallery.bad.update(bad)
    wanted: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest is not None:
            if run.network.needs_modality:  # the features depend on it
                digest = digest[:-1] + bytes([gallery.index.modality[row]])
            wanted.setdefault(digest, []).append(row)
    folder = cache / feature_cache.key_of(run, flip_test)
    parts = list(feature_cache.load(folder, wanted, display.note))
    num_embedded = 0
    missing = list(wanted.items())
    for start in range(0, len(missing), CHUNK):
        some = missing[start : start + CHUNK]
        made = _embed_new(run, gallery, some, flip_test, display, folder)
        num_embedded += len(made.rows)
        parts.append(made)
    return [part for part in parts if len(part.rows)], num_embedded


def _embed_new(
    run: TrainedRun,
    gallery: Side,
    contents: list[tuple[bytes, list[int]]],
    flip_test: bool,
    display: Display,
    folder: Path,
) -> Part:
    """Embeds one image of each content and caches the features."""
    paths = [str(gallery.index.path(rows[0])) for _, rows in contents]
    before = feature_cache.tokens_of(paths)
    first = np.array([rows[0] for _, rows in contents])
    made = _embed(run, gallery, first, flip_test, display, "embedding")
    after = feature_cache.tokens_of(paths)
    where = {row: i for i, row in enumerate(made.rows.tolist())}
    chosen: list[int] = []
    rows_of: list[int] = []
    kept: list[tuple[bytes, int]] = []
    for (digest, rows), then, now in zip(contents, before, after, strict=True):
        i = where.get(rows[0])
        if i is None:
            gallery.bad.update(dict.fromkeys(rows, gallery.bad[rows[0]]))
            continue
        chosen += [i] * len(rows)
        rows_of += rows
        if then == now:  # otherwise the file changed while it was embedded
            kept.append((digest, i))
    if kept:
        which = np.array([i for _, i in kept])
        held = made.take(which, which)
        feature_cache.store(folder, [digest for digest, _ in kept], held, display.note)
    return made.take(np.array(chosen, np.int64), np.array(rows_of, np.int64))
