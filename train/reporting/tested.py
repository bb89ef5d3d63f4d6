"""The report's sections made from the newest checkpoint's features of the test images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from pipeline.datasets.records import Modality
from pipeline.errors import BadImageError
from pipeline.guard import Flaw, decode
from pipeline.reader import Reader
from train.evaluation.evaluate import figures, rank_modes
from train.evaluation.trained import TestedRun
from train.metrics import Distance
from train.reporting.charts import DASHES, Line, histograms, lines, scatter
from train.reporting.distances import LABELS, Pairs, choose_rows, pair_distances
from train.reporting.drawing import SERIES, Chart
from train.reporting.page import Markup, Section, element, folded, joined, picture, table
from train.reporting.retrieval import Search, some_searches, thumbnail
from train.reporting.tsne import KINDS, NUM_PEOPLE, of_some_people, plane

MODALITY_NAMES = {Modality.RGB: "RGB", Modality.IR: "infrared"}
PAIR_NAMES = {"within": "within a modality", "across": "across modalities"}
SHOWN_RANKS = (1, 5, 10, 20)


def ranked(
    run: TestedRun, distance: Distance
) -> tuple[dict[str, Any], dict[str, Float64[ndarray, " ranks"]]]:
    """Returns figures in the form of `result.json`, and each mode's mean CMC in percent."""
    rankings = rank_modes(run.features, run.protocol, distance)
    curves = {
        mode.name: 100 * np.mean([ranking.cmc for ranking in of_mode], axis=0)
        for mode, of_mode in zip(run.protocol.modes, rankings, strict=True)
    }
    return figures(rankings, run.protocol, distance), curves


def cmc_chart(curves: Mapping[str, Float64[ndarray, " ranks"]]) -> tuple[Chart, Markup]:
    """Returns CMC curves, and the same numbers as a folded table."""
    drawn = [
        Line(
            mode,
            range(1, len(cmc) + 1),
            cmc.tolist(),
            SERIES[(2 + i) % len(SERIES)],
            DASHES[i % len(DASHES)],
        )
        for i, (mode, cmc) in enumerate(curves.items())
    ]
    alt = "CMC curves, percent of queries: " + "; ".join(
        f"{mode}: " + ", ".join(f"rank {k} {cmc[k - 1]:.1f}" for k in SHOWN_RANKS)
        for mode, cmc in curves.items()
    )
    chart = Chart(
        "cmc",
        "CMC: right image among the first k",
        lines(drawn, "rank k", "queries, %", x_ticks=(1, 5, 10, 15, 20)),
        alt,
    )
    rows = [
        (str(k), *(f"{cmc[k - 1]:.1f}" for cmc in curves.values()))
        for k in range(1, len(drawn[0].x) + 1)
    ]
    numbers = table("CMC of each mode", ("rank", *curves), rows)
    return chart, folded("CMC as numbers", numbers, id="cmc-numbers")


def distance_section(run: TestedRun, distance: Distance, seed: int) -> Section:
    """Returns histograms of the distances of same-person and different-people pairs."""
    index = run.protocol.index
    rows = choose_rows(index.pids, seed)
    found = pair_distances(run.features[rows], index.pids[rows], index.modality[rows], distance)
    charts = tuple(_histogram(name, pairs, LABELS[distance]) for name, pairs in found.items())
    orders = " and ".join(
        f"{100 * pairs.share_in_order():.1f}\u00a0% of cases {PAIR_NAMES[name]}"
        for name, pairs in found.items()
    )
    sample = (
        f"All {len(rows)} test images"
        if len(rows) == len(index)
        else f"{len(rows)} of {len(index)} test images, of people drawn with seed {seed}"
    )
    lead = (
        f"{sample}, each pair once. The less the two kinds overlap, the better: a random pair of "
        f"one person is closer than one of two people in {orders} (50\u00a0% would be chance)."
        if found
        else "The test images lack pairs of the same person or of different people to compare."
    )
    return Section("distances", "Distances", lead, charts)


