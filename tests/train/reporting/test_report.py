"""The page of `cdp report`: complete, self-contained, accessible and correct."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.front_door import SMALL, call, refused
from train import run_folder, runs
from train.dhsm import DhsmOptions
from train.divergence import COLLAPSED
from train.evaluation.trained import embed_test, open_run
from train.live.board import scalars
from train.live.display import Display
from train.replay import BATCH
from train.reporting.curves import colours_of, spectra
from train.reporting.distances import pair_distances
from train.reporting.report import _notes
from train.reporting.retrieval import some_searches
from train.reporting.tsne import in_plane, of_some_people

VOID = {"img", "meta"}
SECTIONS = [
    *("figures", "retrieval", "losses", "spectra", "distances", "plane", "searches", "speed"),
    "configuration",
]
CHARTS = [
    *("accuracy", "cmc", "loss", "lr", "probability", "confidence", "distances-within"),
    *("distances-across", "plane", "throughput", "data-wait", "seconds"),
]


@dataclass
class Node:
    """An element with its content."""

    tag: str
    attributes: dict[str, str | None]
    children: list["Node | str"] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> Iterator["Node"]:
        for child in self.children:
            if isinstance(child, Node):
                wanted = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items()}
                if tag in ("", child.tag) and wanted.items() <= child.attributes.items():
                    yield child
                yield from child.all(tag, **attributes)

    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text() for c in self.children)


class Reader(HTMLParser):
    """Builds the tree; an element that is not closed, or closed twice, fails."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("", {})]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(page: Path) -> Node:
    reader = Reader()
    reader.feed(page.read_text())
    assert len(reader.open) == 1
    return reader.open[0]


