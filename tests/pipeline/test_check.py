"""`data check`: silent on whole data sets of every kind, and each planted fault is named."""

import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from pipeline.check import check
from tests import trees
from tests.front_door import call, refused


def faults(root: Path, kind="auto") -> list[tuple[str, str]]:
    _, survey = check(root, kind)
    return sorted((fault.kind, fault.where) for fault in survey.faults)


@pytest.fixture
def tree(more_people, tmp_path) -> Path:
    return Path(shutil.copytree(more_people, tmp_path / "people"))


def huge_png(side: int) -> bytes:
    """A valid header of a picture of side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def plant_ten(tree: Path) -> dict[str, str]:
    """Ten faults of ten kinds; returns what must be named for each."""
    files = sorted(str(f.relative_to(tree)) for f in tree.glob("cam[126]/*/*.jpg"))
    folders = {str(Path(f).parent): f for f in files}
    victims = iter(folders.values())
    planted: dict[str, str] = {}

    def victim(kind: str) -> Path:
        planted[kind] = next(victims)
        return tree / planted[kind]

    victim("missing file").unlink()
    planted["extra file"] = f"{next(iter(folders))[:4]}/{Path(next(victims)).parent.name}/0999.jpg"
    shutil.copy(tree / files[-1], tree / planted["extra file"])
    path = victim("zero bytes")
    path.write_bytes(b"")
    path = victim("truncated")
    path.write_bytes(path.read_bytes()[:-400])
    path = victim("damaged header")
    path.write_bytes(path.read_bytes()[:200])
    victim("not an image").write_text("a shopping list")
    victim("oversized").write_bytes(huge_png(20000))
    path = victim("unreadable")
    path.unlink()
    path.mkdir()
    path = victim("other format")
    Image.new("RGB", (9, 9)).save(path, format="WEBP")
    train = tree / "exp" / "train_id.txt"
    test = (tree / "exp" / "test_id.txt").read_text().strip()
    leaked = test.split(",")[0]
    train.write_text(f"{train.read_text().strip()},{leaked}\n")
    planted["in training and test"] = f"exp/test_id.txt, identity {leaked}"
    return planted


def test_whole_data_sets_have_no_fault(people, tmp_path):
    assert faults(people) == []
    assert faults(trees.regdb(tmp_path / "RegDB")) == []
    assert faults(trees.llcm(tmp_path / "LLCM")) == []
    assert faults(trees.table(tmp_path / "any")) == []


def test_a_person_in_one_modality_may_be_sampled_at_random(tmp_path, capsys):
    file = trees.table(tmp_path)
    file.write_text(re.sub(r"^.*,1,\d+,ir,train.*\n", "", file.read_text(), flags=re.MULTILINE))
    line = refused(capsys, "train", "table", "--data.root", file, "--model.weights", "none")
    assert "pid 1: has no infrared image" in line
    assert "remove this person's rows, or pass --data.sampling random" in line


def test_equal_faults_are_shown_once_with_a_few_examples(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    file = trees.table(tmp_path)
    whole = file.read_text()
    file.write_text(whole.replace(",rgb,", ",visible,"))
    line = refused(capsys, "data", "check", file)
    assert "73 faults (bad row, one modality, no match); fix and check again" in line  # all count
    assert call("data", "check", file) == 2
    printed = capsys.readouterr().out
    assert printed.count("modality is 'visible'; expected one of rgb, ir") == 1
    assert printed.count("has no RGB image") == 1
    for place in ("people.csv, line 2 ", "people.csv, line 3 ", "… and 63 more", "… and 3 more"):
        assert place in printed
    assert len(printed.splitlines()) < 40

    file.write_text(whole.replace(",rgb,", ",visible,", 1))
    assert "people.csv: 1 fault (bad row); fix" in refused(capsys, "data", "check", file)

    lines = whole.splitlines()
    for i in range(1, 27):  # faults whose texts differ
        lines[i] = lines[i].replace(",rgb,", f",rgb{i},").replace(",ir,", f",ir{i},")
    file.write_text("\n".join(lines))
    assert call("data", "check", file) == 2
    assert "… and 6 more" in capsys.readouterr().out


def test_one_row_with_another_rule_is_one_fault(tmp_path):
    file = trees.table(tmp_path)
    header, *lines = file.read_text().splitlines()
    lines = [f"{line},{'plain' if ',test,' in line else ''}" for line in lines]
    first = next(i for i, line in enumerate(lines) if ",test," in line)
    lines[first] = lines[first].replace("plain", "sysu")
    file.write_text("\n".join([f"{header},rule", *lines]))
    assert faults(file) == [("two rules", f"people.csv, line {first + 2}")]


def test_ten_faults_of_ten_kinds_are_all_named(tree):
    planted = plant_ten(tree)
    assert len(planted) == 10
    assert faults(tree) == sorted(planted.items())


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda t: (t / "exp/rand_perm_cam.mat").unlink(),
            [("no permutations", "exp/rand_perm_cam.mat")],
        ),
        (lambda t: (t / "exp/val_id.txt").unlink(), [("missing list", "exp/val_id.txt")]),
        (lambda t: (t / "exp/val_id.txt").write_text("1,x"), [("bad list", "exp/val_id.txt")]),
    ],
)
def test_missing_and_bad_lists_are_named(tree, damage, expected):
    damage(tree)
    assert faults(tree) == expected


def test_the_missing_permutations_say_what_to_get_and_where_to_put_it(tree):
    (tree / "exp" / "rand_perm_cam.mat").unlink()
    (fault,) = check(tree)[1].faults
    assert "data_split/rand_perm_cam.mat of github.com/wuancong/SYSU-MM01" in fault.text
    assert "copy it there" in fault.text


def test_an_identity_that_lacks_modalities_is_named(tree):
    pid = int((tree / "exp" / "train_id.txt").read_text().split(",")[0])
    (tree / "exp" / "rand_perm_cam.mat").unlink()
    for camid in (3, 6):
        shutil.rmtree(tree / f"cam{camid}" / f"{pid:04d}", ignore_errors=True)
    assert ("one modality", f"cam*/{pid:04d}") in faults(tree)
    for camid in (1, 2, 4, 5):
        shutil.rmtree(tree / f"cam{camid}" / f"{pid:04d}", ignore_errors=True)
    assert ("no image", f"exp/train_id.txt, identity {pid}") in faults(tree)


def test_regdb_faults(tmp_path):
    root = trees.regdb(tmp_path / "RegDB")
    lines = (root / "idx" / "train_visible_3.txt").read_text().splitlines()
    (root / lines[0].split()[0]).unlink()
    shutil.copy(root / lines[1].split()[0], root / "Thermal" / "1" / "new.bmp")
    (root / "idx" / "test_thermal_9.txt").unlink()
    truncated = root / lines[2].split()[0]
    truncated.write_bytes(truncated.read_bytes()[:-100])
    assert faults(root) == [
        ("extra file", "Thermal/1/new.bmp"),
        ("missing file", lines[0].split()[0]),
        ("missing list", "idx/test_thermal_9.txt"),
        ("truncated", lines[2].split()[0]),
    ]


def test_a_regdb_trial_that_trains_on_its_test_is_named(tmp_path):
    root = trees.regdb(tmp_path / "RegDB")
    for name in ("visible", "thermal"):
        train, test = (root / "idx" / f"{part}_{name}_5.txt" for part in ("train", "test"))
        train.write_text(train.read_text() + test.read_text().splitlines()[0] + "\n")
    ((kind, where),) = faults(root)
    assert kind == "in training and test"
    assert where.startswith("idx/test_*_5.txt, identity ")


def test_llcm_faults(tmp_path):
    root = trees.llcm(tmp_path / "LLCM")
    listed = (root / "idx" / "train_nir.txt").read_text().split()[0]
    (root / listed).unlink()
    ids = root / "idx" / "test_id.txt"
    ids.write_text(ids.read_text().strip() + ",4711\n")
    assert faults(root) == [
        ("missing file", listed),
        ("no image", "idx/test_id.txt, identity 4711"),
    ]


def test_table_faults(tmp_path):
    file = trees.table(tmp_path)
    lines = file.read_text().splitlines()
    lines[3] = lines[3].replace(",rgb,", ",thermal,")
    lines.append(lines[5])
    file.write_text("\n".join(lines))
    missing = lines[8].split(",")[0]
    (tmp_path / missing).unlink()
    assert faults(file) == [
        ("bad row", "people.csv, line 4"),
        ("listed twice", f"people.csv, line {len(lines)}"),
        ("missing file", missing),
    ]
    file.write_text("path,pid\n")
    assert faults(file) == [("bad row", "people.csv")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_unreadable(tree):
    file = next(tree.glob("cam1/*/0001.jpg"))
    file.chmod(0)
    assert ("unreadable", str(file.relative_to(tree))) in faults(tree)
