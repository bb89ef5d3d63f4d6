"""Random changes to intact data sets: what is read stays the same, or one line names the change.

Changes that no reader can notice are left out: a CSV row that is missing or has another person, and
an LLCM test image that is missing or new, as nothing says how many there were.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets import kinds
from pipeline.datasets.synthetic import SyntheticOptions, make
from pipeline.errors import InputError
from pipeline.options import DataOptions
from tests import trees

SEEDS = 3
LISTS = {
    "sysu": ["exp/train_id.txt", "exp/val_id.txt", "exp/test_id.txt"],
    "regdb": [f"idx/{p}_{m}_1.txt" for p in ("train", "test") for m in ("visible", "thermal")],
    "llcm": ["idx/train_vis.txt", "idx/train_nir.txt", "idx/test_id.txt"],
    "table": ["people.csv"],
}
LISTED = {  # images that the data set's lists mention
    "sysu": "cam*/*/*.jpg",
    "regdb": "*/*/*.bmp",
    "llcm": "[vn]i[sr]/*/*.jpg",
    "table": "pictures/*",
}
FOLDERS = {"sysu": "cam*/*", "regdb": "[VT]*/*", "llcm": "test_*/cam*", "table": "pictures"}
Change = Callable[[Path, str, random.Random], str]  # makes it and returns what must be named


def some(root: Path, pattern: str, rng: random.Random) -> Path:
    return rng.choice(sorted(root.glob(pattern)))


def some_list(root: Path, kind: str, rng: random.Random) -> Path:
    return root / rng.choice(LISTS[kind])


def short(root: Path, path: Path) -> str:
    return str(path.relative_to(root))


def remove_image(root: Path, kind: str, rng: random.Random) -> str:
    image = some(root, LISTED[kind], rng)
    image.unlink()
    return short(root, image.parent if len(list(image.parent.iterdir())) == 0 else image)


def remove_folder(root: Path, kind: str, rng: random.Random) -> str:
    folder = some(root, FOLDERS[kind], rng)
    shutil.rmtree(folder)
    return short(root, folder)


def remove_list(root: Path, kind: str, rng: random.Random) -> str:
    file = some_list(root, kind, rng)
    file.unlink()
    return file.name


def empty_list(root: Path, kind: str, rng: random.Random) -> str:
    file = some_list(root, kind, rng)
    file.write_text(rng.choice(["", "\n", " \n\n"]))
    return file.name


def duplicate_image(root: Path, kind: str, rng: random.Random) -> str:
    image = some(root, LISTED[kind], rng)
    copy = image.with_stem(f"{image.stem}9")
    shutil.copy(image, copy)
    return short(root, image.parent)


def duplicate_line(root: Path, kind: str, rng: random.Random) -> str:
    file = some_list(root, kind, rng)
    separator = "," if file.name.endswith("id.txt") else "\n"
    parts = file.read_text().strip().split(separator)
    parts.append(rng.choice(parts[kind == "table" :]))
    file.write_text(separator.join(parts))
    return file.name


def rename_image(root: Path, kind: str, rng: random.Random) -> str:
    image = some(root, LISTED[kind], rng)
    image.rename(image.with_suffix(".bak"))
    return short(root, image.parent)


def rename_folder(root: Path, kind: str, rng: random.Random) -> str:
    folder = some(root, FOLDERS[kind], rng)
    folder.rename(folder.with_name("4711"))
    return short(root, folder)


def rename_list(root: Path, kind: str, rng: random.Random) -> str:
    """Swaps two lists: in RegDB and LLCM the modality gives it away, in SYSU-MM01 the folders."""
    files = rng.sample(LISTS[kind][: 2 if kind == "llcm" else None], min(2, len(LISTS[kind])))
    if kind == "table" or (kind == "sysu" and "test" not in "".join(files)):
        return ""  # training and validation are swapped, and both are trained on
    contents = [(root / file).read_bytes() for file in files]
    for file, content in zip(reversed(files), contents, strict=True):
        (root / file).write_bytes(content)
    return ""


def encode(root: Path, kind: str, rng: random.Random) -> str:
    file = some_list(root, kind, rng)
    encoding = rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gbk", "latin-1"])
    file.write_bytes(file.read_text().encode(encoding))
    return file.name


def end_lines(root: Path, kind: str, rng: random.Random) -> str:
    file = some_list(root, kind, rng)
    file.write_bytes(file.read_bytes().replace(b"\n", rng.choice([b"\r\n", b"\n\n", b" \n"])))
    return file.name


def add_a_stray_character(root: Path, kind: str, rng: random.Random) -> str:
    file = some_list(root, kind, rng)
    content = file.read_bytes()
    position = rng.choice([0, len(content) - 1])
    stray = rng.choice([b"\0", b"\xff", b"x", b'"', b"-"])
    file.write_bytes(content[:position] + stray + content[position:])
    return file.name


def renumber(root: Path, kind: str, rng: random.Random) -> str:
    """Changes an identity in a list, or in a path in it, to one that does not exist."""
    file = some_list(root, kind, rng)
    if kind == "table":
        return ""  # nothing contradicts a table
    if file.name.endswith("id.txt"):
        ids = file.read_text().strip().split(",")
        ids[rng.randrange(len(ids))] = rng.choice(["4711", "0", str(2**63), "9" * 5000])
        file.write_text(",".join(ids))
        return "_id.txt, identity " if "4711" in ids or "0" in ids else file.name
    lines = file.read_text().splitlines()
    number = rng.randrange(len(lines))
    folder, _, rest = lines[number].partition("/")
    lines[number] = f"{folder}/4711/{rest.partition('/')[2]}"
    file.write_text("\n".join(lines))
    return "/4711/"


def mac_files(root: Path, kind: str, rng: random.Random) -> str:
    for image in sorted(root.glob(LISTED[kind])):
        image.with_name(f"._{image.name}").touch()
    return ""


CHANGES: list[Change] = [
    *(remove_image, remove_folder, remove_list, empty_list, duplicate_image, duplicate_line),
    *(rename_image, rename_folder, rename_list, encode, end_lines, add_a_stray_character),
    *(renumber, mac_files),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """Intact data sets of empty files, which these tests never open."""
    folder = tmp_path_factory.mktemp("whole")
    options = SyntheticOptions(num_train=4, num_val=1, num_test=3, images_per_camera=2)
    make(folder / "sysu", options, workers=1)
    for image in folder.glob("sysu/cam*/*/*.jpg"):
        image.write_bytes(b"")
    trees.regdb(folder / "regdb", num_ids=6, num_images=2, write=trees.touch)
    trees.llcm(folder / "llcm", num_train=3, num_test=2, write=trees.touch)
    trees.table(folder / "table", num_train=3, num_test=2, write=trees.touch)
    return {kind: folder / kind for kind in LISTS}


@pytest.fixture(scope="module")
def good(whole) -> dict[str, list[object]]:
    """What is read from the intact data sets."""
    return {kind: read(root, kind) for kind, root in whole.items()}


def copy(source: str, target: str) -> None:
    """Links images, as no change writes to one; copies lists."""
    same = source.endswith((".jpg", ".png", ".bmp"))
    (os.link if same else shutil.copyfile)(source, target)


def read(root: Path, kind: str) -> list[object]:
    """Returns all that training and test read from the data set."""
    data = root / "people.csv" if kind == "table" else root
    options = DataOptions(kind=kind)
    index, protocol = kinds.read_training(options, data), kinds.read_protocol(options, data)
    trials = [trial for mode in protocol.modes for trial in mode.trials]
    columns = [c.tolist() for i in (index, protocol.index) for c in (i.paths, i.pids, i.camids)]
    return [*columns, [(t.query.tolist(), t.gallery.tolist()) for t in trials]]


def faults(root: Path, kind: str) -> list[str]:
    """Returns what `data check` says about the data set before it opens images."""
    data = root / "people.csv" if kind == "table" else root
    try:
        kinds.kind_of(data, kind)
    except InputError as error:
        return [str(error)]
    return [f"{fault.where}: {fault.text}" for fault in kinds.survey(data, kind).faults]


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_read_is_the_same_or_the_change_is_named(kind, change, whole, good, tmp_path):
    for seed in range(SEEDS):
        root = Path(shutil.copytree(whole[kind], tmp_path / str(seed), copy_function=copy))
        named = change(root, kind, random.Random(f"{kind} {seed}"))
        try:
            same = read(root, kind) == good[kind]
        except InputError as error:
            line = str(error)
            assert "\n" not in line
            assert named in line, line
            assert faults(root, kind), line
        else:
            assert same, named
            assert faults(root, kind) == []