def cells(table: Node) -> list[list[str]]:
    return [[c.text() for c in row.children] for row in table.all("tr")]


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(more_people, tmp_path_factory) -> Path:
    """A finished run with its report; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "a <b>run</b> & more"
    args = ["--data.root", more_people, "--run-dir", folder, *SMALL, "--tensorboard"]
    args += ["--eval-every", "1", "--optimizer.milestones", "0.5"]
    assert call("train", "demo", *args) == 0
    assert call("report", folder, "--device", "cpu") == 0
    return folder


@pytest.fixture(scope="module")
def page(run) -> Node:
    return read(run / "report" / "index.html")


@pytest.fixture(scope="module")
def embedded(run):
    return embed_test(open_run(run, Display(), device_name="cpu"), Display())


def test_the_page_has_no_external_resources(run, page):
    text = (run / "report" / "index.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    for node in page.all():
        assert node.tag not in ("script", "link", "iframe", "object", "base")
        assert not [name for name in node.attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (node.attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))


def test_every_section_and_chart_is_there_once(run, page):
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    assert [section.attributes["id"] for section in page.all("section")] == SECTIONS
    links = {a.attributes["href"] for a in next(page.all("nav")).all("a")}
    assert links == {f"#{name}" for name in SECTIONS}
    assert [f.attributes["id"] for f in page.all("figure", class_="chart")] == [
        f"chart-{name}" for name in CHARTS
    ]
    for name in CHARTS:
        with Image.open(run / "report" / f"{name}.png") as image:
            assert min(image.size) > 300
    pointed_at = set(
        re.findall(r"(?:url\(|href=\")#([\w-]+)", (run / "report/index.html").read_text())
    )
    assert pointed_at <= set(ids)


def test_every_picture_and_chart_has_a_text_alternative(page):
    pictures = [*page.all("img"), *page.all("svg")]
    assert len(pictures) > 40
    for picture in page.all("img"):
        assert picture.attributes["alt"]
    for drawing in page.all("svg"):
        assert drawing.attributes["role"] == "img"
        assert len(drawing.attributes["aria-label"] or "") > 30
        assert next(drawing.all("title")).text() == drawing.attributes["aria-label"]
    loss = next(next(page.all("figure", id="chart-loss")).all("svg"))
    assert re.search(r"total from \d", loss.attributes["aria-label"])


def test_charts_take_the_pages_colours(page):
    for drawing in page.all("svg"):
        styles = " ".join(node.attributes.get("style") or "" for node in drawing.all())
        assert "var(--ink)" in styles or "var(--quiet)" in styles
        assert not re.search(r"(fill|stroke): #(?!fff)", styles)


def test_names_are_escaped(run, page):
    assert next(page.all("h1")).text() == run.name
    assert not list(page.all("b"))


def test_the_table_shows_the_result(run, page):
    result = json.loads((run / "result.json").read_text())
    head, *rows = cells(next(next(page.all("section", id="figures")).all("table")))
    assert head == ["mode", "rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP", "chance"]
    names = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP")
    assert [row[1:] for row in rows] == [
        [f"{mode[n]:.1f}± {mode['std'][n]:.1f}" for n in names] + [f"{mode['chance_rank1']:.1f}"]
        for mode in result["modes"]
    ]
    assert [row[0].startswith(m["protocol"]) for row, m in zip(rows, result["modes"], strict=True)]
    tiles = next(page.all("dl", class_="tiles")).all("dd")
    main = ("rank1", "mAP", "mINP", "chance_rank1")
    assert [dd.text().split("±")[0] for dd in tiles] == [f"{result[name]:.1f}" for name in main]


def test_the_cmc_curve_matches_the_results_ranks(run, page):
    result = json.loads((run / "result.json").read_text())
    rows = cells(next(next(page.all("details", id="cmc-numbers")).all("table")))
    assert [row[0] for row in rows] == ["rank", *map(str, range(1, 21))]
    for column, mode in enumerate(result["modes"], start=1):
        assert mode["protocol"].endswith(rows[0][column])
        values = [float(row[column]) for row in rows[1:]]
        assert values == sorted(values)
        for rank in (1, 5, 10, 20):
            assert rows[rank][column] == f"{mode[f'rank{rank}']:.1f}"


def test_searches_follow_the_protocol_and_are_marked_correctly(page, embedded):
    """SYSU-MM01's rule by brute force: ignores gallery images from the query's location."""
    index, features = embedded.protocol.index, embedded.features.double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    gallery = np.sort(embedded.protocol.modes[0].trials[0].gallery)
    searches = some_searches(embedded.features, embedded.protocol, "cosine", seed=0)
    articles = list(page.all("article"))
    assert len(articles) == len(searches) == 6
    firsts = [search.first_right == 1 for search in searches]
    assert firsts == sorted(firsts, reverse=True)
    for search, article in zip(searches, articles, strict=True):
        pid, camid = index.pids[search.query], index.camids[search.query]
        place = np.where(index.camids == 3, 2, index.camids)
        counted = gallery[place[gallery] != place[search.query]]
        assert search.num_ranked == len(counted)
        far = 1 - features[counted] @ features[search.query]
        order = counted[np.argsort(far, kind="stable")]
        found = index.pids[order] == pid
        assert search.first_right == np.flatnonzero(found)[0] + 1
        distance = dict(zip(counted, far, strict=True))
        assert [distance[r] for r in search.hits] == pytest.approx(
            [distance[r] for r in order[:10]], abs=1e-6
        )  # ties may be in any order
        alts = [image.attributes["alt"] for image in article.all("img")]
        assert alts[0] == f"query, pid {pid}, camera {camid}, infrared"
        for rank, (row, alt, hit) in enumerate(
            zip(search.hits, alts[1:], article.all("li"), strict=True), start=1
        ):
            right = index.pids[row] == pid
            verdict, mark = ("right", "✓") if right else ("wrong", "✗")
            assert alt == f"rank {rank}: pid {index.pids[row]}, {verdict}"
            assert hit.attributes["class"] == verdict
            assert hit.text() == f"{mark} {index.pids[row]}"


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_pairs_equal_those_of_two_loops(distance, monkeypatch):
    monkeypatch.setattr("train.reporting.distances.BLOCK", 7)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((23, 5)).astype(np.float32)
    pids, modality = rng.integers(4, size=23), rng.integers(2, size=23).astype(np.uint8)
    expected: dict[tuple[bool, bool], list[float]] = {}
    for i in range(23):
        for j in range(i):
            a, b = features[i].astype(float), features[j].astype(float)
            cos = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            value = np.linalg.norm(a - b) if distance == "euclidean" else 1 - cos
            kind = (bool(modality[i] != modality[j]), bool(pids[i] == pids[j]))
            expected.setdefault(kind, []).append(value)
    found = pair_distances(torch.from_numpy(features), pids, modality, distance)
    assert set(found) == {"within", "across"}
    for name, pairs in found.items():
        same, different = expected[name == "across", True], expected[name == "across", False]
        assert np.sort(pairs.same) == pytest.approx(np.sort(same), abs=1e-5)
        assert np.sort(pairs.different) == pytest.approx(np.sort(different), abs=1e-5)
        assert np.histogram(pairs.same, pairs.edges())[0].sum() == len(same)
        assert np.histogram(pairs.different, pairs.edges())[0].sum() == len(different)
        closer = np.mean([[s < d for d in different] for s in same])
        assert pairs.share_in_order() == pytest.approx(closer)


def test_t_sne_shows_each_original_once_and_a_counterpart_of_each_rgb(page, embedded):
    people = of_some_people(embedded.protocol.index, seed=0)
    rgb, infrared = (
        sum(min(8, ((people.pids == pid) & (people.modality == m)).sum()) for pid in pids)
        for pids in [np.unique(people.pids)]
        for m in (0, 1)
    )
    drawing = next(next(page.all("figure", id="chart-plane")).all("svg"))
    images = f"{2 * rgb + infrared} images ({rgb} RGB, {infrared} infrared, {rgb} generated"
    assert images in (drawing.attributes["aria-label"] or "")


def test_an_unfinished_run_gets_a_partial_report(run, tmp_path, capsys):
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(run / "config.json", half)
    first = next(r for r in records(run) if r["event"] == "epoch")
    first |= {"probability": {}, "confidence": {}}  # a run without counterparts
    (half / "metrics.jsonl").write_text(json.dumps(first) + '\n{"event": "epo')
    capsys.readouterr()
    assert call("report", half, "--out", tmp_path / "elsewhere") == 0
    page = read(tmp_path / "elsewhere" / "index.html")
    assert str(tmp_path / "elsewhere" / "index.html") in capsys.readouterr().out
    assert not (half / "report").exists()
    names = [section.attributes["id"] for section in page.all("section")]
    assert names == ["losses", "spectra", "speed", "configuration"]
    notes = " ".join(note.text() for note in page.all("p", class_="note"))
    assert f"State: interrupted; resume with cdp train --resume {half}." in notes
    assert "method" in next(page.all("dl")).text()
    assert "holds no checkpoint" in notes
    assert "made no counterparts" in next(page.all("section", id="spectra")).text()


@pytest.mark.parametrize(
    ("file", "epoch", "expected"),
    [
        (BATCH, 2, "State: diverged; the loss became NaN"),
        (COLLAPSED, 1, "State: collapsed; all features became one point"),
        (COLLAPSED, 0, "State: interrupted; resume with"),  # it was resumed, and recovered
    ],
)
def test_the_report_and_the_list_of_runs_agree_on_the_state(run, tmp_path, file, epoch, expected):
    folder = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report")))
    (folder / "result.json").unlink()
    first = next(r for r in records(run) if r["event"] == "epoch")
    (folder / "metrics.jsonl").write_text(json.dumps(first) + "\n")
    (folder / file).write_text(json.dumps({"epoch": epoch}))
    (note,) = _notes(run_folder.read_config(folder), runs.describe(folder), None)
    assert note.startswith(expected)


@pytest.mark.usefixtures("no_charts")
def test_missing_data_is_a_note_but_a_wrong_data_root_is_rejected(run, tmp_path, capsys):
    unused = shutil.ignore_patterns("report", "tensorboard", "metrics.jsonl")
    moved = shutil.copytree(run, tmp_path / "run", ignore=unused)
    config = json.loads((moved / "config.json").read_text())
    config["data"]["root"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    assert call("report", moved) == 0
    page = read(moved / "report" / "index.html")
    notes = " ".join(note.text() for note in page.all("p", class_="note"))
    assert f"cdp report {moved} --data-root DIR" in notes
    assert next(page.all("section", id="figures"))
    assert "no such folder" in refused(capsys, "report", moved, "--data-root", tmp_path / "gone")


def test_ten_trainings_are_listed_with_their_reports(run, tmp_path):
    folder = tmp_path / "all"
    (folder / "trial-01" / "report").mkdir(parents=True)
    (folder / "trial-01" / "report" / "index.html").write_text("")
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"kind": "regdb", "trial": "all"}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("config.json", "metrics.jsonl", "result.json"):
        shutil.copy(run / name, folder / "trial-01")
    assert call("report", folder) == 0
    page = read(folder / "report" / "index.html")
    _, *rows = cells(next(next(page.all("section", id="trials")).all("table")))
    assert [row[0] for row in rows] == [f"trial-{n:02d}" for n in range(1, 11)]
    assert rows[1][1:] == ["–", "–", "–", f"cdp report {folder}/trial-02"]
    link = next(next(page.all("section", id="trials")).all("a")).attributes["href"]
    assert (folder / "report" / (link or "")).resolve() == folder / "trial-01/report/index.html"
    assert f"cdp train --resume {folder}" in next(page.all("p", class_="note")).text()


def test_wrong_use_gives_one_line(run, tmp_path, capsys, monkeypatch):
    assert "is not a run folder" in refused(capsys, "report", tmp_path)
    assert "--seed -1" in refused(capsys, "report", run, "--seed", "-1")
    (tmp_path / "file").write_text("")
    assert "cannot create" in refused(capsys, "report", run, "--out", tmp_path / "file" / "there")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "matplotlib and scikit-learn; uv sync" in refused(capsys, "report", run)


def test_a_damaged_metrics_file_is_named(run, tmp_path, capsys):
    shutil.copy(run / "config.json", tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}}\n")
    assert "metrics.jsonl: line 1" in refused(capsys, "report", tmp_path)


def test_spectra_of_any_name_have_distinct_colours():
    names = ["R", "X", "yuv.U", "hsv.H", "B"]
    colours = colours_of(names)
    assert (colours["R"], colours["X"], colours["B"]) == ("red", "gray", "blue")
    assert len({colours[name] for name in names}) == 5
    values = dict.fromkeys(names, 0.2)
    record = {"epoch": 1, "probability": values, "confidence": values}
    section = spectra([record], DhsmOptions(enabled=False))
    assert [chart.name for chart in section.charts] == ["probability", "confidence"]
    assert all(name in section.charts[0].alt for name in names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DhsmOptions(), "Hard spectra, those with low R, are drawn more often (DHSM, α = 0.1)"),
        (DhsmOptions(prefer="easy"), "Easy spectra, those with high R, are drawn more often"),
        (DhsmOptions(enabled=False), "DHSM was off"),
    ],
)
def test_the_page_says_which_spectra_were_drawn_more_often(options, said):
    record = {"epoch": 3, "probability": {"R": 0.4, "X": 0.6}, "confidence": {"R": 0.5, "X": 0.7}}
    section = spectra([record], options)
    assert said in section.lead
    assert ("In epoch 3, X was most likely, 0.60." in section.lead) == options.enabled


def events_of(run: Path) -> dict[tuple[str, int], float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return {(t, e.step): e.value for t in board.Tags()["scalars"] for e in board.Scalars(t)}


def test_tensorboard_holds_every_number_of_every_record(run):
    expected = {
        (f"{record['event']}/{name}", record["epoch"]): pytest.approx(value, rel=1e-6)
        for record in records(run)
        for name, value in scalars(record)
    }
    found = events_of(run)
    assert found == expected
    assert ("epoch/probability/R", 2) in found
    assert ("eval/std/mAP", 2) in found


def test_a_resumed_run_overrides_its_tensorboard_events(tmp_path):
    from train.live.board import opened

    for first, loss in ((1, 10.0), (2, 20.0)):  # epochs 1-3, then again from epoch 2
        with opened(tmp_path, asked=True) as show:
            for epoch in range(first, 4):
                show({"event": "epoch", "epoch": epoch, "loss": loss + epoch})
    losses = {step: value for (_, step), value in events_of(tmp_path).items()}
    assert losses == {1: 11.0, 2: 22.0, 3: 23.0}


def test_without_tensorboard_the_run_does_not_start(people, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    args = ("train", "demo", "--data.root", people, "--run-dir", tmp_path / "run", *SMALL)
    assert "needs tensorboard; uv sync" in refused(capsys, *args, "--tensorboard")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e-30])
def test_collapsed_features_are_one_place_in_the_plane(scale):
    """Of which scikit-learn makes NaN, and then a segmentation fault."""
    features = np.full((24, 8), scale, np.float32)
    assert not in_plane(features, seed=0).any()
    features[:, 0] *= np.arange(24)
    if scale:  # however small they are, what differs is drawn
        assert np.ptp(in_plane(features, seed=0), axis=0).min() > 0
