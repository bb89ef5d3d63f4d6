"""The command line end to end: train, eval, make, preview, and wrong use."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import cdp
from pipeline.datasets import synthetic
from tests.front_door import SMALL, call, refused
from train import checkpoint
from train.commands.ending import fail
from train.live.display import Display
from train.paper.contents import EXPERIMENTS
from train.presets import PRESETS, preset_groups

REPOSITORY = Path(cdp.__file__).parent
EPOCH_FIELDS = {
    *("event", "epoch", "step", "loss", "loss_cls", "loss_tri", "lr", "images_per_second"),
    *("data_wait", "cores_taken", "confidence", "probability"),
}
RESULT_FIELDS = {
    *("rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "chance_rank1"),
    *("num_query", "num_gallery", "protocol"),
}


def events(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def curve(run: Path) -> list[tuple]:
    """Returns the deterministic values of each epoch's record."""
    fields = ("loss", "loss_cls", "loss_tri", "confidence", "probability")
    return [tuple(str(line[f]) for f in fields) for line in events(run, "epoch")]


@pytest.fixture(scope="module")
def run(people, tmp_path_factory) -> Path:
    """A finished run of two epochs; tests must not change it."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    args = ("--data.root", people, "--run-dir", folder, *SMALL, "--eval-every", "1")
    assert call("train", "demo", *args) == 0
    return folder


def test_a_run_writes_all_documented_files(run, people):
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["root"] == str(people)
    assert (config["device"], config["precision"]) == ("cpu", "off")
    assert config["data"]["cache"] == "host"
    epochs = events(run, "epoch")
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert set(epochs[0]) >= EPOCH_FIELDS
    for line in epochs:
        assert 0 <= line["data_wait"] < 1
        assert 0 <= line["cores_taken"] <= 1
        assert line["images_per_second"] > 0
        assert sum(line["probability"].values()) == pytest.approx(1)
        assert set(line["confidence"]) == set("RGBX")
        assert line["loss"] == pytest.approx(line["loss_cls"] + line["loss_tri"], rel=1e-5)
    assert set(epochs[0]["probability"].values()) == {0.25}
    steps = [line["step"] for line in epochs]
    names = [f"step-{step:07d}.safetensors" for step in steps]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == names
    result = json.loads((run / "result.json").read_text())
    assert set(result) >= RESULT_FIELDS
    evaluations = events(run, "eval")
    assert [line["epoch"] for line in evaluations] == [1, 2]
    assert evaluations[-1] == {"event": "eval", "epoch": 2} | result


def test_the_second_epoch_follows_eq_6_and_7(run):
    first, second = events(run, "epoch")
    missing = {name: 1 - r for name, r in first["confidence"].items()}
    for name, probability in second["probability"].items():
        expected = 0.1 * 0.25 + 0.9 * missing[name] / sum(missing.values())
        assert probability == pytest.approx(expected, abs=1e-12)


def test_without_dhsm_the_probabilities_stay_uniform(people, tmp_path):
    folder = tmp_path / "run"
    args = ["--data.root", people, "--run-dir", folder, *SMALL, "--dhsm.no-enabled"]
    assert call("train", "demo", *args) == 0
    assert all(set(e["probability"].values()) == {0.25} for e in events(folder, "epoch"))


def test_eval_repeats_the_result_exactly_and_shows_the_table(run, tmp_path, capsys):
    before = (run / "result.json").read_bytes()
    (run / "result.json").unlink()
    assert call("eval", run, "--device", "cpu") == 0
    assert (run / "result.json").read_bytes() == before
    printed = capsys.readouterr().out
    assert "rank1" in printed
    assert f"{json.loads(before)['mAP']:.1f}" in printed
    for mode in ("all-search", "indoor", "single-shot", "multi-shot"):
        assert mode in printed


def test_eval_shows_figures_that_it_cannot_write(run, tmp_path, capsys):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "result.json").unlink()
    (copy / "result.json").mkdir()
    assert call("eval", copy, "--device", "cpu") == 1
    printed = capsys.readouterr()
    assert "all-search" in printed.out
    assert printed.err == f"cdp: {copy / 'result.json'}: Is a directory\n"


def test_equal_seeds_give_bit_identical_losses_and_others_differ(run, people, tmp_path):
    args = ("train", "demo", "--data.root", people, *SMALL)
    # Threads, prefetch depth and pixel cache must not change the losses.
    repeat, other = tmp_path / "repeat", tmp_path / "other"
    differently = ("--data.threads", "1", "--data.prefetch", "4", "--data.cache", "none")
    assert call(*args, "--run-dir", repeat, *differently) == 0
    assert call(*args, "--run-dir", other, "--seed", "1") == 0
    assert curve(repeat) == curve(run)
    assert all(a != b for a, b in zip(curve(other), curve(run), strict=True))
    weights = [load_file(checkpoint.latest(folder)) for folder in (run, repeat)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_an_existing_run_is_not_touched_without_overwrite(run, people, tmp_path, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    args = ("train", "demo", "--data.root", people, *SMALL)
    assert "holds a run" in refused(capsys, *args, "--run-dir", run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    keepsake = tmp_path / "holiday.txt"
    keepsake.write_text("not a run")
    assert "is not a run folder" in refused(capsys, *args, "--run-dir", tmp_path, "--overwrite")
    assert keepsake.read_text() == "not a run"


def test_overwrite_replaces_a_run(run, people, tmp_path, capsys):
    folder = tmp_path / "run"
    args = ("train", "demo", "--data.root", people, "--run-dir", folder, *SMALL, "--epochs", "1")
    assert call(*args) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next      cdp report {folder}"
    (folder / "old").touch()
    assert call(*args, "--overwrite") == 0
    assert not (folder / "old").exists()
    assert len(events(folder, "epoch")) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "nonsense"], "no preset 'nonsense'; there are demo, small, sysu, regdb, llcm"),
        (["train", "agv"], "no preset 'agv' (did you mean agw?); there are demo, small, sysu"),
        (["train", "demo", "--data.root", "/nowhere"], "/nowhere: no such folder; `cdp data make"),
        (["train", "demo", "--data.root", "PEOPLE", "--data.p", "99"], "has only 12 training"),
        (
            ["train", "demo", "--data.root", "PEOPLE", "--model.weights", "/nowhere.pth"],
            "--model.weights /nowhere.pth: no such file",
        ),
        (["eval", "/nowhere"], "/nowhere: is not a run folder"),
        (["data", "make", "PEOPLE"], "exists and is not empty"),
        (["data", "preview", "PEOPLE", "--out", "x.jpg"], "--out x.jpg: must end in .png"),
        (
            ["train", "demo", "--data.root", "PEOPLE", "--augmentation.crop-padding-px", "128"],
            "--augmentation.crop-padding-px 128: must be less than the image's height and width",
        ),
        (["eval", "PEOPLE"], "is not a run folder (config.json is missing)"),
        (
            ["score", "--query", "a.npz", "--gallery", "b.npz", "--protocol", "sysu"],
            "a.npz: no such",
        ),
        (["data", "check", "/nowhere"], "/nowhere: no such folder"),
        (["data", "check", "PEOPLE", "--kind", "regdb"], "faults (missing list"),
        (["bench", "nonsense"], "no part 'nonsense'; there are stages, loader, peers"),
        (
            ["bench", "step", "--preset", "nonsense"],
            "no preset 'nonsense'; there are demo, small, sysu",
        ),
        (
            ["bench", "loader", "--json", "/proc/x/b.json"],
            "/proc/x/b.json: cannot create its folder",
        ),
        (["train", "--resume", "/nowhere"], "/nowhere: is not a run folder"),
        (["train", "--replay-batch", "PEOPLE"], "is not a run folder (config.json is missing)"),
        (["train", "table", "--data.root", "/nowhere.csv"], "/nowhere.csv: no such"),
        (["train", "demo", "--data.flip", "nan"], "--data.flip nan: must be in 0…1"),
        (["train", "demo", "--loss.margin", "inf"], "--loss.margin inf: must be at least 0"),
        (["data", "make", "x", "--num-test", "0"], "--num-test 0: must be in 1…3000"),
        (["train", "demo", "--data.threads", "99999"], "--data.threads 99999: must be at most"),
        (["train", "demo", "--data.width-px", "9999999"], "--data.width-px 9999999: must be at"),
        (
            ["train", "demo", "--data.root", "PEOPLE", "--run-dir", os.fsdecode(b"\xff")],
            "\\xff: the name of a run folder must be UTF-8",
        ),
        (["nonsense"], "unknown command 'nonsense'; see cdp --help"),
    ],
)
def test_wrong_use_gives_one_clear_line(args, message, people, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = [str(people) if arg == "PEOPLE" else arg for arg in args]
    assert message in refused(capsys, *args)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["train", "demo", "--data.k", "3"], ["train", "demo", "--nope"]])
def test_wrong_options_end_with_status_2(args, capsys):
    assert call(*args) == 2
    assert "--data.k 3: must be even" in capsys.readouterr().err or "--nope" in args


def test_an_unreadable_image_is_named(people, tmp_path, capsys):
    import shutil

    root = tmp_path / "people"
    shutil.copytree(people, root)
    victim = next(root.glob("cam4/*/0001.jpg"))
    victim.write_bytes(victim.read_bytes()[:200])
    line = refused(
        capsys, "train", "demo", "--data.root", root, "--run-dir", tmp_path / "r", *SMALL
    )
    assert str(victim) in line


def test_a_diverging_run_stops_with_the_step_named(people, tmp_path, capsys):
    args = ("--data.root", people, "--run-dir", tmp_path / "r", *SMALL)
    args += ("--augmentation.gray", "1")
    assert call("train", "demo", *args, "--optimizer.lr", "1e30") == 1
    error = capsys.readouterr().err
    assert "loss is nan at epoch 1, step 2" in error or "loss is inf at epoch 1, step 2" in error
    assert "--optimizer.lr" in error
    assert "Traceback" not in error
    assert f"`cdp train --replay-batch {tmp_path / 'r'}` shows that batch" in error

    config = tmp_path / "r" / "config.json"  # as if the run had cached pixels on a GPU
    config.write_text(config.read_text().replace('"cache": "host"', '"cache": "gpu"'))
    assert '"cache": "gpu"' in config.read_text()
    capsys.readouterr()
    assert call("train", "--replay-batch", tmp_path / "r") == 0
    shown = capsys.readouterr().out
    kept = json.loads((tmp_path / "r" / "not_finite.json").read_text())
    assert (kept["epoch"], kept["step"], len(kept["files"])) == (1, 2, 24)
    assert all(f"{path}\n" in shown for path in kept["files"])
    with Image.open(tmp_path / "r" / "not_finite.png") as picture:
        assert picture.width > 8 * 16
        red, green, blue = picture.convert("RGB").split()
        assert red.tobytes() == green.tobytes() == blue.tobytes()  # augmented as in training
    assert shown.count("jitter  ") == 12  # the infrared images
    config.write_text(config.read_text().replace('"jitter": 0.1', '"jitter": 0.0'))
    assert call("train", "--replay-batch", tmp_path / "r") == 0
    assert "jitter" not in capsys.readouterr().out


def test_there_is_nothing_to_replay_without_a_failed_batch(run, capsys):
    assert "nothing to replay" in refused(capsys, "train", "--replay-batch", run)


def test_a_damaged_or_missing_checkpoint_is_rejected(run, tmp_path, capsys):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    weights = checkpoint.latest(folder)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{weights}: cannot be loaded" in refused(capsys, "eval", folder)
    shutil.rmtree(folder / "checkpoints")
    assert "has no checkpoint yet" in refused(capsys, "eval", folder)


def test_figures_of_stand_in_galleries_are_labelled(run, people, tmp_path, capsys):
    import shutil

    root = Path(shutil.copytree(people, tmp_path / "people"))
    (root / "exp" / "rand_perm_cam.mat").unlink()
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    assert "rand_perm_cam.mat: missing" in refused(capsys, "eval", folder, "--data-root", root)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('galleries": false', 'galleries": true'))
    assert call("eval", folder, "--data-root", root, "--device", "cpu") == 0
    assert "not comparable with published figures" in capsys.readouterr().out.replace("\n", " ")
    result = json.loads((folder / "result-on-people.json").read_text())
    assert all("not comparable" in mode["remark"] for mode in result["modes"])


def test_preview_draws_every_spectrum(people, tmp_path):
    out = tmp_path / "sheet.png"
    assert call("data", "preview", people, "--out", out, "--identities", "3") == 0
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 7 * 128
        assert sheet.height > 3 * 256
        plain = np.asarray(sheet)
    args = ("--identities", "3", "--augmentation.crop-padding-px", "10")
    assert call("data", "preview", people, "--out", out, *args) == 0
    with Image.open(out) as sheet:
        assert (np.asarray(sheet) == 0).mean() > (plain == 0).mean() + 0.02  # black borders


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "demo", "--help"],
        ["eval", "--help"],
        ["data", "make", "--help"],
        ["data", "preview", "--help"],
        ["data", "check", "--help"],
        ["score", "--help"],
        ["bench", "--help"],
        ["data", "--help"],
        ["doctor", "--help"],
        ["runs", "--help"],
    ],
)
def test_every_command_has_help(args, capsys):
    assert call(*args) == 0
    printed = capsys.readouterr().out
    assert "cdp" in printed
    if args[0] == "train":
        for option in ("--data.root", "--dhsm.alpha", "--optimizer.lr", "--run-dir", "default"):
            assert option in printed


@pytest.mark.parametrize("command", ["train agw", "search", "embed", "train --resume"])
def test_lines_of_help_are_as_full_as_the_terminal_allows(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert call(*command.split(), "--help") == 0
    about, _, boxes = capsys.readouterr().out.partition("\n\nusage: ")
    lines = [*about.splitlines(), "", *(x.strip("│").rstrip() for x in boxes.splitlines())]
    assert max(map(len, lines)) <= 80
    for line, below in pairwise(lines):
        indent, indent_below = (len(x) - len(x.lstrip()) for x in (line, below))
        word = re.match(r"[^ ,]+,?", below.lstrip())  # at a comma, tyro breaks words
        is_text = indent > 5 or (indent == 0 and line and line in about)
        if is_text and indent == indent_below and word:
            assert len(line) + 1 + len(word[0]) > (77 if indent else 80), f"{line}\n{below}"


def test_train_without_a_name_lists_what_there_is_in_groups(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert call("train") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0] == "cdp: train: which preset?"
    assert max(map(len, lines)) <= 80
    groups = dict(part.split(":\n") for part in printed.err.split("\n\n")[1:-1])
    assert list(groups) == ["presets", "rows of the paper's tables", "methods"]
    assert [line.split()[0] for line in groups["presets"].splitlines() if line[2] != " "] == [
        *PRESETS
    ]
    words = printed.err.replace(",", " ").split()
    assert {name for group in preset_groups().values() for name in group} <= set(words)
    assert call("train", "--help") == 0
    assert groups["methods"] in capsys.readouterr().out


def test_help_on_an_experiment_lists_its_rows_and_their_labels(capsys):
    assert call("experiment", "table2", "--help") == 0
    about, _, rows = capsys.readouterr().out.partition("\n\nusage: ")[0].partition("\n\nrows:\n")
    assert about == "Table II: other methods."
    assert [tuple(line.split(maxsplit=1)) for line in rows.splitlines()] == [
        (name, label) for label, name in EXPERIMENTS["table2"].rows
    ]


def test_the_list_of_commands_is_printed_without_loading_torch():
    code = "import sys, cdp\ntry: cdp.main()\nfinally: print('torch' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    words = told.stdout.replace(",", " ").split()
    assert set(PRESETS) <= set(words)
    assert words[-1] == "False"


def test_without_arguments_cdp_names_six_commands_for_beginners(capsys):
    assert call() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("  ")]
    assert max(map(len, lines)) <= 80
    begun = [" ".join(line.split()[1:3]) for line in lines]
    assert begun == [
        *("train demo", "report runs/demo", "data check", "train sysu", "train table"),
        "doctor what",
    ]
    assert "cdp --help" in printed.err
    assert call("--help") == 0
    every = capsys.readouterr().out
    assert all(f"cdp {command} " in every for command in cdp.COMMANDS)
    assert max(map(len, every.splitlines())) <= 80


@pytest.mark.slow
def test_the_installed_command_trains_on_new_people(tmp_path):
    """In its own process, from another folder, as a new user would run it."""

    def command(*args: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, REPOSITORY / "cdp.py", *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            },
        )

    sizes = ("--num-train", "6", "--num-val", "1", "--num-test", "3", "--images-per-camera", "2")
    assert call("data", "make", tmp_path / "set", "--thermal", *sizes) == 0
    assert "thermal" in (synthetic.title(tmp_path / "set") or "")
    done = command("train", "demo", "--data.root", "set", "--run-dir", "r", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "rank1" in done.stdout
    assert "epoch   2" in done.stdout
    assert json.loads((tmp_path / "r" / "result.json").read_text())["num_query"] > 0


def test_a_reader_that_has_seen_enough_causes_no_traceback():
    """As in `cdp --help | head -1`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, REPOSITORY / "cdp.py", "--help"], **pipes) as command:
        assert command.stdout
        assert command.stderr
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 1


