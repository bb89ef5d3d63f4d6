"""The files of a run folder: read, or rejected in one line that names them."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.records import Modality, make_index
from pipeline.errors import InputError, naming, said_of_file
from tests.front_door import refused
from train import config, run_folder
from train.config import Config, Stretch

FIGURES = dict.fromkeys(("rank1", "rank5", "rank10", "rank20", "mAP", "mINP"), 50.0)
MODE = {
    **FIGURES,
    "protocol": "sysu",
    "distance": "cosine",
    "chance_rank1": 2.0,
    "num_trials": 1,
    "std": FIGURES,
    "num_query": 7,
    "num_gallery": 9,
}
RESULT = MODE | {"modes": [MODE]}
EPOCH = {
    **dict.fromkeys(run_folder.EPOCH_NUMBERS, 1),
    "event": "epoch",
    "confidence": {"R": 0.5},
    "probability": {"R": 1.0},
}
NOT_UTF8 = "é".encode("latin-1")
NESTED = b"[" * 100_000


def without(record: dict, name: str) -> dict:
    return {key: value for key, value in record.items() if key != name}


def in_one_line(error: pytest.ExceptionInfo, file) -> None:
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b'{"data": []}',
        b'{"data": 3}',
        b'{"epochs": "ten"}',
        b'{"epochs": 2.5}',
        b'{"epochs": true}',
        b'{"device": "tpu"}',
        b'{"data": {"spectra": "RGB"}}',
        b'{"data": {"spectra": [1]}}',
        b'{"data": {"trial": true}}',
        b'{"data": {"root": 5}}',
        b'{"optimizer": {"lr": NaN}}',
        b'{"history": [[1, 2]]}',
        NOT_UTF8,
        NESTED,
    ],
)
def test_an_invalid_configuration_is_rejected(tmp_path, content):
    file = tmp_path / run_folder.CONFIG
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        run_folder.read_config(tmp_path)
    in_one_line(error, file)


@pytest.mark.parametrize(
    "line",
    [
        b"7",
        b"[]",
        b"{}",
        b'{"event": "holiday"}',
        json.dumps(without(EPOCH, "seconds")).encode(),
        json.dumps(EPOCH | {"loss": "low"}).encode(),
        json.dumps(EPOCH | {"confidence": {}}).encode(),
        json.dumps({"event": "eval", "epoch": 1}).encode(),
        NOT_UTF8,
        NESTED,
    ],
)
def test_an_invalid_metrics_line_is_named(tmp_path, line):
    file = tmp_path / run_folder.METRICS
    file.write_bytes(json.dumps(EPOCH).encode() + b"\n" + line + b"\n")
    with pytest.raises(InputError) as error:
        run_folder.read_metrics(tmp_path)
    in_one_line(error, file)
    assert line == NOT_UTF8 or "line 2 is not a valid record" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"7", b"null", NOT_UTF8, NESTED),
        json.dumps(MODE).encode(),
        json.dumps(RESULT | {"modes": [without(MODE, "mAP")]}).encode(),
        json.dumps(RESULT | {"std": None}).encode(),
    ],
)
def test_an_invalid_result_is_rejected(tmp_path, content):
    file = tmp_path / run_folder.RESULT
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        run_folder.read_result(tmp_path)
    in_one_line(error, file)
    assert f"`cdp eval {tmp_path}` writes it again" in str(error.value)


def test_valid_files_are_read(tmp_path):
    run_folder.append_metrics(tmp_path, EPOCH)
    run_folder.append_metrics(tmp_path, {"event": "eval", "epoch": 1, **RESULT})
    assert [record["event"] for record in run_folder.read_metrics(tmp_path)] == ["epoch", "eval"]
    for result in (RESULT, {"test": None, "remark": "trained without a test (--no-test)"}):
        run_folder.write_result(tmp_path / run_folder.RESULT, result)
        assert run_folder.read_result(tmp_path) == result


MADE_WITH = {
    "result-flip-test.json": ({"test_time": {"flip_test": True, "re_rank": None}}, "flip-test"),
    "result-re-rank.json": (
        {"test_time": {"flip_test": False, "re_rank": {"k1": 20, "k2": 6, "lambda": 0.3}}},
        "re-ranked (k1 20, k2 6, λ 0.3)",
    ),
    "result-on-people.json": ({"data": "/people"}, "on /people"),
}


@pytest.mark.parametrize("name", MADE_WITH)
def test_figures_of_a_test_with_options_never_pass_as_plain_ones(tmp_path, name):
    made_with, words = MADE_WITH[name]
    for file in (run_folder.RESULT, name, "result-my-own.json"):
        run_folder.write_result(tmp_path / file, RESULT | made_with)
    with pytest.raises(InputError) as error:
        run_folder.read_result(tmp_path)
    in_one_line(error, tmp_path / run_folder.RESULT)
    assert f"another test, {words}, not of the plain one; `cdp eval" in str(error.value)
    assert run_folder.other_results(tmp_path) == {name: RESULT | made_with}
    run_folder.write_result(tmp_path / name, RESULT)
    assert run_folder.other_results(tmp_path) == {}


def test_a_result_with_an_unclear_test_is_rejected(tmp_path):
    letter = {"k1": 20, "k2": 6, "lambda": "λ"}
    for test_time in (7, {}, *({"flip_test": True, "re_rank": how} for how in (7, {}, letter))):
        result = RESULT | {"test_time": test_time}
        run_folder.write_result(tmp_path / "result-re-rank.json", result)
        with pytest.raises(InputError, match=r"result-re-rank\.json: is not a valid result"):
            run_folder.other_results(tmp_path)


@pytest.mark.parametrize("command", [("eval",), ("report",), ("train", "--resume"), ("export",)])
def test_commands_reject_a_damaged_configuration(tmp_path, capsys, command):
    (tmp_path / run_folder.CONFIG).write_bytes(NOT_UTF8)
    more = ("--format", "safetensors") if command == ("export",) else ()
    line = refused(capsys, *command, tmp_path, *more)
    assert line.startswith(f"cdp: {tmp_path / run_folder.CONFIG}: cannot be read")


def test_a_folder_that_a_dying_run_left_empty_can_be_used(tmp_path):
    (tmp_path / run_folder.CHECKPOINTS).mkdir()
    (tmp_path / f".{run_folder.CONFIG}.123").touch()
    assert not run_folder.is_run(tmp_path)
    run_folder.create(tmp_path, config.to_json(Config()), overwrite=False)
    assert run_folder.read_config(tmp_path) == Config()
    (tmp_path / run_folder.CONFIG).unlink()
    (tmp_path / run_folder.CHECKPOINTS / "step-0000001.safetensors").touch()
    with pytest.raises(InputError, match="exists and is not a run folder"):
        run_folder.check_free(tmp_path, overwrite=True)


def test_only_the_number_of_epochs_changes(tmp_path):
    before = Config(seed=3, epochs=10)
    run_folder.create(tmp_path, config.to_json(before), overwrite=False)
    longer = Config(epochs=20, history=(Stretch(10, 10),))
    run_folder.set_epochs(tmp_path, longer)
    assert run_folder.read_config(tmp_path) == Config(seed=3, epochs=20, history=longer.history)


def test_bad_images_with_undecodable_names_are_listed(tmp_path):
    index = make_index(tmp_path, [(os.fsdecode(b"\xff.jpg"), 1, 1, Modality.RGB)])
    run_folder.write_bad_images(tmp_path, index, {0: "no image"})
    assert b"/\xff.jpg\tno image\n" in (tmp_path / run_folder.BAD_IMAGES).read_bytes()
    assert np.array_equal(index.paths, [b"\xff.jpg"])


def a_run(folder: Path) -> Path:
    run_folder.create(folder, config.to_json(Config()), overwrite=False)
    (folder / run_folder.METRICS).touch()
    return folder


def test_a_run_folder_may_be_a_link_or_the_current_folder(tmp_path, monkeypatch):
    target, link = a_run(tmp_path / "target"), tmp_path / "link"
    link.symlink_to(target)
    monkeypatch.chdir(target)
    for folder in (link, Path()):
        run_folder.create(folder, config.to_json(Config(epochs=7)), overwrite=True)
        assert sorted(p.name for p in target.iterdir()) == ["checkpoints", "config.json"]
        assert run_folder.read_config(target).epochs == 7
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "new")
    run_folder.create(dangling, config.to_json(Config()), overwrite=False)
    assert run_folder.is_run(tmp_path / "new")
    assert link.is_symlink()


def test_overwrite_removes_only_runs(tmp_path):
    """Many programs write a config.json."""
    for content in ('{"architectures": ["ResNet"]}', "[]", "{"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=r"its config.json is not that of a run"):
            run_folder.create(tmp_path, config.to_json(Config()), overwrite=True)
        assert (tmp_path / "config.json").read_text() == content


def test_overwrite_does_not_remove_what_the_new_run_needs(tmp_path):
    run = a_run(tmp_path / "run")
    for needed in (run, run / "people", tmp_path / "run" / ".." / "run" / "x.csv"):
        with pytest.raises(InputError, match=f"would delete {needed}, which the new run needs"):
            run_folder.check_free(run, True, [tmp_path, needed])
    run_folder.check_free(run, True, [tmp_path])


def test_metrics_shorter_than_the_checkpoint_expects_end_with_a_whole_record(tmp_path):
    """What a machine that lost power leaves."""
    run = a_run(tmp_path)
    run_folder.append_metrics(run, EPOCH)
    whole = run_folder.metrics_bytes(run)
    with (run / run_folder.METRICS).open("a") as file:
        file.write('{"event": "ep')
    assert run_folder.roll_back(run, 3 * whole)
    assert run_folder.read_metrics(run) == [EPOCH]
    run_folder.append_metrics(run, EPOCH)
    assert not run_folder.roll_back(run, whole)
    assert run_folder.metrics_bytes(run) == whole


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    file = tmp_path / "result.json"
    file.mkdir()
    with pytest.raises(IsADirectoryError) as error:
        run_folder.write(file, b"{}")
    assert said_of_file(error.value) == f"{file}: Is a directory"
    with pytest.raises(OSError, match="No space") as error, naming(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert said_of_file(error.value) == f"{file}: No space left on device"
    assert list(tmp_path.iterdir()) == [file]
