"""`cdp experiment` from the command line: rows, resuming, sharing of runs, wrong use."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests import trees
from tests.front_door import SMALL, call, refused
from train import divergence
from train.config import flat
from train.dhsm import DhsmOptions
from train.methods import d_hsme, hcml
from train.paper import contents, experiments
from train.paper.controls import CONTROLS
from train.presets import PRESETS

OPTIONS = [*SMALL, "--epochs", "1", "--data.p", "12"]


def rows(file: Path) -> dict[str, dict[str, str]]:
    return {line["row"]: line for line in csv.DictReader(file.open())}


@pytest.fixture(scope="module")
def out(people, tmp_path_factory) -> Path:
    """The folder of a finished experiment; tests must not change it."""
    folder = tmp_path_factory.mktemp("experiments")
    args = ("--data", people, "--seed", "1", "--out", folder, *OPTIONS)
    assert call("experiment", "structures", *args) == 0
    return folder


def test_every_row_is_trained_and_written(out):
    found = rows(out / "structures.csv")
    kinds = ("all", "cross", "generated", "intermediate", "separate")  # as in Fig. 7
    names = [f"{kind}-spectrum" for kind in kinds]
    assert list(found) == names
    for line in found.values():
        assert (line["runs"], line["diverged"], line["data"]) == ("1", "0", "synthetic people v2")
    assert found["cross-spectrum"]["paper_rank1"] == "36.2"
    result = json.loads((out / "cdp-seed-1" / "result.json").read_text())
    assert float(found["cross-spectrum"]["mAP"]) == pytest.approx(result["mAP"], abs=1e-4)


def test_figures_beside_synthetic_people_are_those_of_the_papers_table(people):
    def published(name: str) -> list[str]:
        return experiments._searches(contents.EXPERIMENTS[name], people, "sysu")

    assert published("table1") == ["sysu"]
    assert published("table2") == ["regdb"]


def test_a_run_has_its_methods_changes(out):
    def config(name: str) -> dict:
        return json.loads((out / f"{name}-seed-1" / "config.json").read_text())

    assert config("baseline-4")["data"]["spectra"] == []
    assert config("cdp")["data"]["spectra"] == ["R", "G", "B", "X"]
    assert not config("cdp")["method"]["dhsm"]["enabled"]
    assert config("separate-spectrum")["method"]["model"]["structure"] == "zero-padding-4"
    assert config("intermediate-spectrum")["method"]["model"]["structure"] == "two-stems"
    generated = config("generated-spectrum")["method"]
    assert generated["model"]["structure"] == "generated-spectrum"
    assert generated["from"]["name"] == "d2rl"
    assert generated["translator"]["width"] == 8
    assert config("cdp")["seed"] == 1
    line = json.loads((out / "baseline-4-seed-1" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["confidence"] == line["probability"] == {}


def test_finished_runs_are_shared_and_not_repeated(out, people, capsys):
    written = {f: f.stat().st_mtime_ns for f in out.glob("*-seed-*/*.json*")}
    capsys.readouterr()
    args = ("--data", people, "--seed", "1", "--out", out, *OPTIONS)
    assert call("experiment", "dhsm", *args) == 0
    printed = capsys.readouterr().out
    assert "[1/2] CDP, seed 1: done" in printed
    assert "[2/2] CDP+DHSM, seed 1: CDP with Dynamic Hard Spectrum Mining" in printed
    assert {f: f.stat().st_mtime_ns for f in written} == written


def test_only_the_named_rows_are_trained_and_shown(out, people, capsys):
    args = ("--data", people, "--seed", "1", "--out", out, *OPTIONS)
    assert call("experiment", "inputs", "--rows", "cdp", *args) == 0
    assert list(rows(out / "inputs-cdp.csv")) == ["channel expansion"]
    line = refused(capsys, "experiment", "inputs", "--rows", "cdp", "cdp-1", *args)
    assert "--rows cdp-1: no such row here; there are zero-padding, baseline-4, cdp" in line


def test_controls_differ_from_dhsm_in_dhsm_alone():
    base = flat(PRESETS["small"].config)
    changed = {}
    for name in CONTROLS:
        options = flat(contents.row(name).setting(PRESETS["small"].config))
        changed[name] = {k.removeprefix("dhsm."): v for k, v in options.items() if v != base[k]}
    assert changed == {
        "dhsm-end": {"enabled": False, "start": (0.26, 0.23, 0.29, 0.22)},
        "dhsm-easy": {"prefer": "easy"},
        "dhsm-alpha-0.5": {"alpha": 0.5},
        "dhsm-alpha-0.9": {"alpha": 0.9},
    }


def test_rows_are_what_their_names_say_whatever_dhsm_is_set_to():
    changed = dataclasses.replace(
        PRESETS["small"].config.method, dhsm=DhsmOptions(False, 0.3, "easy", (1.0, 2.0, 3.0, 4.0))
    )
    base = dataclasses.replace(PRESETS["small"].config, method=changed)

    def of(name: str) -> DhsmOptions:
        return contents.row(name).setting(base).method.dhsm

    assert of("cdp") == DhsmOptions(False, 0.3, "easy", ())
    assert of("cdp-2").start == of("baseline-4").start == ()
    assert of("cdp-dhsm") == DhsmOptions(True, 0.3, "hard", ())
    assert of("dhsm-easy") == DhsmOptions(True, 0.3, "easy", ())
    assert of("dhsm-alpha-0.5") == DhsmOptions(True, 0.5, "hard", ())


def test_a_nan_loss_makes_a_diverged_row(people, tmp_path):
    args = ("--data", people, "--out", tmp_path, *OPTIONS, "--optimizer.lr", "1e30")
    assert call("experiment", "dhsm", *args) == 0
    assert {line["diverged"] for line in rows(tmp_path / "dhsm.csv").values()} == {"1"}
    written = {f: f.stat().st_mtime_ns for f in tmp_path.glob("*-seed-*/*")}
    assert call("experiment", "dhsm", *args) == 0
    assert {f: f.stat().st_mtime_ns for f in written} == written


def test_a_row_whose_features_collapsed_near_its_end_has_no_figures(out, people, tmp_path):
    """It was not stopped, since the collapse had not lasted for an epoch."""
    again = Path(shutil.copytree(out, tmp_path / "again"))
    file = again / "cdp-seed-1" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | divergence.said(since=7)))
    args = ("--data", people, "--seed", "1", "--out", again, *OPTIONS)
    assert call("experiment", "structures", *args) == 0
    found = rows(again / "structures.csv")
    assert [line["diverged"] for line in found.values()] == ["0", "1", "0", "0", "0"]
    assert found["cross-spectrum"]["rank1"] == "nan"


def test_a_test_before_the_end_of_a_run_does_not_end_it(out, people, tmp_path, capsys):
    run = Path(shutil.copytree(out / "cdp-seed-1", tmp_path / "cdp-seed-1"))
    written = json.loads((run / "config.json").read_text()) | {"epochs": 2}
    (run / "config.json").write_text(json.dumps(written))
    assert call("eval", run, "--device", "cpu") == 0
    said = "tested before the training ended, in epoch 1 of 2"
    assert f"note      {said}" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["unfinished"] == said
    args = ("--data", people, "--seed", "1", "--out", tmp_path, *OPTIONS, "--epochs", "2")
    assert call("experiment", "inputs", "--rows", "cdp", *args) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [record["epoch"] for record in records if record["event"] == "epoch"] == [1, 2]
    result = json.loads((run / "result.json").read_text())
    assert "unfinished" not in result
    (line,) = rows(tmp_path / "inputs-cdp.csv").values()
    assert float(line["mAP"]) == pytest.approx(result["mAP"], abs=1e-4)


def test_a_diverged_trial_makes_a_diverged_row(tmp_path, capsys):
    root = trees.regdb(tmp_path / "RegDB", num_ids=8, num_images=2)
    args = ("--data", root, "--trial", "all", "--out", tmp_path, *OPTIONS, "--optimizer.lr", "1e30")
    args += ("--data.p", "3", "--data.k", "2", "--rows", "cdp", "--model.weights", "none")
    for _ in range(2):
        assert call("experiment", "dhsm", *args) == 0
        for line in rows(tmp_path / "dhsm-cdp.csv").values():
            assert (line["runs"], line["diverged"]) == ("1", "1")
    assert "CDP, seed 0: done" in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_experiment_continues(people, tmp_path, capsys):
    args = ["experiment", "dhsm", "--data", people, "--out", tmp_path, *OPTIONS]
    args += ["--epochs", "4"]
    metrics = tmp_path / "cdp-seed-0" / "metrics.jsonl"

    def interrupt_after_an_epoch() -> None:
        while not metrics.is_file():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt_after_an_epoch)
    thread.start()
    assert call(*args) == 3
    thread.join()
    assert "resume with `cdp experiment dhsm --data" in capsys.readouterr().err
    before = metrics.read_text()
    assert not (tmp_path / "dhsm.csv").exists()
    assert call(*args) == 0
    assert metrics.read_text().startswith(before)
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["epoch"] for line in epochs if line["event"] == "epoch"] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_row_goes_on_from_the_run_of_its_first_stage(people, tmp_path, monkeypatch, capsys):
    two = contents.Experiment("Two", (("TONE", "tone"), ("HCML", "hcml")))
    monkeypatch.setitem(contents.EXPERIMENTS, "table1", two)
    shorter = dataclasses.replace(hcml.METHOD, metric_iterations=5)
    monkeypatch.setattr(hcml, "METHOD", shorter)
    args = ("experiment", "table1", "--data", people, "--out", tmp_path, *OPTIONS)
    assert call(*args) == 0
    told = f"epochs 1 to 1 are those of {tmp_path / 'tone-seed-0'}"
    assert told.replace(" ", "") in "".join(capsys.readouterr().out.split())
    first, second = rows(tmp_path / "table1.csv").values()
    assert (first["first_stage"], second["first_stage"]) == ("", "TONE")
    finish = json.loads((tmp_path / "hcml-seed-0" / "metrics.jsonl").open().readline())
    seconds = float(first["seconds"]) + finish["finish_seconds"]
    assert seconds - 0.1 < float(second["seconds"]) < seconds + 2
    assert second["rank1"] != "nan"


def test_a_row_that_cannot_be_trained_does_not_keep_the_others_from_it(
    people, tmp_path, monkeypatch, capsys
):
    rows_of_two = (("D-HSME", "d-hsme"), ("CDP", "cdp"))
    monkeypatch.setitem(contents.EXPERIMENTS, "table1", contents.Experiment("", rows_of_two))
    narrow = dataclasses.replace(d_hsme.METHOD.model, fc="shared", fc_width=4)
    method = dataclasses.replace(d_hsme.METHOD, model=narrow)
    monkeypatch.setattr(d_hsme, "METHOD", method)
    args = ("experiment", "table1", "--data", people, "--out", tmp_path, *OPTIONS)
    message = refused(capsys, *args, "--seeds", "2")
    assert "the table lacks D-HSME: --model.fc shared: features have 4 dimensions" in message
    assert not (tmp_path / "d-hsme-seed-0" / "result.json").exists()
    found = rows(tmp_path / "table1.csv")
    assert (found["CDP"]["runs"], found["CDP"]["diverged"]) == ("2", "0")
    assert (found["D-HSME"]["runs"], found["D-HSME"]["diverged"]) == ("0", "0")


def test_wrong_use_gives_one_line(people, out, capsys):
    assert "which one? table1" in refused(capsys, "experiment")
    assert "unknown 'table9'; choose one of table1" in refused(capsys, "experiment", "table9")
    args = ("experiment", "structures", "--seed", "1", "--data", people, "--out", out, *OPTIONS)
    assert "--seeds 0: must be" in refused(capsys, *args, "--seeds", "0")
    message = refused(capsys, *args, "--optimizer.lr", "0.5")
    assert "was made with --optimizer.lr 0.001, but 0.5 is requested now" in message
    assert "--preset nonsense: unknown" in refused(capsys, *args, "--preset", "nonsense")
    assert "no such folder" in refused(capsys, "experiment", "dhsm", "--data", "/nowhere")
