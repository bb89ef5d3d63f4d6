"""`cdp search`: correct ranks, features cached by content, and errors in one line."""

import csv
import os
import re
import shutil
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.options import ModelOptions
from pipeline.datasets.kinds import read_protocol
from pipeline.options import DataOptions
from tests.front_door import call, refused
from tests.untrained import make_run
from train.evaluation import known_files
from train.evaluation.feature_cache import Part
from train.evaluation.known_files import digests_of
from train.evaluation.nearest import nearest
from train.methods.base import Method
from train.metrics import distances


@pytest.fixture(scope="module")
def run(more_people, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, more_people, "sysu")
    return folder


@pytest.fixture
def gallery(more_people, tmp_path) -> Path:
    folder = tmp_path / "gallery"
    for person in sorted((more_people / "cam1").iterdir())[:12]:
        shutil.copytree(person, folder / person.name)
    return folder


@pytest.fixture
def queries(more_people) -> list[Path]:
    return sorted((more_people / "cam3").glob("*/0001.jpg"))[:2]


def lines_of(out: Path) -> list[dict[str, str]]:
    with (out / "ranks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def embedded(text: str) -> tuple[int, int]:
    """Returns how many gallery images a search embedded, and how many came from the cache."""
    found = re.search(r"gallery +\d+ images.*: (\d+) embedded, (\d+) from", text)
    assert found
    return int(found[1]), int(found[2])


def search(run: Path, gallery: Path, queries: list[Path], out: Path, capsys, *more) -> str:
    capsys.readouterr()
    args = ("--gallery", gallery, "--query", *queries, "--out", out, "--device", "cpu", *more)
    assert call("search", run, *args) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_ranks_are_those_of_all_distances_sorted(distance, more_people, gallery, tmp_path, capsys):
    run = tmp_path / "run"
    make_run(run, more_people, "sysu", distance=distance)
    queries = sorted((more_people / "cam6").glob("*/0002.jpg"))[:3]
    shutil.copytree(gallery / os.listdir(gallery)[0], gallery / "0000-again")  # ties
    printed = search(run, gallery, queries, tmp_path / "out", capsys, "--top", "1000")
    for file, images in (("q", queries), ("g", [gallery])):
        assert call("embed", run, *images, "--out", tmp_path / f"{file}.npz") == 0
    q, g = (np.load(tmp_path / f"{name}.npz") for name in "qg")
    a, b = (x["features"].astype(np.float64) for x in (q, g))
    if distance == "cosine":
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        expected = 1 - a @ b.T
    else:
        expected = np.linalg.norm(a[:, None] - b, axis=2)
    place = {path: i for i, path in enumerate(g["paths"].tolist())}
    lines = lines_of(tmp_path / "out")
    assert len(lines) == len(queries) * len(place)
    for i, query in enumerate(queries):
        mine = [line for line in lines if line["query"] == str(query)]
        assert [int(line["rank"]) for line in mine] == list(range(1, len(place) + 1))
        columns = [place[line["path"]] for line in mine]
        assert sorted(columns) == list(range(len(place)))
        found = np.array([float(line["distance"]) for line in mine])
        np.testing.assert_allclose(found, expected[i, columns], rtol=1e-3, atol=1e-5)
        for one, other in zip(range(len(found) - 1), range(1, len(found)), strict=True):
            assert found[one] < found[other] or columns[one] < columns[other]
        assert f"query     {query}: nearest {mine[0]['path']}, {distance} distance" in printed


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_short_cut_gives_what_comparing_all_gives(distance):
    rng = np.random.default_rng(0)
    for spread in (1.0, 1e-3, 1e-6, 0.0):  # from far apart to indistinguishable in float32
        features = (1 + spread * rng.standard_normal((300, 65))).astype(np.float32)
        features[7] = 0
        features[200:220] = features[100]  # equal images keep their order
        queries = np.concatenate([features[[0, 100]], rng.standard_normal((2, 65)), features[7:8]])
        queries = queries.astype(np.float32)
        order = rng.permutation(300)
        parts = [Part.of(rows, features[rows]) for rows in np.split(order, [3, 120])]
        all_of = distances(torch.from_numpy(queries), torch.from_numpy(features), distance).numpy()
        expected = np.argsort(all_of, axis=1, kind="stable")
        hits, found = nearest(queries, parts, 25, distance)
        np.testing.assert_array_equal(hits, expected[:, :25])
        squares = np.take_along_axis(all_of, hits, axis=1)
        shown = squares / 2 if distance == "cosine" else np.sqrt(squares)
        np.testing.assert_allclose(found, shown, rtol=1e-6)
    assert nearest(queries, parts, 1000, distance)[0].shape == (5, 300)


def test_only_new_content_is_embedded(run, gallery, queries, tmp_path, capsys):
    files = sorted(gallery.rglob("*.jpg"))
    num = len(files)
    cache = ("--cache", tmp_path / "cache", "--overwrite")
    out = tmp_path / "out"

    def again(gallery: Path = gallery, *more) -> tuple[int, int]:
        return embedded(search(run, gallery, queries, out, capsys, *cache, *more))

    assert again() == (num, 0)
    first = lines_of(out)
    assert again() == (0, num)
    assert lines_of(out) == first

    times = files[0].stat()
    old = files[0].read_bytes()
    Image.effect_noise((48, 96), 90).convert("RGB").save(files[0], quality=50)
    assert len(files[0].read_bytes()) < len(old)
    files[0].write_bytes(files[0].read_bytes().ljust(len(old), b"\0"))  # same size
    os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))  # and same times
    assert again() == (1, num - 1)
    assert lines_of(out) != first
    files[0].write_bytes(old)
    assert again() == (0, num)  # known content is back
    assert lines_of(out) == first

    moved = gallery.rename(tmp_path / "moved")
    assert again(moved) == (0, num)
    files[0] = moved / files[0].relative_to(gallery)
    shutil.copy(files[0], moved / "copy.jpg")
    assert again(moved) == (0, num + 1)
    assert again(moved, "--flip-test") == (num + 1, 0)  # other features
    assert "averaged over each image and its mirror image" in (out / "index.html").read_text()


