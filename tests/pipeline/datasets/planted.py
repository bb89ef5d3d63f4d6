"""Faults, and harmless changes, to be planted in small intact data sets."""

import shutil
from collections.abc import Callable
from pathlib import Path


def data_root(tree: Path) -> Path:
    """What to pass as --data.root."""
    return tree / "people.csv" if (tree / "people.csv").exists() else tree


def edit(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def repeat_first_id(content: bytes) -> bytes:
    """Repeats the first identity of a list."""
    return content.strip() + b"," + content.split(b",")[0]


def repeat_first_line(content: bytes) -> bytes:
    return content + content.splitlines()[0] + b"\n"


def row(line: bytes) -> Callable[[Path], None]:
    """Appends a row to the CSV."""
    return lambda t: edit(t / "people.csv", lambda c: c + line + b"\n")


def some_folder(tree: Path, cameras: str = "1245") -> Path:
    """Returns a folder of a test identity with at least two images."""
    pids = (tree / "exp/test_id.txt").read_text().split(",")
    folders = [tree / f"cam{camera}" / f"{int(pid):04d}" for pid in pids for camera in cameras]
    return next(f for f in folders if f.is_dir() and len(list(f.iterdir())) > 1)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def listed(tree: Path, name: str) -> Path:
    """Returns the first image of a list."""
    return tree / (tree / "idx" / name).read_text().split()[0]


def empty(folder: Path) -> None:
    for file in files(folder):
        file.unlink()


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def add_identity_0(tree: Path) -> None:
    """Copies the last identity's images to the number 0, which rand_perm_cam.mat does not have."""
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
    # name: (kind, how to plant it, part of the message)
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
        lambda t: edit(t / "exp/test_id.txt", repeat_first_id),
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
        "test_id.txt: '9223372036854775808' is not an identity",
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
    "the synthetic set's options cut": (
        "sysu",
        lambda t: edit(t / "synthetic.json", lambda c: c[:40]),
        "synthetic.json: cannot be read (",
    ),
    "permutations empty": (
        "sysu",
        lambda t: (t / PERMUTATIONS).write_bytes(b""),
        f"{PERMUTATIONS}: not SYSU-MM01's permutations (not a MATLAB file); copy it again",
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
        f"{PERMUTATIONS}: not SYSU-MM01's permutations (Is a directory)",
    ),
    "a line twice": (
        "regdb",
        lambda t: edit(t / "idx/test_visible_1.txt", repeat_first_line),
        "idx/test_visible_1.txt, line 9: repeats Visible/",
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
        "is not a visible image; restore the list",
    ),
    "a listed image missing": (
        "regdb",
        lambda t: listed(t, "train_visible_1.txt").unlink(),
        "missing, but idx/train_",
    ),
    "an LLCM identity twice": (
        "llcm",
        lambda t: edit(t / "idx/test_id.txt", repeat_first_id),
        "idx/test_id.txt, identity 5: is listed twice",
    ),
    "an LLCM line twice": (
        "llcm",
        lambda t: edit(t / "idx/train_vis.txt", repeat_first_line),
        " of line 1; remove one of them",
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
        "exp/test_id.txt: the three lists hold [4, 2, 6] identities, not [6, 2, 4]",
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
        "people.csv, line 86: repeats 0-1-0.jpg of line 2; remove one",
    ),
    "a row twice, by way of another folder": (
        "table",
        lambda t: edit(
            t / "people.csv",
            lambda c: c + f"../{t.name}/".encode() + c.splitlines()[1] + b"\n",
        ),
        "people.csv, line 86: repeats 0-1-0.jpg of line 2; remove one",
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
        "line 86: has 7 fields, but the first line names 6 columns; put quotes",
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
    """Moves a folder and leaves a link to it."""
    folder.rename(tree / "elsewhere")
    folder.symlink_to(tree / "elsewhere")
    (tree / "elsewhere" / "loop").symlink_to(folder)


HARMLESS: dict[str, tuple[str, Callable[[Path], object]]] = {
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
