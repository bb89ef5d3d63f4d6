"""`cdp runs`: every state a run folder can be in, grouped, and never a traceback."""

import dataclasses
import json
import os
import shlex
import shutil
import threading
import time
from pathlib import Path

import pytest

from pipeline.options import DataOptions
from tests.front_door import call, refused
from tests.train.test_run_folder import EPOCH, NESTED, NOT_UTF8, RESULT
from tests.untrained import make_run
from train import config, run_folder
from train.config import Config
from train.divergence import COLLAPSED
from train.methods import finding
from train.methods.base import Method
from train.presets import find_preset
from train.replay import BATCH


def make(folder: Path, done: int = 2, result: dict | None = None, **data) -> Path:
    """A run of two epochs on /nowhere/people, of which `done` are trained."""
    cfg = Config(data=DataOptions(root=Path("/nowhere/people"), kind="sysu", **data), epochs=2)
    run_folder.create(folder, config.to_json(cfg), overwrite=False)
    for epoch in range(1, done + 1):
        run_folder.append_metrics(folder, EPOCH | {"epoch": epoch})
    if result:
        run_folder.write_result(folder / run_folder.RESULT, result)
    return folder


def listed(capsys, folder: Path) -> dict[str, dict]:
    """What `cdp runs --json` tells of each run in the folder, by name."""
    capsys.readouterr()
    assert call("runs", folder, "--json") == 0
    return {Path(run["folder"]).name: run for run in json.loads(capsys.readouterr().out)}


def test_each_state_is_told_and_what_to_do_next(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    make(tmp_path / "finished", result=RESULT)
    make(tmp_path / "untested", result={"test": None})
    make(tmp_path / "killed", done=1)
    make(tmp_path / "killed-in-test")
    run_folder.write_result(make(tmp_path / "nan", done=1) / BATCH, {"epoch": 2})
    run_folder.write_result(make(tmp_path / "point", done=1) / COLLAPSED, {"epoch": 1})
    with run_folder.lock(make(tmp_path / "running", done=1)):
        runs = listed(capsys, tmp_path)
        assert call("runs", tmp_path) == 0
    states = {name: run["state"] for name, run in runs.items()}
    assert states == {
        "finished": "finished",
        "untested": "finished",
        "killed": "interrupted",
        "killed-in-test": "interrupted",
        "nan": "diverged",
        "point": "collapsed",
        "running": "running",
    }
    assert (runs["finished"]["rank1"], runs["finished"]["mAP"]) == (RESULT["rank1"], RESULT["mAP"])
    assert runs["untested"]["rank1"] is None
    assert (runs["killed"]["epochs_done"], runs["killed"]["epochs"]) == (1, 2)
    assert (runs["killed"]["method"], runs["killed"]["data"]) == ("cdp-dhsm", "people")
    assert f"cdp train --replay-batch {tmp_path / 'nan'}" in runs["nan"]["note"]
    assert "--loss.triplet-weight" in runs["point"]["note"]
    assert runs["finished"]["note"] == runs["running"]["note"] == ""

    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.lstrip().startswith("finished"))
    words = ["finished", "cdp-dhsm", "people", "2/2", "finished"]
    assert row.split()[:8] == [*words, "50.0", "2.0", "50.0"]  # rank-1, chance of it, mAP
    monkeypatch.setenv("COLUMNS", "80")
    assert call("runs", tmp_path) == 0
    printed = capsys.readouterr().out.splitlines()
    row = next(line for line in printed if line.lstrip().startswith("finished"))
    assert row.split()[:7] == [*words, "50.0", "50.0"]  # no room for the chance
    again = next(line for line in lines if line.startswith("killed: interrupted"))
    command = shlex.split(again.split("`")[1])
    assert command[:3] == ["cdp", "train", "--resume"]
    # It is a command that works: all that stands in its way is that the data set is not there.
    assert "/nowhere/people: no such folder" in refused(capsys, *command[1:])