def _histogram(name: str, pairs: Pairs, label: str) -> Chart:
    edges = pairs.edges()
    groups = {
        "same person": (pairs.same, "blue"),
        "different people": (pairs.different, "orange"),
    }
    counted = {key: (np.histogram(v, edges)[0], colour) for key, (v, colour) in groups.items()}
    alt = f"Histogram of the {label} {PAIR_NAMES[name]}: " + "; ".join(
        f"{key}: {len(v)} pairs, median {np.median(v):.3f}" for key, (v, _) in groups.items()
    )
    figure = histograms(counted, edges, label)
    return Chart(f"distances-{name}", f"Distances {PAIR_NAMES[name]}", figure, alt)


def plane_section(run: TestedRun, distance: Distance, seed: int) -> Section:
    """Returns a t-SNE plot of a few people."""
    people = of_some_people(run.protocol.index, seed)
    number = len(np.unique(people.pids))
    if number < 2:
        lead = "Fewer than two test identities have both RGB and infrared images."
        return Section("plane", "t-SNE", lead)
    points = plane(run.trained.network, people, run.trained.data, distance, seed)
    shares = ", ".join(f"{(points.kinds == k).sum()} {name}" for k, name in enumerate(KINDS))
    pids = ", ".join(map(str, np.unique(points.pids)))
    chart = Chart(
        "plane",
        f"t-SNE of {number} test identities",
        scatter(points.xy, points.pids, points.kinds, KINDS),
        f"t-SNE scatter plot of {len(points.pids)} images ({shares}) of the people {pids}",
    )
    lead = (
        f"t-SNE (seed {seed}) of images of {number} randomly drawn people whom the network has "
        "never seen, like the paper's Fig. 9: a good network puts all images of a person together, "
        "whether RGB, infrared or generated."
        + (f" The test has no more than {number}." if number < NUM_PEOPLE else "")
    )
    return Section("plane", "t-SNE", lead, (chart,))


def search_section(run: TestedRun, distance: Distance, seed: int) -> Section:
    """Returns example queries with their results as pictures."""
    searches = some_searches(run.features, run.protocol, distance, seed)
    num_hits = sum(search.first_right == 1 for search in searches)
    mode = f"{run.protocol.name} {run.protocol.modes[0].name}"
    lead = (
        f"Queries of {mode}, first trial, drawn with seed {seed}: {num_hits} whose first image is "
        f"right and {len(searches) - num_hits} whose first is wrong, regardless of how common each "
        "is; ✓ is the query's person, ✗ somebody else. Images that the protocol ignores are left "
        "out."
    )
    reader = Reader(run.protocol.index, run.trained.data.range_16bit)
    lists = joined(_search(reader, search) for search in searches)
    return Section("searches", "Searches", lead, more=lists)


def _search(reader: Reader, search: Search) -> Markup:
    index = reader.index

    def image(row: int, alt: str) -> Markup:
        (content,) = reader.contents(np.array([row]))
        decoded = decode(content)
        if isinstance(decoded, Flaw):
            raise BadImageError(index.path(row), row, decoded.text)
        jpeg, width, height = thumbnail(decoded)
        return picture(jpeg, alt, width, height)

    pid, camid = index.pids[search.query], index.camids[search.query]
    taken = MODALITY_NAMES[Modality(index.modality[search.query])]
    query = element(
        "figure",
        image(search.query, f"query, pid {pid}, camera {camid}, {taken}"),
        element("figcaption", "query"),
        class_="query",
    )
    hits = []
    for rank, (row, right) in enumerate(
        zip(search.hits.tolist(), search.right, strict=True), start=1
    ):
        verdict, mark = ("right", "✓") if right else ("wrong", "✗")
        found = index.pids[row]
        hits.append(
            element(
                "li",
                image(row, f"rank {rank}: pid {found}, {verdict}"),
                element("span", f"{mark} {found}"),
                class_=verdict,
            )
        )
    return element(
        "article",
        element(
            "h3",
            f"Pid {pid}, camera {camid}: first right image at rank {search.first_right} "
            f"of {search.num_ranked}",
        ),
        element("div", query, element("ol", *hits), class_="search"),
    )
