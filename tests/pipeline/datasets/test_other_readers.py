"""RegDB, LLCM and CSV tables: what is read and what is refused, on fake trees of their layout."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import sampler
from pipeline.datasets.kinds import KINDS, kind_of, read_protocol, read_training
from pipeline.datasets.records import Modality, make_index
from pipeline.errors import BadImageError, InputError
from pipeline.options import DataOptions
from pipeline.plan import Plan
from tests import trees


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    return {
        "regdb": trees.regdb(folder / "RegDB", write=trees.touch),
        "llcm": trees.llcm(folder / "LLCM", write=trees.touch),
        "table": trees.table(folder / "any"),
    }


def copy(root: Path, into: Path) -> Path:
    return Path(shutil.copytree(root, into / "copy"))


# --- RegDB ---


@pytest.mark.slow
def test_regdb_has_the_official_numbers_at_the_official_size(tmp_path):
    root = trees.regdb(tmp_path / "RegDB", num_ids=412, num_images=10, write=trees.touch)
    for trial in (1, 10):
        index = read_training(DataOptions(trial=trial), root)
        assert len(np.unique(index.pids)) == 206
        assert len(index) == 2 * 2060
        protocol = read_protocol(DataOptions(trial=trial), root)
        for mode in protocol.modes:
            (only,) = mode.trials
            assert len(only.query) == len(only.gallery) == 2060
            assert (protocol.num_matches(only) == 10).all()
        assert not set(index.pids.tolist()) & set(protocol.index.pids.tolist())


def test_regdb_searches_both_directions_over_one_trials_lists(roots):
    protocol = read_protocol(DataOptions(trial=4), roots["regdb"])
    assert protocol.name == "regdb trial 4"
    lines = (roots["regdb"] / "idx" / "test_thermal_4.txt").read_text().splitlines()
    (there,), (back,) = (mode.trials for mode in protocol.modes)
    thermal = [str(protocol.index.path(r).relative_to(roots["regdb"])) for r in there.gallery]
    assert thermal == [line.split()[0] for line in lines]
    assert (there.query == back.gallery).all()
    assert (there.gallery == back.query).all()
    assert (protocol.index.modality[there.query] == Modality.RGB).all()
    folders = [int(path.split("/")[1]) for path in thermal]
    assert folders == protocol.index.pids[there.gallery].tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: file.unlink(),
            "train_visible_2.txt: missing; --data.root must be",
        ),
        (lambda file: file.write_text("\n"), "train_visible_2.txt: lists no image"),
        (
            lambda file: file.write_text("Visible/1/a.bmp 0\nVisible/1/b.bmp\n"),
            "train_visible_2.txt, line 2: 'Visible/1/b.bmp' is not of the form",
        ),
        (lambda file: file.write_text("a.bmp 0\n"), "'a.bmp' has no numbered folder"),
    ],
)
def test_regdb_lists_that_are_damaged_are_named(roots, tmp_path, damage, message):
    root = copy(roots["regdb"], tmp_path)
    damage(root / "idx" / "train_visible_2.txt")
    with pytest.raises(InputError, match=message):
        read_training(DataOptions(trial=2), root)
    assert len(read_training(DataOptions(), root))


# --- LLCM ---


def test_llcm_galleries_are_those_that_the_published_code_draws(roots):
    root = roots["llcm"]
    protocol = read_protocol(DataOptions(), root)
    pids = [int(pid) for pid in (root / "idx" / "test_id.txt").read_text().split(",")]
    for mode, name in ((protocol.modes[0], "vis"), (protocol.modes[1], "nir")):
        assert len(mode.trials) == 10
        for t, trial in enumerate(mode.trials):
            random.seed(t)
            expected = []
            for pid in sorted(f"{pid:04d}" for pid in pids):
                for camera in range(1, 10):
                    folder = root / f"test_{name}" / f"cam{camera}" / pid
                    if folder.is_dir():
                        files = sorted(f"{folder}/{file}" for file in os.listdir(folder))
                        expected.append(random.choice(files))
            assert [str(protocol.index.path(row)) for row in trial.gallery] == expected


def test_llcm_queries_are_all_images_of_the_other_modality(roots):
    protocol = read_protocol(DataOptions(), roots["llcm"])
    modality = protocol.index.modality
    infrared, visible, published = (mode.trials[0] for mode in protocol.modes)
    assert infrared.query.tolist() == np.flatnonzero(modality == Modality.IR).tolist()
    assert visible.query.tolist() == np.flatnonzero(modality == Modality.RGB).tolist()
    # The published code reverses the second ranking.
    assert published.query.tolist() == visible.gallery.tolist()
    assert published.gallery.tolist() == visible.query.tolist()
    assert set(protocol.index.camids.tolist()) <= set(range(1, 10))


def test_llcm_training_reads_labels_and_cameras(roots):
    index = read_training(DataOptions(), roots["llcm"])
    assert sorted(set(index.pids.tolist())) == list(range(6))
    for row in (0, len(index) - 1):
        name = index.path(row).name
        assert int(name[:4]) - 1 == index.pids[row]
        assert int(name[6:8]) == index.camids[row]
        assert ("nir" in name) == bool(index.modality[row])


def test_llcm_without_matches_is_refused(roots, tmp_path):
    root = copy(roots["llcm"], tmp_path)
    shutil.rmtree(root / "test_nir")
    with pytest.raises(InputError, match=r"test_nir/cam1: missing; restore .*and 7 more"):
        read_protocol(DataOptions(kind="llcm"), root)


# --- CSV ---


def test_a_table_gives_its_splits_and_roles(roots):
    file = roots["table"]
    assert sorted(set(read_training(DataOptions(split="train"), file).pids.tolist())) == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert sorted(set(read_training(DataOptions(split="train+val"), file).pids.tolist())) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    protocol = read_protocol(DataOptions(), file)
    (mode,) = protocol.modes
    (trial,) = mode.trials
    assert mode.name == "query to gallery"
    assert (protocol.index.modality[trial.query] == Modality.IR).all()
    assert (protocol.num_matches(trial) == 2 * 3).all()


def test_a_table_without_roles_searches_both_directions(tmp_path):
    protocol = read_protocol(DataOptions(), trees.table(tmp_path, roles=False))
    assert [mode.name for mode in protocol.modes] == ["infrared to visible", "visible to infrared"]
    (there,), (back,) = (mode.trials for mode in protocol.modes)
    assert (there.query == back.gallery).all()


def test_absolute_and_relative_paths_may_be_mixed(roots, tmp_path):
    source = roots["table"]
    lines = source.read_text().splitlines()
    absolute = [lines[0], *(f"{source.parent}/{line}" for line in lines[1:20]), *lines[20:]]
    file = source.parent / "mixed.csv"
    file.write_text("\n".join(absolute))
    index, reference = (read_training(DataOptions(split="train"), f) for f in (file, source))
    assert [index.path(r) for r in range(len(index))] == [
        reference.path(r) for r in range(len(reference))
    ]


def test_short_names_of_images_elsewhere_are_absolute(roots, tmp_path):
    source = roots["table"]
    header, *lines = source.read_text().splitlines()
    elsewhere = tmp_path / "list.csv"
    elsewhere.write_text("\n".join([header, *(f"{source.parent}/{line}" for line in lines)]))
    index, reference = (read_training(DataOptions(split="train"), f) for f in (elsewhere, source))
    assert index.short_names() == [f"{source.parent}/{name}" for name in reference.short_names()]
    assert Path(index.short_names()[0]).is_file()


def test_messages_name_the_list_of_images_that_lie_elsewhere(roots, tmp_path):
    source = roots["table"]
    header, *lines = source.read_text().splitlines()
    file = tmp_path / "list.csv"
    file.write_text("\n".join([header, *(f"{source.parent}/{line}" for line in lines)]))
    index = read_training(DataOptions(split="train"), file)
    in_rgb = index.take(np.flatnonzero(index.modality == Modality.RGB))
    with pytest.raises(InputError, match=f"^{file}: identity 0 has no IR image"):
        sampler.check(in_rgb, 2, 2, "balanced")
    with pytest.raises(InputError, match=f"^{file}: the data has 1 training identities"):
        sampler.check(index.take(np.arange(1)), 2, 2, "random")
    plan = Plan(index, DataOptions(p=2, k=2, on_bad_image="skip", max_bad=0.0), 0)
    plan.begin(1)
    with pytest.raises(InputError, match=f"^{file}: 1 of {len(index)} training images are bad"):
        plan.replace(BadImageError(index.path(0), 0, "is empty"))
    rows = [("/elsewhere/1.jpg", 1, 1, Modality.RGB), ("2.jpg", 1, 2, Modality.IR)]
    assert make_index(tmp_path, rows).take(np.arange(1)).origin == tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,seven,1,rgb,train", "line 2: pid is 'seven'; expected an integer"),
        ("a.jpg,7,-1,rgb,train", "line 2: camid is '-1'; expected an integer"),
        ("a.jpg,7,1,thermal,train", "line 2: modality is 'thermal'; expected one of rgb, ir"),
        ("a.jpg,7,1,rgb,dev", "line 2: split is 'dev'; expected one of train, val, test"),
        (",7,1,rgb,train", "line 2: path is empty"),
        ("a.jpg,7", "line 2: camid is ''; expected an integer"),
        ("a.jpg,7,1,rgb,test", "people.csv: no row has split train\\+val"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, line, message):
    file = tmp_path / "people.csv"
    file.write_text(f"path,pid,camid,modality,split\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_training(DataOptions(split="train+val"), file)


def test_a_missing_column_is_named(tmp_path):
    file = tmp_path / "people.csv"
    for line, missing in (
        ("path,pid,camid,split", "modality"),
        ("path;pid;camid;modality;split", "path"),
        ("Path,pid,camid,modality,split", "path"),
    ):
        file.write_text(f"{line}\n")
        said = f"no column '{missing}', its first line is '{line}'; it must name, separated by"
        with pytest.raises(InputError, match=said):
            read_training(DataOptions(split="train"), file)


def test_a_table_without_matches_is_refused(tmp_path):
    file = tmp_path / "people.csv"
    one_camera = ["path,pid,camid,modality,split", "a.jpg,7,1,rgb,test", "b.jpg,7,1,ir,test"]
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    file.write_text("\n".join(one_camera))
    with pytest.raises(InputError, match="give each camera its own camid"):
        read_protocol(DataOptions(), file)


# --- detecting the kind ---


def test_every_kind_is_detected_by_its_layout(roots, people):
    for name, root in {**roots, "sysu": people}.items():
        assert kind_of(root) == name
        assert set(KINDS) >= {name}


def test_an_unknown_folder_is_refused_with_the_layouts(tmp_path):
    with pytest.raises(InputError, match=r"holds no known data set .*cam1…cam6.*Visible"):
        kind_of(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such folder; `cdp data make"):
        kind_of(tmp_path / "nowhere", "sysu")
    for name, kind in (("people.csv", "auto"), ("nowhere", "table")):
        with pytest.raises(InputError, match=r"no such file; expected a CSV of path,pid,camid"):
            kind_of(tmp_path / name, kind)


def test_one_trial_is_read_at_a_time(roots):
    with pytest.raises(InputError, match=r"--data.trial all: one trial is read at a time"):
        read_protocol(DataOptions(trial="all"), roots["regdb"])