def test_a_run_resumed_beyond_its_nan_is_not_diverged(tmp_path, capsys):
    folder = make(tmp_path / "run", done=1)
    run_folder.write_result(folder / BATCH, {"epoch": 1})
    assert listed(capsys, tmp_path)["run"]["state"] == "interrupted"


def test_a_real_run_folder_is_listed_with_its_size(tmp_path, capsys):
    make_run(tmp_path / "real", Path("/nowhere/people"), "people", epochs=1)
    run = listed(capsys, tmp_path)["real"]
    assert run["data"] == "people"
    files = [file for file in (tmp_path / "real").rglob("*") if file.is_file()]
    assert run["num_bytes"] == sum(file.stat().st_size for file in files) > 10_000


@pytest.mark.parametrize("name", [run_folder.CONFIG, run_folder.METRICS, run_folder.RESULT, BATCH])
@pytest.mark.parametrize(
    "content", [b"[]\n", b'{"epochs": "2"}\n', NOT_UTF8 + b"\n", NESTED + b"\n"]
)
def test_a_damaged_folder_is_one_row_among_others(name, content, tmp_path, capsys):
    damaged = make(tmp_path / "damaged")
    (damaged / name).write_bytes(content)
    make(tmp_path / "whole", result=RESULT)
    runs = listed(capsys, tmp_path)
    assert runs["damaged"]["state"] == "damaged"
    assert str(damaged / name) in runs["damaged"]["note"]
    assert "\n" not in runs["damaged"]["note"]
    assert runs["whole"]["state"] == "finished"
    assert call("runs", tmp_path) == 0
    assert "damaged: damaged; " in capsys.readouterr().out


def test_a_folder_without_a_configuration_is_damaged(tmp_path, capsys):
    (make(tmp_path / "lost") / run_folder.CONFIG).unlink()
    assert "config.json: is missing" in listed(capsys, tmp_path)["lost"]["note"]


def test_a_run_of_another_version_is_listed_but_not_offered(tmp_path, capsys):
    file = make(tmp_path / "old", done=1) / run_folder.CONFIG
    written = json.loads(file.read_text())
    del written["method"]
    file.write_text(json.dumps(written))
    run = listed(capsys, tmp_path)["old"]
    assert (run["state"], run["method"], run["epochs_done"]) == ("interrupted", None, 1)
    assert "--resume" not in run["note"]


def test_a_users_method_file_is_named_but_not_run(tmp_path, capsys):
    folder = make(tmp_path / "mine", done=1)
    (folder / run_folder.METHOD).write_text("raise SystemExit('it was run')")
    file = folder / run_folder.CONFIG
    written = json.loads(file.read_text())
    written["method"]["from"] = {"name": "twins", "sha256": "0" * 64}
    file.write_text(json.dumps(written))
    run = listed(capsys, tmp_path)["mine"]
    assert run["method"] == "twins.py"
    assert run["note"].endswith(f"--resume {folder} --method twins.py`")


