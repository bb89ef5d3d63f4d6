"""Tests with options: what they compute, and that results always disclose them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.datasets.kinds import read_protocol
from pipeline.options import DataOptions
from tests.front_door import call, refused
from tests.untrained import make_run
from train.evaluation.evaluate import evaluate
from train.evaluation.features import read_features
from train.evaluation.options import EvalOptions, ReRanking
from train.evaluation.score import score

CPU = ("--device", "cpu")
PAPER = {"k1": 20, "k2": 6, "lambda": 0.3}


@pytest.fixture(scope="module")
def people(more_people) -> Path:
    """Their galleries differ from trial to trial."""
    return more_people


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    """A run with its plain result; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, people, "sysu")
    assert call("eval", folder, *CPU) == 0
    return folder


def test_a_flip_test_is_the_mean_of_an_image_and_its_mirror_image(run, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(5, 32, 16, 3), dtype=np.uint8)
    files = []
    for name, some in (("image", pixels), ("mirror", pixels[:, :, ::-1])):
        files += [tmp_path / f"{i}-{name}.png" for i in range(len(some))]
        for file, array in zip(files[-len(some) :], some, strict=True):
            Image.fromarray(np.ascontiguousarray(array)).save(file)
    found = {}
    for name, options in (("plain", ()), ("flipped", ("--flip-test",))):
        out = tmp_path / f"{name}.npz"
        args = (*files, "--modality", "rgb", "--out", out, *CPU, *options)
        assert call("embed", run, *args) == 0
        found[name] = np.load(out)
    plain, flipped = (found[name]["features"] for name in ("plain", "flipped"))
    assert np.abs(plain[:5] - plain[5:]).max() > 0.01
    np.testing.assert_allclose(flipped[:5], (plain[:5] + plain[5:]) / 2, atol=1e-5)
    np.testing.assert_allclose(flipped[5:], flipped[:5], atol=1e-5)
    assert "flip_test" not in found["plain"].files
    assert found["flipped"]["flip_test"]


@pytest.mark.parametrize(
    ("options", "name", "words", "test_time"),
    [
        (
            ("--flip-test",),
            "result-flip-test.json",
            "flip-test",
            {"flip_test": True, "re_rank": None},
        ),
        (
            ("--re-rank", "--re-rank-lambda", "0.5"),
            "result-re-rank.json",
            "re-ranked (k1 20, k2 6, λ 0.5)",
            {"flip_test": False, "re_rank": PAPER | {"lambda": 0.5}},
        ),
        (
            ("--re-rank", "--flip-test"),
            "result-flip-test-re-rank.json",
            "flip-test, re-ranked (k1 20, k2 6, λ 0.3)",
            {"flip_test": True, "re_rank": PAPER},
        ),
    ],
)
def test_eval_discloses_its_options_and_keeps_the_plain_result(
    run, tmp_path, capsys, options, name, words, test_time
):
    run = Path(shutil.copytree(run, tmp_path / "run"))
    before = (run / "result.json").read_bytes()
    assert b"test_time" not in before
    capsys.readouterr()
    assert call("eval", run, *CPU, *options) == 0
    printed = capsys.readouterr().out
    assert words in printed
    assert f"result    {run / name}\n" in printed
    assert (run / "result.json").read_bytes() == before
    result, plain = json.loads((run / name).read_text()), json.loads(before)
    for figures in (result, *result["modes"]):
        assert figures["test_time"] == test_time
    assert result["checkpoint"].startswith("step-")
    assert [m["protocol"] for m in result["modes"]] == [m["protocol"] for m in plain["modes"]]
    assert [m["num_query"] for m in result["modes"]] == [m["num_query"] for m in plain["modes"]]
    assert result["mAP"] != plain["mAP"]


def test_each_trial_is_re_ranked_separately(people):
    protocol = read_protocol(DataOptions(), people)
    index = protocol.index
    rng = np.random.default_rng(0)
    features = rng.standard_normal((len(index), 8)) + 2 * np.eye(8)[index.pids % 8]
    seen = []
    found = evaluate(
        torch.from_numpy(features.astype(np.float32)),
        protocol,
        options=EvalOptions(re_ranking=ReRanking(5, 2)),
        on_progress=lambda *progress: seen.append(progress),
    )
    assert seen == [(n, 40) for n in range(1, 41)]
    plain = evaluate(torch.from_numpy(features.astype(np.float32)), protocol)
    assert all(a["mAP"] != b["mAP"] for a, b in zip(found["modes"], plain["modes"], strict=True))


