"""`cdp embed`: scoring its files gives eval's figures; images get the right labels."""

import csv
import json
import os
import shlex
import shutil
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.kinds import read_protocol, read_training
from pipeline.datasets.records import Mode, Protocol, Trial
from pipeline.options import DataOptions
from tests import trees
from tests.front_door import call, refused
from tests.untrained import make_run
from train.evaluation.embed import Embedded
from train.evaluation.embed_protocol import _write_mode
from train.evaluation.evaluate import evaluate
from train.evaluation.score import read_features, score


@pytest.fixture(scope="module")
def run(more_people, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, more_people, "sysu")
    return folder


@pytest.fixture(scope="module")
def embedded(run, tmp_path_factory) -> Path:
    """The run's own test, embedded; tests must not change it."""
    folder = tmp_path_factory.mktemp("embedded") / "test"
    assert call("embed", run, "--out", folder, "--device", "cpu") == 0
    return folder


def same_figures(
    run: Path, folder: Path, capsys, tmp_path: Path, embed=(), re_rank=(), result="result.json"
) -> int:
    """Runs the printed commands; each mode's figures must equal eval's. Returns the modes."""
    assert call("eval", run, "--device", "cpu", *embed, *re_rank) == 0
    modes = json.loads((run / result).read_text())["modes"]
    capsys.readouterr()
    assert call("embed", run, "--out", folder, "--device", "cpu", *embed) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cdp score")]
    for mode, line in zip(modes, lines, strict=True):
        words = [f for w in shlex.split(line)[1:] for f in (sorted(glob(w)) if "*" in w else [w])]
        file = tmp_path / "score.json"
        assert call(*words, "--json", file, *re_rank) == 0
        scored = json.loads(file.read_text())
        assert mode["protocol"].startswith(scored["protocol"]) or scored["protocol"] == "market"
        assert {name: scored[name] for name in mode} | {"protocol": mode["protocol"]} == mode
    return len(modes)


def test_score_gives_evals_figures_in_every_mode(run, tmp_path, capsys):
    folder = tmp_path / "test set"
    assert same_figures(run, folder, capsys, tmp_path) == 4
    names = sorted(path.name for path in (folder / "all-search-single-shot").iterdir())
    assert names == [*(f"gallery-{t:02d}.npz" for t in range(1, 11)), "query.npz"]


def test_score_gives_evals_figures_with_flip_test_and_re_ranking(more_people, tmp_path, capsys):
    run = tmp_path / "run"
    make_run(run, more_people, "sysu")
    options = {
        "embed": ["--flip-test"],
        "re_rank": ["--re-rank", "--re-rank-k1", "7"],
        "result": "result-flip-test-re-rank.json",
    }
    assert same_figures(run, tmp_path / "out", capsys, tmp_path, **options) == 4
    scored = json.loads((tmp_path / "score.json").read_text())
    how = {"k1": 7, "k2": 6, "lambda": 0.3}
    assert scored["test_time"] == {"flip_test": True, "re_rank": how}
    assert "flip-test, re-ranked (k1 7, k2 6, λ 0.3)" in capsys.readouterr().out
    about = json.loads((tmp_path / "out" / "embedding.json").read_text())
    assert about["flip_test"] is True


def test_score_gives_evals_figures_for_regdb_and_a_table(tmp_path, capsys):
    for root, name in ((trees.regdb, "regdb trial 1"), (trees.table, "people")):
        place = root(tmp_path / root.__name__)
        run = tmp_path / f"{root.__name__}-run"
        make_run(run, place, name, distance="euclidean")
        assert same_figures(run, tmp_path / f"{root.__name__}-out", capsys, tmp_path) in (1, 2)