@pytest.mark.parametrize(
    "source",
    [
        "from train.methods.base import Method\nMETHOD = Method()\n",
        "from train.methods.agw import METHOD\n",
    ],
)
def test_a_method_file_without_a_class_of_its_own_is_named_too(
    source, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(finding, "own_module", [])
    file = tmp_path / "twins.py"
    file.write_text(source)
    cfg = find_preset(str(file)).config
    cfg = config.with_data(cfg, root=Path("/nowhere"))
    run_folder.create(tmp_path / "run", config.to_json(cfg), overwrite=False)
    assert run_folder.read_config(tmp_path / "run") == cfg
    run = listed(capsys, tmp_path)["run"]
    assert run["method"] == "twins.py"
    assert run["note"].endswith("--method twins.py`")
    finding.own_module.clear()
    assert "name it: --method twins.py" in refused(capsys, "train", "--resume", tmp_path / "run")
    assert call("train", file, "--help") == 0


@pytest.mark.parametrize(
    ("spectra", "dhsm", "name"),
    [(("R", "G"), True, "cdp-dhsm"), (("R", "G"), False, "cdp"), ((), True, "baseline")],
)
def test_the_part_of_cdp_that_was_used_is_named(spectra, dhsm, name, tmp_path, capsys):
    method = Method()
    method = dataclasses.replace(method, dhsm=dataclasses.replace(method.dhsm, enabled=dhsm))
    cfg = Config(data=DataOptions(root=tmp_path, spectra=spectra), method=method)
    run_folder.create(tmp_path / "run", config.to_json(cfg), overwrite=False)
    assert listed(capsys, tmp_path)["run"]["method"] == name


def test_trials_are_listed_below_their_run(tmp_path, capsys):
    make(tmp_path / "ten", done=0, trial="all")
    make(tmp_path / "ten" / "trial-01", result=RESULT)
    make(tmp_path / "ten" / "trial-02", done=1)
    (run,) = listed(capsys, tmp_path).values()
    assert [trial["state"] for trial in run["trials"]] == ["finished", "interrupted"]
    assert (run["epochs_done"], run["epochs"], run["state"]) == (3, 20, "interrupted")
    assert run["note"].startswith("1 of 10 trials are finished; resume with `cdp train --resume")
    with run_folder.lock(tmp_path / "ten" / "trial-02"):
        assert listed(capsys, tmp_path)["ten"]["state"] == "running"
    (tmp_path / "ten" / "trial-02" / run_folder.METRICS).write_text("{}\n")
    run = listed(capsys, tmp_path)["ten"]
    assert (run["state"], run["note"][:9]) == ("damaged", "trial-02:")
    shutil.rmtree(tmp_path / "ten" / "trial-02")
    for n in range(2, 11):
        make(tmp_path / "ten" / f"trial-{n:02d}", result=RESULT)
    run_folder.write_result(tmp_path / "ten" / run_folder.RESULT, RESULT | {"rank1": 51.5})
    run = listed(capsys, tmp_path)["ten"]
    assert (run["state"], run["rank1"], run["epochs_done"]) == ("finished", 51.5, 20)


def test_the_newest_come_first_and_experiments_stay_together(tmp_path, capsys):
    names = ("old", "table5/cdp-seed-0", "middle", "table5/cdp-seed-1")
    for age, name in enumerate(reversed(names)):
        folder = make(tmp_path / name, result=RESULT)
        for file in folder.iterdir():
            os.utime(file, (time.time() - 3600 * age,) * 2)
    (tmp_path / "table5" / "table5").mkdir()  # of tables, no run
    (tmp_path / "latest").symlink_to(tmp_path / "middle")
    order = list(listed(capsys, tmp_path))
    assert order == ["cdp-seed-1", "cdp-seed-0", "middle", "old"]
    assert call("runs", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:8]] == ["table5/", *order]
    assert "(2 runs)" in lines[3]
    assert [line.split()[-4:-2] for line in lines[6:8]] == [["1", "h"], ["3", "h"]]


def test_the_folder_may_be_a_run_itself(tmp_path, capsys):
    folder = make(tmp_path / "run", result=RESULT)
    assert list(listed(capsys, folder)) == ["run"]
    assert call("runs", folder) == 0


def test_a_folder_without_runs_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("runs") == 0
    assert "no runs in runs; `cdp train demo` makes one" in capsys.readouterr().out
    assert call("runs", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert refused(capsys, "runs", "nowhere") == "cdp: nowhere: no such folder"


def test_listing_runs_never_stops_a_training_from_starting(tmp_path):
    folder = make(tmp_path / "run")
    looking = threading.Event()

    def look() -> None:
        import fcntl

        with (folder / run_folder.CONFIG).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            looking.set()
            time.sleep(run_folder.PATIENCE_S / 4)

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait()
    with run_folder.lock(folder):
        assert run_folder.is_locked(folder)
    thread.join()
    assert not run_folder.is_locked(folder)
