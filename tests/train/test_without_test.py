"""Data sets without a test split: trained with --no-test and never given figures."""

import json
import shutil
from pathlib import Path

import pytest

from tests import trees
from tests.front_door import SMALL, call, refused
from tests.train.test_trials import TINY
from train import checkpoint, run_folder
from train.reporting.summary import PAGE

ARGS = [*SMALL, "--epochs", "1"]


@pytest.fixture(scope="module")
def root(people, tmp_path_factory) -> Path:
    """Synthetic people without a test split."""
    root = Path(shutil.copytree(people, tmp_path_factory.mktemp("data") / "people"))
    (root / "exp" / "test_id.txt").unlink()
    (root / "exp" / "rand_perm_cam.mat").unlink()
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    args = ("--data.root", root, "--run-dir", folder, *ARGS, "--no-test")
    assert call("train", "demo", *args) == 0
    return folder


def test_the_fix_is_named(root, tmp_path, capsys):
    args = ("--data.root", root, "--run-dir", tmp_path / "r")
    line = refused(capsys, "train", "demo", *args, *ARGS)
    assert "exp/test_id.txt: missing" in line
    assert "or pass --no-test to train without a test" in line
    assert call("train", "demo", *args, *SMALL, "--eval-every", "1", "--no-test") == 2
    assert "--eval-every 1: has no effect with --no-test" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_the_result_says_that_there_was_no_test(run):
    result = json.loads((run / "result.json").read_text())
    assert result == {"test": None, "remark": "trained without a test (--no-test)"}
    assert [record["event"] for record in run_folder.read_metrics(run)] == ["epoch"]
    assert checkpoint.trained_on(checkpoint.latest(run)) == "sysu"


def test_it_resumes_and_is_extended(run, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    assert call("train", "--resume", again) == 0
    assert (again / "result.json").read_bytes() == (run / "result.json").read_bytes()
    assert call("train", "--resume", again, "--epochs", "2") == 0
    assert "no figures (--no-test)" in capsys.readouterr().out
    result = run_folder.read_result(again)
    assert result["test"] is None
    assert "resumed from 1 to 2 epochs" in result["training"]


def test_eval_says_so_and_tests_on_another_data_set(run, people, tmp_path, capsys):
    line = refused(capsys, "eval", run)
    assert "exp/test_id.txt: missing" in line
    assert "was trained with --no-test; --data-root may name another data set" in line
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    assert call("eval", copy, "--data-root", people, "--device", "cpu") == 0
    assert run_folder.read_result(copy, "result-on-people.json")["num_query"] > 0
    assert run_folder.read_result(copy)["test"] is None


@pytest.mark.usefixtures("no_charts")
def test_the_report_says_so(run, tmp_path, capsys):
    assert call("report", run, "--device", "cpu", "--out", tmp_path / "report") == 0
    assert "The run was trained without a test (--no-test)." in capsys.readouterr().out
    page = (tmp_path / "report" / PAGE.name).read_text()
    assert "trained without a test" in page
    assert "There is no result.json" not in page
    assert 'id="losses"' in page
    assert 'id="figures"' not in page


def test_weights_of_an_untested_trial_still_record_their_people(tmp_path, capsys):
    root = trees.regdb(tmp_path / "RegDB", num_ids=8, num_images=2)
    run = tmp_path / "run"
    args = ("--data.root", root, "--run-dir", run, "--trial", "3", *TINY, "--no-test")
    assert call("train", "regdb", *args) == 0
    assert "was trained on regdb trial 3" in refused(capsys, "eval", run, "--trial", "4")


def test_an_experiment_without_figures_is_rejected(capsys):
    assert "leave --no-test out" in refused(capsys, "experiment", "table4", "--no-test")