def test_trials_may_differ_in_their_queries(more_people, tmp_path):
    index = read_protocol(DataOptions(), more_people).index
    rng = np.random.default_rng(0)
    features = rng.standard_normal((len(index), 8)).astype(np.float32)
    infrared, rgb = (np.flatnonzero(index.modality == m) for m in (1, 0))
    drawn = [(rng.permutation(infrared)[:12], rng.permutation(rgb)[:20]) for _ in range(3)]
    made = {
        "queries-differ": [(query, rgb) for query, _ in drawn],
        "both-differ": drawn,
        "none-differs": [(infrared, rgb)] * 2,
    }
    protocol = read_protocol(DataOptions(), more_people)
    modes = tuple(Mode(n, tuple(Trial(q, g) for q, g in pairs)) for n, pairs in made.items())
    expected = evaluate_of(features, Protocol("x", index, modes, protocol.rule))
    data = Embedded(features, index, np.arange(len(index)).astype(np.str_))
    patterns = [_write_mode(data, mode, tmp_path / mode.name) for mode in modes]
    assert [list(p.values()) for p in patterns] == [
        ["query-*.npz", "gallery.npz"],
        ["query-*.npz", "gallery-*.npz"],
        ["query.npz", "gallery-*.npz"],
    ]
    for mode, sides, figures in zip(modes, patterns, expected, strict=True):
        files = [
            [read_features(file) for file in sorted((tmp_path / mode.name).glob(pattern))]
            for pattern in sides.values()
        ]
        found = score(*files, "sysu")
        same = {name: found[name] for name in figures} | {"protocol": figures["protocol"]}
        assert same == figures


def evaluate_of(features: np.ndarray, protocol: Protocol) -> list[dict]:
    import torch

    return evaluate(torch.from_numpy(features), protocol)["modes"]


def test_images_are_looked_up_in_the_data_set(run, embedded, more_people, tmp_path, capsys):
    query = np.load(embedded / "all-search-single-shot" / "query.npz")
    train = read_training(DataOptions(), more_people)
    stranger = tmp_path / "strangers" / "deep" / "a.PNG"
    stranger.parent.mkdir(parents=True)
    Image.new("RGB", (20, 50), "red").save(stranger)
    (tmp_path / "strangers" / "notes.txt").write_text("no image")
    (tmp_path / "link").symlink_to(more_people)
    rows = [4, 0, 17]
    given = [tmp_path / "link" / str(query["paths"][row]) for row in rows]
    out = tmp_path / "new" / "F.npz"
    args = (*given, train.path(3), tmp_path / "strangers", "--modality", "ir", "--device", "cpu")
    capsys.readouterr()
    assert call("embed", run, "--out", out, *args) == 0
    printed = capsys.readouterr().out
    assert "1 of 5 images are not in the run's data set and get pid and camid -1" in printed
    notes = tmp_path / "strangers" / "notes.txt"
    assert f"left out in the folders: 1 no image file, such as {notes}" in printed
    found = np.load(out)
    assert found["paths"].tolist() == [*map(str, given), str(train.path(3)), str(stranger)]
    assert found["pids"].tolist() == [*query["pids"][rows], train.pids[3], -1]
    assert found["camids"].tolist() == [*query["camids"][rows], train.camids[3], -1]
    assert found["modality"].tolist() == [1, 1, 1, train.modality[3], 1]
    assert [found[name].dtype for name in ("features", "pids", "camids")] == ["f4", "i8", "i8"]
    np.testing.assert_allclose(found["features"][:3], query["features"][rows], rtol=1e-4, atol=1e-5)
    score_args = ("--query", out, "--gallery", out, "--protocol", "plain")
    assert "pids, row 4: is -1, an unknown person (1 such rows)" in refused(
        capsys, "score", *score_args
    )


