"""Writes the results of `cdp search`: a self-contained page of pictures and a CSV of all ranks."""

import csv
import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from rich.filesize import decimal

from pipeline.datasets.table import UNKNOWN
from pipeline.errors import BadImageError, InputError
from pipeline.guard import Flaw, decode
from pipeline.reader import Reader
from train import run_folder
from train.evaluation.feature_cache import prune
from train.evaluation.options import USUAL_SEARCH, SearchOptions
from train.evaluation.search import Found, read_side, search
from train.evaluation.trained import TrainedRun, images_of, open_run
from train.live.display import Display
from train.reporting.distances import LABELS
from train.reporting.page import Markup, Section, element, facts, joined, page, picture
from train.reporting.retrieval import thumbnail

PAGE, RANKS, BAD = "index.html", "ranks.csv", run_folder.BAD_IMAGES
MAX_PICTURES = 4000  # on a page, about 16 MB
CACHE = "search-cache"  # in a run folder

Progress = Callable[[int, int], None]


def search_run(
    run_dir: Path,
    query: Sequence[Path],
    gallery: Sequence[Path],
    out: Path,
    display: Display,
    options: SearchOptions = USUAL_SEARCH,
    device_name: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Searches with a run's newest weights and writes the results to `out`; returns the page.

    Raises `InputError` as `check_folder`, `open_run`, `read_side` and `search` do.
    """
    check_folder(out, overwrite)
    run = open_run(run_dir, display, device_name=device_name)
    needed = run.network.needs_modality
    known = cache(lambda: images_of(run, display))  # read once, and only if needed
    queries = read_side("--query", query, options.query_modality, needed, known)
    images = read_side("--gallery", gallery, options.gallery_modality, needed, known)
    run_folder.make_parent(out / PAGE)
    folder, flip_test = options.cache or run_dir / CACHE, options.flip_test
    began = time.time()
    found = search(run, queries, images, display, folder, options.top, flip_test)
    removed = prune(folder, int(options.cache_gib * 2**30), began)
    with display.progress("pictures") as progress:
        write(found, run, flip_test, out, progress)
    _summarise(found, run, flip_test, out, folder, display)
    if removed:
        display.note(f"removed {decimal(removed)} of features not used lately from {folder}")
    return out / PAGE


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises `InputError` if `folder` holds something that a search must not overwrite."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    for file in (folder / PAGE, folder / BAD):
        if file.exists() and not (folder / RANKS).exists():
            raise InputError(f"--out {folder}: holds {file.name} of something else; name another")
    if not overwrite:
        raise InputError(
            f"--out {folder}: is not empty; name another folder, or pass --overwrite to replace "
            "the search in it"
        )


def _summarise(
    found: Found, run: TrainedRun, flip_test: bool, out: Path, cache: Path, display: Display
) -> None:
    """Prints what was left out, a line about the gallery, and a line per query."""
    for option, side in (("--query", found.query), ("--gallery", found.gallery)):
        if side.left_out:
            each = (f"{len(p)} {reason}, such as {p[0]}" for reason, p in side.left_out.items())
            display.note(f"left out in the folders of {option}: {'; '.join(each)}")
        if side.bad:
            row, reason = min(side.bad.items())
            display.note(
                f"{len(side.bad)} of {len(side.index)} images of {option} cannot be read, such "
                f"as {side.index.path(row)}: {reason}; {out / BAD} lists them"
            )
    cached = found.num_searched - found.num_embedded
    how = " (flip-test)" if flip_test else ""
    display.say(
        f"gallery   {found.num_searched} images{how}: {found.num_embedded} embedded, {cached} from "
        f"{cache}"
    )
    index = found.gallery.index
    for query, hits, distances in zip(found.queries, found.hits, found.distances, strict=True):
        pid = index.pids[hits[0]]
        who = "" if pid == UNKNOWN else f", pid {pid}"
        display.say(
            f"query     {found.query.index.path(query)}: nearest {index.path(hits[0])}{who}, "
            f"{run.cfg.distance} distance {distances[0]:.4g}"
        )
    display.say(f"page      {out / PAGE}")


def write(found: Found, run: TrainedRun, flip_test: bool, folder: Path, progress: Progress) -> None:
    """Writes page and CSV, and a list of the images that cannot be read, if any.

    Replaces those of an earlier search; leaves other files in the folder unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bad = _bad_images(found)
    if bad:
        run_folder.write(folder / BAD, _bytes(bad))
    else:
        (folder / BAD).unlink(missing_ok=True)
    run_folder.write(folder / RANKS, _bytes(_ranks(found)))
    html = _page(found, run, flip_test, progress)
    run_folder.write(folder / PAGE, html.encode(errors="backslashreplace"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names may not be UTF-8


def _bad_images(found: Found) -> str:
    return "".join(
        f"{side.index.path(row)}\t{reason}\n"
        for side in (found.query, found.gallery)
        for row, reason in sorted(side.bad.items())
    )


def _ranks(found: Found) -> str:
    """Returns `query,rank,path,distance`, with pid and camid if the gallery's CSV has any."""
    index = found.gallery.index
    known = {
        name: numbers
        for name, numbers in (("pid", index.pids), ("camid", index.camids))
        if (numbers != UNKNOWN).any()
    }
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("query", "rank", "path", "distance", *known))
    for query, hits, distances in zip(found.queries, found.hits, found.distances, strict=True):
        path = found.query.index.path(query)
        for rank, (hit, distance) in enumerate(zip(hits, distances, strict=True), start=1):
            more = ("" if n[hit] == UNKNOWN else str(n[hit]) for n in known.values())
            lines.writerow((path, rank, index.path(hit), f"{distance:.7g}", *more))
    return text.getvalue()


def _page(found: Found, run: TrainedRun, flip_test: bool, progress: Progress) -> str:
    top = found.hits.shape[1]
    num_shown = min(len(found.queries), max(1, MAX_PICTURES // (top + 1)))
    flipped = ", features averaged over each image and its mirror image" if flip_test else ""
    what = (
        ("run", f"{run.weights.resolve().parents[1].name}, {run.weights.name}"),
        ("gallery", f"{found.num_searched} images searched"),
        ("order", f"{LABELS[run.cfg.distance]}{flipped}; nearest first"),
    )
    notes = []
    if found.query.bad or found.gallery.bad:
        number = len(found.query.bad) + len(found.gallery.bad)
        notes.append(f"{number} images cannot be read and are left out; {BAD} lists them.")
    if num_shown < len(found.queries):
        notes.append(
            f"The first {num_shown} of {len(found.queries)} queries; {RANKS} lists all of them."
        )
    header = joined(
        [
            element("h1", "Search"),
            facts(what),
            *(element("p", note, class_="note") for note in notes),
        ]
    )
    lead = (
        f"Each query with the {top} nearest of {found.num_searched} gallery images. Below a "
        "picture: its rank, its distance to the query, and its folder and file; a click opens it."
    )
    sides = (found.query, found.gallery)
    readers = [Reader(side.index, run.data.range_16bit) for side in sides]
    with ThreadPoolExecutor(8) as threads:
        articles = []
        for i in range(num_shown):
            articles.append(_article(found, i, readers, threads))
            progress(i + 1, num_shown)
    return page("cdp search", header, [Section("results", "Results", lead, more=joined(articles))])


def _thumbnail(reader: Reader, row: int, alt: str) -> Markup:
    try:
        (content,) = reader.contents(np.array([row]))
        decoded = decode(content)
    except BadImageError as error:  # the file has changed since it was embedded
        decoded = Flaw("changed", error.reason)
    if isinstance(decoded, Flaw):
        return element("span", f"no picture: {decoded.text}", class_="missing")
    jpeg, width, height = thumbnail(decoded)
    return picture(jpeg, alt, width, height)


def _article(
    found: Found, i: int, readers: Sequence[Reader], threads: ThreadPoolExecutor
) -> Markup:
    """Returns a query and its hits, marked as right or wrong if both pids are known."""
    query, gallery = found.query.index, found.gallery.index
    row, hits = int(found.queries[i]), found.hits[i].tolist()
    name = query.path(row).name
    alts = [f"rank {rank}: {gallery.path(hit).name}" for rank, hit in enumerate(hits, start=1)]
    pid = query.pids[row]
    shown = threads.map(lambda *of: _thumbnail(readers[1], *of), hits, alts)
    items = []
    for rank, (hit, distance, image) in enumerate(
        zip(hits, found.distances[i].tolist(), shown, strict=True), start=1
    ):
        of = gallery.pids[hit]
        verdict, mark = "", ""
        if UNKNOWN not in (pid, of):
            verdict, mark = ("right", "✓ ") if pid == of else ("wrong", "✗ ")
        who = [] if of == UNKNOWN else [f"{mark}pid {of}"]
        who += [] if gallery.camids[hit] == UNKNOWN else [f"cam {gallery.camids[hit]}"]
        path = gallery.path(hit)
        items.append(
            element(
                "li",
                element("a", image, href=path.as_uri()),
                element("span", element("b", str(rank)), f" {distance:#.3g}"),
                *(element("span", words) for words in who),
                element("span", f"{path.parent.name}/", class_="name"),
                element("span", path.name, class_="name"),
                title=os.fsencode(path).decode(errors="backslashreplace"),
                **({"class_": verdict} if verdict else {}),
            )
        )
    asked = element(
        "figure",
        _thumbnail(readers[0], row, f"query {name}"),
        element("figcaption", "query" if pid == UNKNOWN else f"query, pid {pid}"),
        class_="query",
    )
    return element(
        "article",
        element("h3", str(query.path(row))),
        element("div", asked, element("ol", *items), class_="search"),
    )
