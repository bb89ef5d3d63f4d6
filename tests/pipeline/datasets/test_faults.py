"""Planted faults on the command line: `data check` and `train` refuse each in one line."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.datasets import kinds
from pipeline.datasets.synthetic import SyntheticOptions, make
from pipeline.errors import InputError
from pipeline.options import DataOptions
from tests import trees
from tests.front_door import SMALL, call, refused
from tests.pipeline.datasets.planted import (
    FAULTS,
    HARMLESS,
    NO_TEST,
    data_root,
    files,
    link,
    some_folder,
)

KINDS = ("sysu", "regdb", "llcm", "table")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    options = SyntheticOptions(num_train=6, num_val=2, num_test=4, images_per_camera=2)
    make(folder / "sysu", options, workers=1)
    trees.regdb(folder / "regdb", num_ids=8, num_images=2)
    trees.llcm(folder / "llcm", num_train=4, num_test=3)
    trees.table(folder / "table", num_train=4, num_test=3)
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture
def tree(whole, tmp_path) -> Callable[[str], Path]:
    """Copies an intact data set, to be changed."""
    return lambda kind: Path(shutil.copytree(whole[kind], tmp_path / "DIR"))


@pytest.mark.parametrize("name", FAULTS)
def test_check_and_train_refuse_each_fault(name, tree, tmp_path, capsys):
    kind, plant, message = FAULTS[name]
    root = tree(kind)
    plant(root)
    preset = {"sysu": "demo"}.get(kind, kind)
    args = ("--data.root", data_root(root), "--run-dir", tmp_path / "run", *SMALL)
    assert message in refused(capsys, "train", preset, *args, "--data.kind", kind)
    assert not (tmp_path / "run").exists()
    line = refused(capsys, "data", "check", data_root(root), "--kind", kind)
    assert "fix and check again" in line or message in line


def what_is_read(root: Path, kind: str) -> list[object]:
    """Returns all that training and test read from a data set, images by relative path."""

    def images(index, rows) -> list[tuple]:
        names = [str(index.path(r).resolve().relative_to(root.resolve())) for r in rows]
        columns = (index.pids[rows], index.camids[rows], index.modality[rows])
        return [*zip(names, *(c.tolist() for c in columns), strict=True)]

    options = DataOptions(kind=kind)
    index = kinds.read_training(options, data_root(root))
    protocol = kinds.read_protocol(options, data_root(root))
    trials = [trial for mode in protocol.modes for trial in mode.trials]
    return [
        images(index, range(len(index))),
        protocol.rule,
        [(images(protocol.index, t.query), images(protocol.index, t.gallery)) for t in trials],
    ]


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_changes_are_read_alike(name, tree, whole, capsys):
    kind, change = HARMLESS[name]
    root = tree(kind)
    change(root)
    assert what_is_read(root, kind) == what_is_read(whole[kind], kind)
    assert call("data", "check", data_root(root)) == 0
    assert "no fault" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("sysu", "cam1"), ("sysu", "cam*/0*"), ("regdb", "Visible/1"), ("llcm", "test_vis/cam*/0*")],
)
def test_linked_folders_are_followed(kind, pattern, tree, whole):
    root = tree(kind)
    link(root, sorted(root.glob(pattern))[0])
    assert kinds.survey(root, kind).faults == []
    index, reference = (kinds.read_training(DataOptions(), r) for r in (root, whole[kind]))
    assert (index.paths == reference.paths).all()


def test_png_images_of_sysu_are_images(tree):
    root = tree("sysu")
    for file in files(some_folder(root)):
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
    assert kinds.survey(root, "sysu").faults == []


def test_regdb_with_one_trial_is_noted_once(tree, capsys):
    root = tree("regdb")
    for file in (root / "idx").iterdir():
        if not file.stem.endswith("_1"):
            file.unlink()
    assert call("data", "check", root) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert lines == [
        "note      idx: has no lists for trial 2, 3, 4, 5, 6, 7, 8, 9, 10: these cannot be trained"
    ]


def test_all_trials_are_checked_before_training_starts(tree, tmp_path, capsys):
    root = tree("regdb")
    (root / "idx/test_visible_9.txt").unlink()
    args = ("--data.root", root, "--trial", "all", "--run-dir", tmp_path / "run", *SMALL)
    assert "idx/test_visible_9.txt: missing" in refused(capsys, "train", "regdb", *args)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_without_a_test_can_be_trained(kind, tree, whole, capsys):
    root = tree(kind)
    NO_TEST[kind](root)
    options = DataOptions(kind=kind)
    index, reference = (kinds.read_training(options, data_root(r)) for r in (root, whole[kind]))
    assert (index.paths == reference.paths).all()
    with pytest.raises(InputError, match="enough to train on"):
        kinds.read_protocol(options, data_root(root))
    assert call("data", "check", data_root(root), "--kind", kind) == 0
    assert "enough to train on" in capsys.readouterr().out


def test_faults_are_counted_and_missing_images_may_be_skipped(tree, tmp_path, capsys):
    root = tree("table")
    for name in ("0-1-0.jpg", "0-2-0.jpg"):
        (root / "pictures" / name).unlink()
    args = ("train", "table", "--data.root", root / "people.csv", *SMALL)
    assert "(and 1 more: cdp data check " in refused(capsys, *args, "--run-dir", tmp_path / "run")
    options = DataOptions(on_bad_image="skip")
    assert len(kinds.read_training(options, root / "people.csv")) == 4 * 4 * 3


def test_a_table_may_name_its_rule(tree):
    root = tree("table")
    with (root / "people.csv").open() as opened:
        rows = list(csv.DictReader(opened))

    def write(rules: list[str]) -> None:
        with (root / "people.csv").open("w", newline="") as opened:
            writer = csv.DictWriter(opened, [*rows[0], "rule"])
            writer.writeheader()
            writer.writerows(r | {"rule": rule} for r, rule in zip(rows, rules, strict=True))

    def refusal() -> str:
        with pytest.raises(InputError, match=r"people\.csv") as error:
            kinds.read_protocol(DataOptions(), root / "people.csv")
        return str(error.value)

    write(["llcm" if r["split"] == "test" else "" for r in rows])
    assert kinds.read_protocol(DataOptions(), root / "people.csv").rule.cmc_unique_pids
    write(["llcm"] * (len(rows) - 1) + ["market"])
    assert f"line {len(rows) + 1}: rule is market, in most rows llcm; use one" in refusal()
    write(["llcm"] * (len(rows) - 1) + [""])
    assert "a test row without a rule" in refusal()
    write(["cuhk"] * len(rows))
    assert "rule is 'cuhk'; expected one of sysu, regdb, llcm, market, plain" in refusal()
    for row_ in rows:
        row_["camid"] = str(int(row_["camid"]) - 1)
    for rule, last in (("sysu", 6), ("llcm", 9)):
        write([rule] * len(rows))
        assert f"camid is 0; the cameras of rule {rule} are 1 to {last}" in refusal()


def test_a_renamed_image_causes_a_warning(tree):
    root = tree("sysu")
    folder = some_folder(root)
    files(folder)[0].rename(folder / "0099.jpg")
    warnings: list[str] = []
    kinds.read_protocol(DataOptions(), root, warnings.append)
    (line,) = warnings
    assert line.startswith(f"{folder}: its images are not numbered without gaps (1 such folders)")
