"""Planted faults at the front door: `data check` and `train` refuse each alike, in one line."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.datasets import kinds
from pipeline.options import DataOptions
from tests import trees
from tests.front_door import SMALL, call, refused

KINDS = ("sysu", "regdb", "llcm", "table")


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    trees.regdb(folder / "regdb", num_ids=8, num_images=2)
    trees.llcm(folder / "llcm", num_train=4, num_test=3)
    trees.table(folder / "table", num_train=4, num_test=3)
    return {"sysu": people, **{kind: folder / kind for kind in KINDS[1:]}}


@pytest.fixture
def tree(whole, tmp_path) -> Callable[[str], Path]:
    """A copy of a whole data set, to be changed."""
    return lambda kind: Path(shutil.copytree(whole[kind], tmp_path / "DIR"))


def data_root(tree: Path) -> Path:
    """What to pass as --data.root."""
    return tree / "people.csv" if (tree / "people.csv").exists() else tree


def edit(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def again(content: bytes) -> bytes:
    """A list of identities with the first one twice."""
    return content.strip() + b"," + content.split(b",")[0]


def first_line_again(content: bytes) -> bytes:
    return content + content.splitlines()[0] + b"\n"


def row(line: bytes) -> Callable[[Path], None]:
    """Appends a row to the CSV."""
    return lambda t: edit(t / "people.csv", lambda c: c + line + b"\n")


def some_folder(tree: Path, cameras: str = "1245") -> Path:
    """A folder of two images or more of a test identity."""
    pids = (tree / "exp/test_id.txt").read_text().split(",")
    folders = [tree / f"cam{camera}" / f"{int(pid):04d}" for pid in pids for camera in cameras]
    return next(f for f in folders if f.is_dir() and len(list(f.iterdir())) > 1)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def listed(tree: Path, name: str) -> Path:
    """The first image of a list."""
    return tree / (tree / "idx" / name).read_text().split()[0]


def empty(folder: Path) -> None:
    for file in files(folder):
        file.unlink()


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def add_identity_0(tree: Path) -> None:
    """The last identity's images under the number 0, which is no row of rand_perm_cam.mat."""
    last = max(map(int, (tree / "exp/available_id.txt").read_text().split(",")))
    for folder in tree.glob(f"cam*/{last:04d}"):
        shutil.copytree(folder, folder.parent / "0000")
    edit(tree / "exp/test_id.txt", lambda c: c.strip() + b",0")


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


V73 = b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(124) + b"\x00\x02IM"
V73 = V73.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(600)
PERMUTATIONS = "exp/rand_perm_cam.mat"

FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    # name: (kind, how to plant it, what the one line says)
    "a test image is missing": (
        "sysu",
        lambda t: files(some_folder(t))[0].unlink(),
        "rand_perm_cam.mat orders",
    ),
    "an infrared test image is missing": (
        "sysu",
        lambda t: files(some_folder(t, "36"))[0].unlink(),
        "rand_perm_cam.mat orders",
    ),
    "a test folder is missing": (
        "sysu",
        lambda t: shutil.rmtree(some_folder(t)),
        "images of this folder, not 0; restore it",
    ),
    "a test folder is empty": (
        "sysu",
        lambda t: empty(some_folder(t)),
        "images of this folder, not 0; restore it",
    ),
    "a camera is missing": ("sysu", lambda t: shutil.rmtree(t / "cam5"), "DIR/cam5: missing;"),
    "an image too many": (
        "sysu",
        lambda t: shutil.copy(files(some_folder(t))[0], some_folder(t) / "0099.jpg"),
        "0099.jpg: rand_perm_cam.mat orders",
    ),
    "a folder is a file": (
        "sysu",
        lambda t: (shutil.rmtree(f := some_folder(t)), f.touch()),
        "cannot be read as a folder (Not a directory)",
    ),
    "an identity twice": (
        "sysu",
        lambda t: edit(t / "exp/test_id.txt", again),
        "is listed twice; remove one",
    ),
    "an identity in no list": (
        "sysu",
        lambda t: edit(t / "exp/test_id.txt", lambda c: c.partition(b",")[2]),
        "is in neither train_id.txt, val_id.txt nor test_id.txt",
    ),
    "an identity in training and test": (
        "sysu",
        lambda t: edit(
            t / "exp/train_id.txt",
            lambda c: c.strip() + b"," + (t / "exp/test_id.txt").read_bytes().split(b",")[0],
        ),
        "is in training and in test",
    ),
    "identity 0": ("sysu", add_identity_0, "/0000/0001.jpg: rand_perm_cam.mat orders 0 images"),
    "identity 2^63": (
        "sysu",
        lambda t: edit(t / "exp/test_id.txt", lambda c: c.strip() + b",%d" % 2**63),
        "test_id.txt: '9223372036854775808' is no identity",
    ),
    "ids in UTF-16": (
        "sysu",
        lambda t: edit(t / "exp/train_id.txt", lambda c: c.decode().encode("utf-16")),
        "train_id.txt: is not UTF-8 text (looks like UTF-16); save it as UTF-8",
    ),
    "ids with NUL": (
        "sysu",
        lambda t: edit(t / "exp/train_id.txt", lambda c: c.decode().encode("utf-16-le")),
        "train_id.txt: holds NUL characters",
    ),
    "an id list that is a folder": (
        "sysu",
        lambda t: replace_by_folder(t / "exp/test_id.txt"),
        "exp/test_id.txt: missing;",
    ),
    "permutations empty": (
        "sysu",
        lambda t: (t / PERMUTATIONS).write_bytes(b""),
        f"{PERMUTATIONS}: not SYSU-MM01's permutations (Mat file appears to be truncated)",
    ),
    "permutations cut": (
        "sysu",
        lambda t: edit(t / PERMUTATIONS, lambda c: c[: len(c) // 2]),
        f"{PERMUTATIONS}: not SYSU-MM01's permutations (",
    ),
    "permutations damaged": (
        "sysu",
        lambda t: edit(t / PERMUTATIONS, lambda c: c[:200] + bytes(60) + c[260:]),
        f"{PERMUTATIONS}: not SYSU-MM01's permutations (",
    ),
    "permutations of MATLAB 7.3": (
        "sysu",
        lambda t: (t / PERMUTATIONS).write_bytes(V73),
        f"{PERMUTATIONS}: not SYSU-MM01's permutations (MATLAB 7.3; save it with -v7)",
    ),
    "permutations that are a folder": (
        "sysu",
        lambda t: replace_by_folder(t / PERMUTATIONS),
        f"{PERMUTATIONS}: not SYSU-MM01's permutations (",
    ),
    "a line twice": (
        "regdb",
        lambda t: edit(t / "idx/test_visible_1.txt", first_line_again),
        "idx/test_visible_1.txt, line 9: names Visible/",
    ),
    "a line missing": (
        "regdb",
        lambda t: edit(t / "idx/test_visible_1.txt", lambda c: c.partition(b"\n")[2]),
        "is in no list of trial 1; remove it, or restore the lists",
    ),
    "people missing from the lists": (
        "regdb",
        lambda t: [
            edit(t / f"idx/test_{name}_1.txt", lambda c: b"\n".join(c.splitlines()[2:]))
            for name in ("visible", "thermal")
        ],
        "is in no list of trial 1; remove it, or restore the lists",
    ),
    "lists in UTF-16": (
        "regdb",
        lambda t: edit(t / "idx/train_thermal_1.txt", lambda c: c.decode().encode("utf-16")),
        "idx/train_thermal_1.txt: is not UTF-8 text (looks like UTF-16)",
    ),
    "lists exchanged": (
        "regdb",
        lambda t: swap(t / "idx/test_visible_1.txt", t / "idx/test_thermal_1.txt"),
        "is no visible image; restore the list",
    ),
    "a listed image missing": (
        "regdb",
        lambda t: listed(t, "train_visible_1.txt").unlink(),
        "missing, but idx/train_",
    ),
    "an LLCM identity twice": (
        "llcm",
        lambda t: edit(t / "idx/test_id.txt", again),
        "idx/test_id.txt, identity 5: is listed twice",
    ),
    "an LLCM line twice": (
        "llcm",
        lambda t: edit(t / "idx/train_vis.txt", first_line_again),
        "again, as line 1 does",
    ),
    "an LLCM image in both lists": (
        "llcm",
        lambda t: edit(
            t / "idx/train_nir.txt",
            lambda c: c + (t / "idx/train_vis.txt").read_bytes().splitlines()[0],
        ),
        "is of the other modality; restore the list (and 1 more: cdp data check",
    ),
    "LLCM's lists exchanged": (
        "llcm",
        lambda t: swap(t / "idx/train_vis.txt", t / "idx/train_nir.txt"),
        "idx/train_vis.txt, line 1: nir/",
    ),
    "SYSU-MM01's lists exchanged": (
        "sysu",
        lambda t: swap(t / "exp/train_id.txt", t / "exp/test_id.txt"),
        "exp/test_id.txt: the three lists hold [6, 2, 10] identities, not [10, 2, 6]",
    ),
    "an LLCM camera missing": (
        "llcm",
        lambda t: shutil.rmtree(t / "test_vis" / "cam7"),
        "test_vis/cam7: missing; restore this camera's images",
    ),
    "an LLCM folder emptied": (
        "llcm",
        lambda t: empty(sorted(t.glob("test_nir/cam*/*"))[0]),
        "holds no image; restore its images",
    ),
    "an LLCM image missing": (
        "llcm",
        lambda t: listed(t, "train_nir.txt").unlink(),
        "missing, but idx/train_",
    ),
    "a row twice": (
        "table",
        lambda t: edit(t / "people.csv", lambda c: c + b"./" + c.splitlines()[1] + b"\n"),
        "people.csv, line 86: names 0-1-0.jpg again, as line 2 does; remove one",
    ),
    "CSV in GBK": (
        "table",
        row("行人图像/a.jpg,1,1,rgb,train,".encode("gbk")),
        "people.csv: is not UTF-8 text (byte 0xd0; perhaps GBK or Latin-1)",
    ),
    "CSV in UTF-16": (
        "table",
        lambda t: edit(t / "people.csv", lambda c: c.decode().encode("utf-16")),
        "people.csv: is not UTF-8 text (looks like UTF-16)",
    ),
    "pid 2^63": (
        "table",
        row(b"a.jpg,%d,1,rgb,train," % 2**63),
        "line 86: pid is '9223372036854775808'; expected an integer",
    ),
    "NUL in a path": ("table", row(b"a\0.jpg,1,1,rgb,train,"), "people.csv: holds NUL characters"),
    "a field that csv refuses": (
        "table",
        row(b"a" * 200_000 + b".jpg,1,1,rgb,train,"),
        "people.csv, line 86: field larger than field limit",
    ),
    "a quote without an end": (
        "table",
        row(b'"a.jpg,1,1,rgb,train,'),
        "people.csv, line 86: unexpected end of data; is a quote not closed?",
    ),
    "a field too many": (
        "table",
        row(b"Smith, J.jpg,1,1,rgb,train,"),
        "line 86: has 7 fields, and the first line names 6 columns; put quotes",
    ),
    "a test row without a role": (
        "table",
        lambda t: edit(t / "people.csv", lambda c: c.replace(b",query\n", b",\n", 1)),
        "a test row without a role, which other test rows have; give it one",
    ),
    "a table's image missing": (
        "table",
        lambda t: (t / "pictures/0-1-0.jpg").unlink(),
        "DIR/pictures/0-1-0.jpg: missing, but people.csv names it; restore it",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_check_and_train_refuse_it_alike(name, tree, tmp_path, capsys):
    kind, plant, message = FAULTS[name]
    root = tree(kind)
    plant(root)
    preset = {"sysu": "demo"}.get(kind, kind)
    args = ("--data.root", data_root(root), "--run-dir", tmp_path / "run", *SMALL)
    assert message in refused(capsys, "train", preset, *args, "--data.kind", kind)
    assert not (tmp_path / "run").exists()
    line = refused(capsys, "data", "check", data_root(root), "--kind", kind)
    assert "mend them and check again" in line


def what_is_read(root: Path, kind: str) -> list[object]:
    """All that training and test take from a data set, images by their path below it."""

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


def with_mark(file: str) -> Callable[[Path], None]:
    return lambda t: edit(t / file, lambda c: b"\xef\xbb\xbf" + c)


def with_dots(file: str) -> Callable[[Path], None]:
    return lambda t: edit(
        t / file, lambda c: b"".join(b".//./%b\n" % line for line in c.splitlines())
    )


def with_absolute_paths(file: str) -> Callable[[Path], None]:
    return lambda t: edit(
        t / file, lambda c: b"".join(b"%b/%b\n" % (bytes(t), line) for line in c.splitlines())
    )


def link(tree: Path, folder: Path) -> None:
    """Moves a folder away, and leaves a link to it."""
    folder.rename(tree / "elsewhere")
    folder.symlink_to(tree / "elsewhere")
    (tree / "elsewhere" / "loop").symlink_to(folder)


SAME: dict[str, tuple[str, Callable[[Path], object]]] = {
    "ids with a byte order mark": ("sysu", with_mark("exp/test_id.txt")),
    "ids on lines of their own": (
        "sysu",
        lambda t: edit(t / "exp/train_id.txt", lambda c: c.replace(b",", b"\r\n")),
    ),
    "ids in another order": (
        "sysu",
        lambda t: edit(t / "exp/test_id.txt", lambda c: b",".join(reversed(c.strip().split(b",")))),
    ),
    "a Mac's file": ("sysu", lambda t: (some_folder(t) / "._0001.jpg").write_bytes(bytes(82))),
    "a list with a byte order mark": ("regdb", with_mark("idx/test_visible_1.txt")),
    "a list with dots": ("regdb", with_dots("idx/test_visible_1.txt")),
    "a list of absolute paths": ("regdb", with_absolute_paths("idx/train_visible_1.txt")),
    "LLCM's list with a byte order mark": ("llcm", with_mark("idx/train_vis.txt")),
    "LLCM's list with dots": ("llcm", with_dots("idx/train_nir.txt")),
    "LLCM's list of absolute paths": ("llcm", with_absolute_paths("idx/train_vis.txt")),
    "a CSV with a byte order mark": ("table", with_mark("people.csv")),
    "a CSV with dots": (
        "table",
        lambda t: edit(t / "people.csv", lambda c: c.replace(b"\npictures/", b"\n./pictures//./")),
    ),
    "a CSV of absolute paths": (
        "table",
        lambda t: edit(t / "people.csv", lambda c: c.replace(b"\npict", b"\n%b/pict" % bytes(t))),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_what_only_looks_different_is_read_alike(name, tree, whole, capsys):
    kind, change = SAME[name]
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


def test_regdb_with_one_trial_is_told_once(tree, capsys):
    root = tree("regdb")
    for file in (root / "idx").iterdir():
        if not file.stem.endswith("_1"):
            file.unlink()
    assert call("data", "check", root) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert lines == [
        "note      idx: has no lists of trial 2, 3, 4, 5, 6, 7, 8, 9, 10: these cannot be trained"
    ]


def test_all_trials_are_looked_at_before_the_first_is_trained(tree, tmp_path, capsys):
    root = tree("regdb")
    (root / "idx/test_visible_9.txt").unlink()
    args = ("--data.root", root, "--trial", "all", "--run-dir", tmp_path / "run", *SMALL)
    assert "idx/test_visible_9.txt: missing" in refused(capsys, "train", "regdb", *args)
    assert not (tmp_path / "run").exists()


NO_TEST: dict[str, Callable[[Path], object]] = {
    "sysu": lambda t: [(t / "exp/test_id.txt").unlink(), (t / PERMUTATIONS).unlink()],
    "regdb": lambda t: [file.unlink() for file in t.glob("idx/test_*")],
    "llcm": lambda t: [
        (t / "idx/test_id.txt").unlink(),
        shutil.rmtree(t / "test_vis"),
        shutil.rmtree(t / "test_nir"),
    ],
    "table": lambda t: edit(
        t / "people.csv",
        lambda c: b"\n".join(line for line in c.splitlines() if b",test," not in line),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_without_a_test_can_be_trained(kind, tree, whole, capsys):
    root = tree(kind)
    NO_TEST[kind](root)
    options = DataOptions(kind=kind)
    index, reference = (kinds.read_training(options, data_root(r)) for r in (root, whole[kind]))
    assert (index.paths == reference.paths).all()
    with pytest.raises(ValueError, match="only to be trained"):
        kinds.read_protocol(options, data_root(root))
    assert call("data", "check", data_root(root), "--kind", kind) == 0
    assert "only to be trained" in capsys.readouterr().out


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
        with pytest.raises(ValueError, match=r"people\.csv") as error:
            kinds.read_protocol(DataOptions(), root / "people.csv")
        return str(error.value)

    write(["llcm" if r["split"] == "test" else "" for r in rows])
    assert kinds.read_protocol(DataOptions(), root / "people.csv").rule.cmc_unique_pids
    write(["llcm"] * (len(rows) - 1) + ["market"])
    assert f"line {len(rows) + 1}: has another rule than the test row of line" in refusal()
    write(["llcm"] * (len(rows) - 1) + [""])
    assert "a test row without a rule" in refusal()
    write(["cuhk"] * len(rows))
    assert "rule is 'cuhk'; expected one of sysu, regdb, llcm, market, plain" in refusal()
    for row_ in rows:
        row_["camid"] = str(int(row_["camid"]) - 1)
    write(["sysu"] * len(rows))
    assert "camid is 0; the cameras of rule sysu are 1 to 6" in refusal()


def test_a_renamed_image_is_warned_of(tree):
    root = tree("sysu")
    folder = some_folder(root)
    files(folder)[0].rename(folder / "0099.jpg")
    told: list[str] = []
    kinds.read_protocol(DataOptions(), root, told.append)
    (line,) = told
    assert line.startswith(f"{folder}: its images are not numbered without gaps (1 such folders)")