def test_other_weights_do_not_share_features(run, more_people, gallery, queries, tmp_path, capsys):
    other = tmp_path / "other"
    make_run(other, more_people, "sysu", model=ModelOptions("test_resnet", "none", bnneck=False))
    cache = ("--cache", tmp_path / "cache", "--overwrite")
    num = len(list(gallery.rglob("*.jpg")))
    for which, expected in ((run, (num, 0)), (other, (num, 0)), (run, (0, num))):
        printed = search(which, gallery, queries, tmp_path / "out", capsys, *cache)
        assert embedded(printed) == expected


def test_a_damaged_cache_is_made_again(run, gallery, queries, tmp_path, capsys):
    cache = tmp_path / "cache"
    args = ("--cache", cache, "--overwrite")
    out = tmp_path / "out"
    search(run, gallery, queries, out, capsys, *args)
    first, num = lines_of(out), len(list(gallery.rglob("*.jpg")))
    (features,) = cache.glob("*/*.safetensors")
    (cache / "known-files").write_bytes(b"damaged")
    whole = features.read_bytes()
    damages = (
        whole[:-100],  # cut
        b"",
        whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:],  # a bit
        whole[: len(whole) // 2]
        + bytes([whole[len(whole) // 2] ^ 64])
        + whole[len(whole) // 2 + 1 :],
    )
    for content in damages:
        features.write_bytes(content)
        printed = search(run, gallery, queries, out, capsys, *args)
        assert re.search(rf"note +{features}: is damaged .*; its images are embedded", printed)
        assert embedded(printed) == (num, 0)
        assert lines_of(out) == first
    assert embedded(search(run, gallery, queries, out, capsys, *args)) == (0, num)


def test_what_was_used_least_recently_makes_room(run, gallery, queries, tmp_path, capsys):
    cache, out = tmp_path / "cache", tmp_path / "out"
    num = len(list(gallery.rglob("*.jpg")))

    def again(*more: str) -> str:
        return search(run, gallery, queries, out, capsys, "--cache", cache, "--overwrite", *more)

    again()
    (old,) = cache.glob("*/*.safetensors")
    (old.parent / "mine.safetensors").touch()  # not a name that a search gives
    os.utime(old, (1, 1))
    assert embedded(again("--cache-gib", "0")) == (0, num)  # this search uses it
    assert old.stat().st_mtime > 1
    os.utime(old, (1, 1))
    assert "removed" not in again("--flip-test")
    assert re.search(rf"note +removed .* from {cache}", again("--flip-test", "--cache-gib", "0"))
    assert not old.exists()
    assert (old.parent / "mine.safetensors").exists()
    assert embedded(again("--flip-test")) == (0, num)
    assert embedded(again()) == (num, 0)
    assert "--cache-gib -1.0: must be at least 0" in refused(
        capsys,
        "search",
        run,
        "--gallery",
        gallery,
        "--query",
        *queries,
        "--out",
        out,
        "--cache-gib",
        "-1",
    )


def test_only_so_many_files_are_remembered_besides_those_of_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(known_files, "MAX_FILES", 3)
    files = [tmp_path / f"{i}.jpg" for i in range(6)]
    for file in files:
        file.write_bytes(file.name.encode())
    paths = [os.fsencode(file) for file in files]
    monkeypatch.setattr(known_files, "SETTLED_NS", -(10**12))  # new as they are

    def num_read(paths: list[bytes]) -> int:
        read: list[int] = []
        digests, bad = digests_of(paths, tmp_path, print, lambda done, total: read.append(total))
        assert not bad
        for path, digest in zip(paths, digests, strict=True):
            content = Path(os.fsdecode(path)).read_bytes()
            assert digest.tobytes() == blake2b(content, digest_size=16).digest()
        return max(read, default=0)

    assert [num_read(paths[:2]), num_read(paths[1:3]), num_read(paths[:3])] == [2, 1, 0]
    assert [num_read(paths[2:6]), num_read(paths[2:6]), num_read(paths[:2])] == [3, 0, 2]
    files[0].write_bytes(b"other")
    assert num_read(paths[:1]) == 1


def test_a_cache_that_cannot_be_written_stops_nothing(run, gallery, queries, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    out = tmp_path / "out"
    printed = search(run, gallery, queries, out, capsys, "--cache", tmp_path / "cache")
    assert "cannot be written (" in printed
    assert (tmp_path / "cache").read_text() == "a file"
    assert len(lines_of(out)) == 20 * len(queries)


def test_images_that_cannot_be_read_are_left_out_and_listed(
    run, gallery, queries, tmp_path, capsys
):
    files = sorted(gallery.rglob("*.jpg"))
    files[3].write_bytes(b"no image at all")  # bad header
    files[5].write_bytes(files[5].read_bytes()[:300])
    png = gallery / "cut.png"
    Image.effect_noise((48, 96), 60).save(png)
    png.write_bytes(png.read_bytes()[:2000])  # intact header; only decoding fails
    (gallery / "notes.txt").write_text("no image")
    bad_query = tmp_path / "bad.jpg"
    bad_query.touch()
    out = tmp_path / "out"
    more = ("--top", "1000", "--cache", tmp_path / "cache", "--overwrite")
    for _ in range(2):
        printed = search(run, gallery, [bad_query, *queries], out, capsys, *more)
        assert f"3 of {len(files) + 1} images of --gallery cannot be read, such as " in printed
        assert f"1 of 3 images of --query cannot be read, such as {bad_query}: is empty" in printed
        assert "left out in the folders of --gallery: 1 no image file, such as" in printed
        listed = [line.split("\t")[0] for line in (out / "bad_images.tsv").read_text().splitlines()]
        assert sorted(listed) == sorted(map(str, [bad_query, files[3], files[5], png]))
        lines = lines_of(out)
        assert {line["query"] for line in lines} == set(map(str, queries))
        searched = {line["path"] for line in lines}
        assert searched == set(map(str, files)) - {str(files[3]), str(files[5])}
    assert embedded(printed) == (0, len(files) - 2)
    clean = search(run, queries[0].parent, queries, out, capsys, *more)
    assert "cannot be read" not in clean
    assert not (out / "bad_images.tsv").exists()


def test_a_csv_may_label_its_images(run, more_people, tmp_path, capsys):
    index = read_protocol(DataOptions(), more_people).index
    rgb, infrared = (index.take(np.flatnonzero(index.modality == m)) for m in (0, 1))
    out, file, asked = tmp_path / "out", tmp_path / "gallery.csv", tmp_path / "queries.csv"
    rows = [(rgb.path(i), rgb.pids[i], rgb.camids[i]) for i in range(12)]
    rows[4] = (rows[4][0], "", "")
    file.write_text("path,pid,camid\n" + "".join(f"{p},{i},{c}\n" for p, i, c in rows))
    asked.write_text(f"path,pid\n{infrared.path(0)},{rgb.pids[0]}\n")
    search(run, file, [asked], out, capsys)
    known = {str(path): (str(pid), str(camid)) for path, pid, camid in rows}
    lines = lines_of(out)
    assert len(lines) == 12
    for line in lines:
        assert (line["pid"], line["camid"]) == known[line["path"]]
    page = (out / "index.html").read_text()
    right = sum(str(rgb.pids[0]) == line["pid"] for line in lines)
    assert page.count('class="right"') == right > 0
    assert page.count('class="wrong"') == 11 - right
    file.write_text("path\n" + "".join(f"{path}\n" for path, _, _ in rows))
    search(run, file, [asked], out, capsys, "--overwrite")
    assert set(lines_of(out)[0]) == {"query", "rank", "path", "distance"}


def test_a_network_that_treats_modalities_differently_needs_them(
    more_people, gallery, queries, tmp_path, capsys
):
    run = tmp_path / "run"
    model = ModelOptions("test_resnet", "none", structure="two-stems")
    make_run(run, more_people, "sysu", method=Method(model=model))
    out = tmp_path / "out"
    args = ("--gallery", gallery, "--query", *queries, "--out", out, "--device", "cpu")
    line = refused(capsys, "search", run, *args, "--query-modality", "ir")
    assert "its modality is unknown and this run's network needs it (" in line
    assert "pass --gallery-modality rgb or ir, or a CSV with a column modality" in line
    assert not out.exists()
    # Images of the run's own data set have a known modality, which the user may overrule.
    own = sorted((more_people / "cam1").iterdir())[:2]
    read_from = ("--cache", tmp_path / "cache", "--overwrite")
    printed = [
        search(run, own[0], queries, out, capsys, *read_from, *more)
        for more in ((), ("--gallery-modality", "rgb"), ("--gallery-modality", "ir"))
    ]
    of_own = len(list(own[0].iterdir()))
    assert list(map(embedded, printed)) == [(of_own, 0), (0, of_own), (of_own, 0)]
    line = refused(capsys, "embed", run, gallery, "--out", tmp_path / "F.npz", "--device", "cpu")
    assert "pass --modality rgb or ir, or a CSV with a column modality" in line
    told = ("--query-modality", "ir", "--overwrite")
    num = len(list(gallery.rglob("*.jpg")))
    for modality, expected in (("rgb", (num, 0)), ("ir", (num, 0)), ("rgb", (0, num))):
        more = (*told, "--gallery-modality", modality)
        assert embedded(search(run, gallery, queries, out, capsys, *more)) == expected


def test_the_page_is_whole_and_needs_nothing_else(run, gallery, queries, tmp_path, capsys):
    odd = gallery / os.fsdecode(b"<b>&n\xff.jpg")  # HTML, and not UTF-8
    shutil.copy(queries[0], odd)
    out = tmp_path / "out"
    search(run, gallery, queries[:1], out, capsys, "--top", "7")
    html = (out / "index.html").read_text("utf-8")
    assert html.count("<li") == 7
    assert html.count('src="data:image/jpeg;base64,') == html.count("<img") == 8
    assert not re.search(r"<script|<link|src=\"(?!data:)|url\(", html)
    assert "&lt;b&gt;&amp;n\\xff.jpg" in html or "&lt;b&gt;&amp;n\\udcff.jpg" in html
    assert os.fsencode(odd) in (out / "ranks.csv").read_bytes()
    assert "rank 1: " in html
    assert "<b>1</b> 0.00" in html  # the query itself


def test_what_cannot_be_searched_gives_one_clear_line(run, gallery, queries, tmp_path, capsys):
    used, text, empty = tmp_path / "used", tmp_path / "notes.txt", tmp_path / "empty"
    used.mkdir()
    (used / "mine.txt").write_text("mine")
    text.write_text("no image")
    empty.mkdir()
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    table = tmp_path / "list.csv"
    table.write_text("pid\n1\n")
    out = ("--out", tmp_path / "out", "--device", "cpu")
    g, q = ("--gallery", gallery), ("--query", *queries)
    for args, message in (
        ((*g, *q, "--out", used), f"--out {used}: is not empty; name another folder, or pass"),
        ((*g, *q, "--out", text), f"--out {text}: is a file; name a folder"),
        ((*g, *q, *out, "--top", "0"), "--top 0: must be at least 1"),
        ((*g, "--query", tmp_path / "gone.jpg", *out), "gone.jpg: no such file or folder"),
        ((*g, "--query", text, *out), "notes.txt: is not an image file"),
        (("--gallery", empty, *q, *out), "empty: holds no image file"),
        (("--gallery", table, *q, *out), "has no column 'path'"),
        ((*g, "--query", bad, *out), f"--query: none of 1 images can be read; {bad}: is not an"),
        (("--gallery", bad, *q, *out), f"--gallery: none of 1 images can be read; {bad}: is not"),
    ):
        assert message in refused(capsys, "search", run, *args)
    assert "is not a run folder" in refused(capsys, "search", empty, *g, *q, *out)
    assert "--query: names no images" in refused(capsys, "search", run, *g, "--query", *out)
    assert "--gallery: names no images" in refused(capsys, "search", run, "--gallery", *q, *out)
    (used / "index.html").write_text("mine")
    for folder, name in ((run, "bad_images.tsv"), (used, "index.html")):
        (folder / name).touch()
        line = refused(capsys, "search", run, *g, *q, "--out", folder, "--overwrite")
        assert f"--out {folder}: holds {name} of something else; name another" in line
        (folder / name).unlink()
    assert (used / "mine.txt").read_text() == "mine"
    search(run, gallery, queries, used, capsys, "--overwrite")
    assert (used / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in used.iterdir()) == ["index.html", "mine.txt", "ranks.csv"]