def test_linked_folders_are_embedded_and_other_files_are_counted(
    run, more_people, tmp_path, capsys
):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    cameras = sorted((more_people / "cam3").iterdir())[:2]
    shutil.copytree(cameras[0], folder / "real")
    shutil.copytree(cameras[1], elsewhere)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "real" / "again").symlink_to(folder)
    (folder / "real" / "._0001.jpg").write_bytes(b"\x00\x05\x16\x07" + bytes(78))
    odd = folder / os.fsdecode(b"n\xff.jpg")  # not valid UTF-8
    shutil.copy(next(cameras[0].iterdir()), odd)
    out = tmp_path / "F.npz"
    capsys.readouterr()
    assert call("embed", run, folder, "--out", out, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    places = (("linked", cameras[1]), ("real", cameras[0]))
    names = [str(folder / to / f.name) for to, of in places for f in sorted(of.iterdir())]
    paths = np.load(out)["paths"].tolist()
    assert paths == sorted([*names, str(odd)])
    assert all(Path(path).is_file() for path in paths)
    assert f"1 link to a folder above it, such as {folder / 'real' / 'again'}" in printed
    assert f"1 hidden, such as {folder / 'real' / '._0001.jpg'}" in printed


def test_a_csv_labels_images_of_any_data_set(run, embedded, more_people, tmp_path, capsys):
    query = np.load(embedded / "indoor-single-shot" / "query.npz")
    file = tmp_path / "list.csv"
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(("path", "pid", "camid", "modality"))
        for i, path in enumerate(query["paths"][:3]):
            lines.writerow((more_people / str(path), 70 + i, 9, "ir"))
    out = tmp_path / "F.npz"
    capsys.readouterr()
    assert call("embed", run, file, "--out", out, "--device", "cpu") == 0
    assert "note" not in capsys.readouterr().out
    found = np.load(out)
    assert found["paths"].tolist() == [str(more_people / str(path)) for path in query["paths"][:3]]
    assert (found["pids"].tolist(), found["camids"].tolist()) == ([70, 71, 72], [9, 9, 9])
    np.testing.assert_allclose(found["features"], query["features"][:3], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_embedded_gives_one_clear_line(run, more_people, tmp_path, capsys):
    image = next(more_people.glob("cam3/*/*.jpg"))
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    table = tmp_path / "list.csv"
    table.write_text("path,pid,modality\na.jpg,1,rgb\n")
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(image.read_bytes()[:300])
    (tmp_path / "empty").mkdir()
    old = tmp_path / "old.npz"
    old.write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    out = ("--out", tmp_path / "F.npz", "--device", "cpu")
    for args, message in (
        ((tmp_path / "gone.jpg", *out), "gone.jpg: no such file or folder"),
        ((text, *out), "notes.txt: is not an image file (.jpg, .jpeg, .png, .bmp), folder or CSV"),
        ((tmp_path / "empty", *out), "empty: holds no image file"),
        ((table, *out), "no column 'camid', its first line is 'path,pid,modality'; it must name"),
        ((image, table, *out), "list.csv: a CSV must be the only argument"),
        ((image, damaged, *out), f"{damaged}: "),
        ((image, "--out", old), f"--out {old}: exists; name another, or pass --overwrite"),
        ((image, "--out", tmp_path / "F.npy"), "F.npy: must end in .npz"),
        (out, "F.npz: must be a folder, as embedding the data set's own test writes many"),
        (("--out", tmp_path), f"--out {tmp_path}: exists and was not made by cdp embed"),
        ((*out[2:], "--overwrite", "--out", tmp_path), "was not made by cdp embed; name another"),
    ):
        assert message in refused(capsys, "embed", run, *args)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert old.read_text() == "mine"


def test_a_folder_that_embed_made_is_replaced_only_when_asked(run, embedded, tmp_path, capsys):
    copy = Path(shutil.copytree(embedded, tmp_path / "copy"))
    (copy / "stale.npz").touch()
    assert f"--out {copy}: exists; name another" in refused(capsys, "embed", run, "--out", copy)
    assert call("embed", run, "--out", copy, "--device", "cpu", "--overwrite") == 0
    names = {str(path.relative_to(copy)) for path in copy.rglob("*")}
    assert names == {str(path.relative_to(embedded)) for path in embedded.rglob("*")}
    about = json.loads((copy / "embedding.json").read_text())
    assert (about["rule"], about["distance"], len(about["modes"])) == ("sysu", "cosine", 4)
    for file in ("query.npz", "gallery-10.npz"):
        names = (folder / "indoor-multi-shot" / file for folder in (copy, embedded))
        one, other = (path.read_bytes() for path in names)
        assert one == other


def test_a_test_on_people_seen_in_training_is_rejected(tmp_path, capsys):
    root = trees.regdb(tmp_path / "RegDB", num_ids=4, num_images=1)
    make_run(tmp_path / "run", root, "regdb trial 3")
    line = refused(capsys, "embed", tmp_path / "run", "--out", tmp_path / "out")
    assert "was trained on regdb trial 3; regdb trial 1 tests with some" in line
    assert not (tmp_path / "out").exists()
