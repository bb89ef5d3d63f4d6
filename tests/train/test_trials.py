"""RegDB's ten trainings from the command line: their mean, resuming, and the leak check."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import trees
from tests.front_door import call, refused
from train import checkpoint, divergence
from train.live.display import Display
from train.trials import continue_trials

TINY = [
    *("--precision", "off", "--model.backbone", "test_resnet", "--model.weights", "none"),
    *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "3", "--data.k", "2"),
    *("--epochs", "1", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return trees.regdb(tmp_path_factory.mktemp("data") / "RegDB", num_ids=8, num_images=2)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "all"
    args = ("--data.root", root, "--run-dir", folder, "--trial", "all", *TINY)
    assert call("train", "regdb", *args) == 0
    return folder


def results(run: Path) -> list[dict]:
    return [json.loads((run / f"trial-{n:02d}" / "result.json").read_text()) for n in range(1, 11)]


def test_the_result_is_the_mean_over_ten_trainings(run):
    trials, summary = results(run), json.loads((run / "result.json").read_text())
    assert [t["protocol"] for t in trials] == [
        f"regdb trial {n} visible to thermal" for n in range(1, 11)
    ]
    assert [mode["protocol"] for mode in summary["modes"]] == [
        "regdb visible to thermal",
        "regdb thermal to visible",
    ]
    for m, mode in enumerate(summary["modes"]):
        assert mode["num_trials"] == 10
        for name in ("rank1", "mAP", "mINP"):
            of_trials = [t["modes"][m][name] for t in trials]
            assert mode[name] == pytest.approx(np.mean(of_trials))
            assert mode["std"][name] == pytest.approx(np.std(of_trials))


@pytest.mark.usefixtures("no_charts")
def test_the_mean_says_which_trainings_collapsed(run, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    file = again / "trial-04" / "result.json"
    said = divergence.said(since=7)
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    assert call("train", "--resume", again) == 0
    words = f"trial 4: {said['collapse']}"
    assert json.loads((again / "result.json").read_text())["collapse"] == words
    assert words in " ".join(capsys.readouterr().out.split())
    assert call("report", again, "--device", "cpu") == 0
    assert words in (again / "report" / "index.html").read_text()


def test_trials_train_on_different_people(run):
    configs = [json.loads((run / f"trial-{n:02d}" / "config.json").read_text()) for n in (1, 2)]
    assert [c["data"]["trial"] for c in configs] == [1, 2]
    weights = [next((run / f"trial-{n:02d}" / "checkpoints").iterdir()) for n in (1, 2)]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_a_trial_begins_with_the_first_stage_of_the_same_trial(run, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    shutil.rmtree(again / "trial-10")
    continue_trials(again, Display(), first_stage=run)
    told = f"epochs 1 to 1 are those of {run / 'trial-10'}"
    assert told.replace(" ", "") in "".join(capsys.readouterr().out.split())
    first, second = (load_file(checkpoint.latest(r / "trial-10")) for r in (run, again))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    assert (again / "result.json").read_bytes() == (run / "result.json").read_bytes()


def test_an_interrupted_run_resumes_with_the_missing_trials(run, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    (again / "result.json").unlink()
    (again / "trial-07" / "result.json").unlink()
    shutil.rmtree(again / "trial-10")
    kept = {f: f.stat().st_mtime_ns for f in again.glob("trial-0[1-6]/**/*") if f.is_file()}
    assert call("train", "--resume", again) == 0
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    assert (again / "result.json").read_bytes() == (run / "result.json").read_bytes()
    assert "trial 6 is done" in capsys.readouterr().out


def test_a_trial_that_was_tested_before_its_end_is_not_done(run, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    file = again / "trial-07" / "result.json"
    early = json.loads(file.read_text()) | {"unfinished": "tested early", "rank1": 99.0}
    file.write_text(json.dumps(early))
    assert call("train", "--resume", again) == 0
    assert "trial 7 is done" not in capsys.readouterr().out
    assert (again / "result.json").read_bytes() == (run / "result.json").read_bytes()


@pytest.mark.slow
def test_all_trainings_are_extended(run, tmp_path, capsys):
    longer = Path(shutil.copytree(run, tmp_path / "longer"))
    assert "can only be extended" in refused(capsys, "train", "--resume", longer, "--epochs", "0")
    assert call("train", "--resume", longer, "--epochs", "2") == 0
    configs = [json.loads(file.read_text()) for file in longer.glob("trial-*/config.json")]
    assert [c["epochs"] for c in configs] == [2] * 10
    for result in (*results(longer), json.loads((longer / "result.json").read_text())):
        assert result["training"].startswith("resumed from 1 to 2 epochs")
    # A killed extension resumes without repeating the option.
    before = (longer / "result.json").read_bytes()
    (longer / "trial-09" / "result.json").write_bytes(
        (run / "trial-09" / "result.json").read_bytes()
    )
    capsys.readouterr()
    assert call("train", "--resume", longer) == 0
    printed = capsys.readouterr().out
    assert "trial 8 is done" in printed
    assert "trial 9 is done" not in printed
    assert (longer / "result.json").read_bytes() == before


def test_eval_tests_every_trial_again(run, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    for file in again.rglob("result.json"):
        file.unlink()
    assert call("eval", again, "--device", "cpu") == 0
    assert (again / "result.json").read_bytes() == (run / "result.json").read_bytes()
    assert results(again) == results(run)
    header = [line.split() for line in capsys.readouterr().out.splitlines() if "rank1" in line]
    columns = ["protocol", "rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "chance"]
    assert header == [columns] * 11  # nothing is truncated at 80 columns


def test_a_trial_with_people_seen_in_training_is_rejected(run, tmp_path, capsys):
    third = Path(shutil.copytree(run / "trial-03", tmp_path / "third"))
    line = refused(capsys, "eval", third, "--trial", "4")
    assert "was trained on regdb trial 3; regdb trial 4 tests with some of the same" in line
    assert call("eval", third, "--trial", "3", "--device", "cpu") == 0
    # Changing the configuration or moving the checkpoint to another trial's run does not help.
    config = third / "config.json"
    config.write_text(config.read_text().replace('"trial": 3', '"trial": 5'))
    assert "was trained on regdb trial 3" in refused(capsys, "eval", third)


def test_fine_tuning_all_trials_from_one_is_rejected_at_once(run, root, tmp_path, capsys):
    again = ("--data.root", root, *TINY, "--run-dir", tmp_path / "new", "--model.weights")
    line = refused(capsys, "train", "regdb", *again, run / "trial-01", "--trial", "all")
    assert "was trained on regdb trial 1, and so on identities that regdb trial 2 tests" in line
    line = refused(capsys, "train", "regdb", *again, run, "--trial", "1")
    assert f"--model.weights {run}: holds ten runs; name one, such as {run}/trial-01" in line
    assert not (tmp_path / "new").exists()


def test_weights_of_another_data_set_may_be_tested(run, people, tmp_path):
    copy = Path(shutil.copytree(run / "trial-01", tmp_path / "copy"))
    assert call("eval", copy, "--data-root", people, "--device", "cpu") == 0
    result = json.loads((copy / "result-on-people.json").read_text())
    assert result["protocol"] == "sysu all-search single-shot"


@pytest.mark.usefixtures("no_charts")
def test_all_trials_are_tested_with_options(run, root, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    before = {file: file.read_bytes() for file in again.rglob("result.json")}
    assert len(before) == 11
    moved = Path(shutil.copytree(root, tmp_path / "moved"))
    options = ("--flip-test", "--re-rank", "--data-root", moved, "--device", "cpu")
    assert call("eval", again, *options) == 0
    printed = capsys.readouterr().out
    name = "result-on-moved-flip-test-re-rank.json"
    assert printed.count("re-ranked (k1 20, k2 6, λ 0.3)") == 11
    assert f"result    {again / name}\n" in printed
    assert {file: file.read_bytes() for file in again.rglob("result.json")} == before
    trials = [json.loads((again / f"trial-{n:02d}" / name).read_text()) for n in range(1, 11)]
    summary = json.loads((again / name).read_text())
    for m, mode in enumerate(summary["modes"]):
        assert mode["mAP"] == pytest.approx(np.mean([t["modes"][m]["mAP"] for t in trials]))
    for result in (summary, *summary["modes"], *trials):
        assert result["data"] == str(moved)
        assert result["test_time"]["flip_test"]
        assert result["test_time"]["re_rank"]["k1"] == 20
    assert call("report", again, "--device", "cpu") == 0
    assert "flip-test, re-ranked" in (again / "report" / "index.html").read_text()


def test_only_regdb_has_ten_trainings(people, root, run, tmp_path, capsys):
    args = ("--data.root", people, "--run-dir", tmp_path / "r", *TINY)
    assert "only RegDB's protocol has ten" in refused(
        capsys, "train", "sysu", "--trial", "all", *args
    )
    assert "needs a folder" in refused(capsys, "train", "demo", "--trial", "all")
    assert "sysu has only one trial" in refused(capsys, "train", "sysu", "--trial", "3", *args)
    again = ("--data.root", root, "--run-dir", run, "--trial", "all", *TINY)
    assert "holds a run" in refused(capsys, "train", "regdb", *again)
    assert not (tmp_path / "r").exists()


def test_impossible_options_touch_nothing(root, run, tmp_path, capsys):
    args = ("--data.root", root, "--trial", "all", *TINY, "--data.p", "99")
    assert "--data.p 99" in refused(capsys, "train", "regdb", *args, "--run-dir", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    refused(capsys, "train", "regdb", *args, "--run-dir", copy, "--overwrite")
    assert {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()} == before