def test_another_data_set_is_named_and_never_replaces_the_runs_own(run, people, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = (copy / "result.json").read_bytes()
    other = Path(shutil.copytree(people, tmp_path / "other [people]"))
    assert call("eval", copy, "--data-root", other, *CPU) == 0
    assert f"on {other}".replace(" ", "") in capsys.readouterr().out.replace("\n", "").replace(
        " ", ""
    )
    assert (copy / "result.json").read_bytes() == before
    file = copy / "result-on-other-people.json"
    result = json.loads(file.read_text())
    assert [m["data"] for m in (result, *result["modes"])] == [str(other)] * 5
    assert "test_time" not in result
    # A third set of that name; the run's own by another path.
    third = Path(shutil.copytree(people, tmp_path / "deep" / "other people"))
    line = refused(capsys, "eval", copy, "--data-root", third, *CPU)
    assert (
        f"{file}: holds figures of {other} and would be overwritten with those of {third}" in line
    )
    assert json.loads(file.read_text()) == result
    (copy / "result.json").unlink()
    (tmp_path / "link").symlink_to(people)
    assert call("eval", copy, "--data-root", tmp_path / "link", *CPU) == 0
    assert (copy / "result.json").read_bytes() == before


@pytest.mark.usefixtures("no_charts")
def test_the_report_labels_such_figures(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert call("eval", copy, "--flip-test", "--re-rank", *CPU) == 0
    assert call("report", copy, *CPU) == 0
    page = (copy / "report" / "index.html").read_text()
    title = "Figures, flip-test, re-ranked (k1 20, k2 6, λ 0.3)"
    assert f'<section id="figures-result-flip-test-re-rank"><h2>{title}</h2>' in page
    assert "From result-flip-test-re-rank.json" in page
    assert page.count("flip-test, re-ranked") == 3  # link, heading and lead of that section alone


def test_a_test_with_options_is_rejected_as_the_plain_result(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert call("eval", copy, "--flip-test", *CPU) == 0
    shutil.copy(copy / "result-flip-test.json", copy / "result.json")
    line = refused(capsys, "report", copy, *CPU)
    assert f"{copy}/result.json: holds figures of another test, flip-test, not of the plain" in line
    assert call("eval", copy, *CPU) == 0
    assert (copy / "result.json").read_bytes() == (run / "result.json").read_bytes()


def side(file: Path, **arrays: object) -> Path:
    rng = np.random.default_rng(len(file.name))
    made = {
        "features": rng.standard_normal((12, 4)).astype(np.float32),
        "pids": np.arange(12) % 4,
        "camids": np.arange(12),
    }
    np.savez(file, **(made | arrays))
    return file


def test_score_discloses_the_flip_test_of_its_files(tmp_path, capsys):
    plain = [side(tmp_path / name) for name in ("q.npz", "gal.npz")]
    flipped = [side(tmp_path / f"flip-{f.name}", flip_test=np.True_) for f in plain]
    out = tmp_path / "out.json"

    def args(query: Path, gallery: Path) -> tuple[str | Path, ...]:
        sides = ("--query", query, "--gallery", gallery)
        return ("score", *sides, "--protocol", "plain", "--json", out, *CPU)

    for files, options, expected in (
        (plain, (), None),
        (flipped, (), {"flip_test": True, "re_rank": None}),
        (plain, ("--re-rank",), {"flip_test": False, "re_rank": PAPER}),
        (flipped, ("--re-rank",), {"flip_test": True, "re_rank": PAPER}),
    ):
        capsys.readouterr()
        assert call(*args(*files), *options) == 0
        assert json.loads(out.read_text()).get("test_time") == expected
        printed = capsys.readouterr().out
        assert ("flip-test" in printed, "re-ranked" in printed) == (
            files is flipped,
            bool(options),
        )
    line = refused(capsys, *args(plain[0], flipped[1]))
    assert f"{flipped[1]}: was embedded with --flip-test, but {plain[0]} was not" in line
    odd = side(tmp_path / "odd.npz", flip_test=np.array([1, 0]))
    assert "flip_test is int64 of shape [2]; expected true or false" in refused(
        capsys, *args(odd, plain[1])
    )


def test_score_in_python_re_ranks(tmp_path):
    query, gallery = (read_features(side(tmp_path / name)) for name in ("q.npz", "gal.npz"))
    found = score(query, gallery, "plain", device="cpu", re_ranking=ReRanking(3, 2, 0.1))
    assert found["test_time"]["re_rank"] == {"k1": 3, "k2": 2, "lambda": 0.1}


def test_wrong_use_gives_one_line(run, tmp_path, capsys, monkeypatch):
    sides = ("--query", side(tmp_path / "q.npz"), "--gallery", side(tmp_path / "gal.npz"))
    for command in (("eval", run), ("score", *sides, "--protocol", "plain")):
        for options, message in (
            (("--re-rank-k1", "5"), "--re-rank-k1, -k2, -lambda: have no effect alone; pass"),
            (("--re-rank", "--re-rank-k1", "0"), "--re-rank-k1 0: must be at least 1"),
            (("--re-rank", "--re-rank-lambda", "nan"), "--re-rank-lambda nan: must be in 0…1"),
        ):
            assert message in refused(capsys, *command, *CPU, *options)
    monkeypatch.setattr("train.evaluation.re_ranking.MAX_IMAGES", 20)
    for command in (("eval", run), ("score", *sides, "--protocol", "plain")):
        line = refused(capsys, *command, *CPU, "--re-rank")
        assert line.startswith("cdp: --re-rank: ")
        assert "at most 20 images are re-ranked: leave --re-rank out, or test on fewer" in line