def test_output_that_cannot_be_written_is_one_line(monkeypatch, capsys):
    with monkeypatch.context() as patched, open("/dev/full", "w") as full:
        patched.setattr(sys, "stdout", full)
        assert call("--help") == 1
    assert capsys.readouterr().err == "cdp: standard output: No space left on device\n"


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_closed_streams_change_no_status(closed, monkeypatch):
    """As after `>&-`."""
    monkeypatch.setattr(sys, closed, None)
    assert call("--help") == 0
    assert call("nonsense") == 2


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_temporary_files(number, people, tmp_path, monkeypatch):
    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: os.kill(os.getpid(), number)

    monkeypatch.setattr(Display, "progress", progress)
    before = signal.getsignal(number)
    assert call("data", "pack", people, "--out", tmp_path / "shards") == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


def test_a_line_that_nobody_can_read_keeps_its_status(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with pytest.raises(SystemExit) as ended:
        fail("SIGINT: saved", 3)
    assert ended.value.code == 3


@pytest.mark.parametrize(
    "found", [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"RANK": "x"}, {"RANK": "0", "WORLD_SIZE": "2"}]
)
def test_half_of_torchruns_environment_is_refused(found, run, monkeypatch, capsys):
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    line = refused(capsys, "train", "--resume", run)
    assert " ".join(f"{name}={value}" for name, value in found.items()) in line
    assert "unset them, or start with torchrun" in line
