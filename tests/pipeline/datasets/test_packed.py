"""Packs: the rows and bytes of their data set; any damage is named at the start."""

import json
import re
import resource
import shutil
import subprocess
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipeline.check import check
from pipeline.datasets.kinds import KINDS, kind_of, original_kind, read_protocol, read_training
from pipeline.datasets.members import map_files, member_name
from pipeline.datasets.packed import ABOUT, FORMAT
from pipeline.datasets.packing import pack, sha256
from pipeline.datasets.records import Index
from pipeline.errors import InputError
from pipeline.options import DataOptions
from tests import trees

KEY = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # how WebDataset splits a name (base_plus_ext)


@pytest.fixture(scope="module")
def loose(more_people, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loose")
    return {
        "sysu": more_people,
        "regdb": trees.regdb(folder / "RegDB", num_ids=8, num_images=2),
        "llcm": trees.llcm(folder / "LLCM", num_train=3, num_test=3),
        "table": trees.table(folder / "any", num_train=4, num_test=3),
    }


@pytest.fixture(scope="module")
def packs(loose, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    for name, root in loose.items():
        pack(root, folder / name, shard_mib=1)
    return {name: folder / name for name in loose}


@pytest.fixture
def regdb(packs, tmp_path) -> Path:
    """A pack to be damaged."""
    return Path(shutil.copytree(packs["regdb"], tmp_path / "regdb"))


def assert_same(packed: Index, loose: Index) -> None:
    for name in ("paths", "pids", "camids", "modality"):
        some, others = getattr(packed, name), getattr(loose, name)
        assert some.dtype == others.dtype
        np.testing.assert_array_equal(some, others)
    for row in range(len(loose)):
        assert packed.image(row).tobytes() == loose.path(row).read_bytes()


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm", "table"])
def test_every_split_trial_and_gallery_is_kept(name, loose, packs):
    assert (kind_of(packs[name]), original_kind(packs[name])) == ("packed", name)
    trials = range(1, KINDS[name].num_trials + 1)
    for split, trial in product(("train", "train+val"), trials):
        options = DataOptions(split=split, trial=trial)
        assert_same(*(read_training(options, root) for root in (packs[name], loose[name])))
    for trial in trials:
        ours, theirs = (
            read_protocol(DataOptions(trial=trial), root) for root in (packs[name], loose[name])
        )
        assert (ours.name, ours.remark) == (theirs.name, theirs.remark)
        assert ours.rule is theirs.rule
        assert_same(ours.index, theirs.index)
        assert [m.name for m in ours.modes] == [m.name for m in theirs.modes]
        for mode, other in zip(ours.modes, theirs.modes, strict=True):
            for some, others in zip(mode.trials, other.trials, strict=True):
                np.testing.assert_array_equal(some.query, others.query)
                np.testing.assert_array_equal(some.gallery, others.gallery)


def test_rows_can_be_picked(packs, loose):
    rows = np.array([7, 2, 2])
    some, others = (read_training(DataOptions(), d["sysu"]).take(rows) for d in (packs, loose))
    assert_same(some, others)


def test_shards_are_tar_files_of_a_bounded_size_that_webdataset_reads(packs, loose):
    shards = sorted(packs["sysu"].glob("shard-*.tar"))
    assert len(shards) > 2
    found = {}
    for shard in shards:
        assert shard.stat().st_size <= 2**20
        listed = subprocess.run(["tar", "tf", shard], capture_output=True, text=True, check=True)
        with tarfile.open(shard, "r:") as opened:
            assert listed.stdout.splitlines() == opened.getnames()
            found |= {m.name: opened.extractfile(m).read() for m in opened}
    assert found == {
        str(f.relative_to(loose["sysu"])): f.read_bytes() for f in loose["sysu"].glob("cam*/*/*")
    }
    keys = [KEY.match(name).groups() for name in found]
    assert len(set(keys)) == len({key for key, _ in keys}) == len(found)
    assert {suffix for _, suffix in keys} == {"jpg"}


def test_the_same_data_set_gives_the_same_pack(packs, loose, tmp_path):
    pack(loose["regdb"], tmp_path / "again", shard_mib=1)
    for file in packs["regdb"].rglob("*"):
        if file.is_file():
            again = tmp_path / "again" / file.relative_to(packs["regdb"])
            assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("cam1/0001/0001.jpg", "cam1/0001/0001.jpg"),
        ("v1.2/a.1.jpg", "v1.2/a%2E1.jpg"),
        ("v1.2/a%2E1.jpg", "v1.2/a%252E1.jpg"),
        ("../other/./a.jpg", "%2E%2E/other/%2E/a.jpg"),
        (".hidden.png", "%2Ehidden.png"),
    ],
)
def test_a_name_is_the_path_except_for_ambiguous_dots(path, name):
    assert member_name(path) == name


def test_odd_paths_survive(tmp_path):
    file = trees.table(tmp_path / "any", num_train=3, num_test=3, roles=False)
    odd = {
        "pictures/0-1-0.jpg": "../elsewhere/a.1.jpg",
        "pictures/0-2-0.jpg": "../elsewhere/a.2.jpg",
        "pictures/1-1-0.jpg": f"Überwachung 駅/{'long' * 40}.jpg",
        "pictures/1-2-0.jpg": str(tmp_path / "absolute.jpg"),
    }
    text = file.read_text()
    for old, new in odd.items():
        (file.parent / new).parent.mkdir(exist_ok=True)
        (file.parent / old).rename(file.parent / new)
        text = text.replace(old, new)
    file.write_text(text)
    pack(file, tmp_path / "pack")
    some, others = (read_training(DataOptions(), root) for root in (tmp_path / "pack", file))
    assert_same(some, others)
    assert check(tmp_path / "pack")[1].faults == []


DAMAGES = {
    "no shard": (lambda r: (r / "shard-000000.tar").unlink(), "shard-000000.tar: missing; copy"),
    "cut shard": (
        lambda r: (r / "shard-000000.tar").open("r+b").truncate(5000),
        "shard-000000.tar: has 5000 bytes, but pack.json says ",
    ),
    "cut index": (
        lambda r: (r / "index/train+val-01/offset.npy").open("r+b").truncate(130),
        "index/train+val-01/offset.npy: has 130 bytes",
    ),
    "other version": (
        lambda r: (r / ABOUT).write_text((r / ABOUT).read_text().replace(FORMAT, "pack 0")),
        "pack.json: is 'pack 0', not 'cdp-reid pack 1'; pack the data set again",
    ),
    "no object": (
        lambda r: (r / ABOUT).write_text("[]"),
        "pack.json: is not the index of a packed data",
    ),
    "half an index": (
        lambda r: (r / ABOUT).write_text(json.dumps({"format": FORMAT, "kind": "regdb"})),
        "pack.json: lacks 'splits'; copy the pack again",
    ),
    "no JSON": (
        lambda r: (r / ABOUT).write_text("{"),
        "pack.json: is not the index of a packed data",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_pack_is_refused_at_the_start(regdb, name):
    damage, message = DAMAGES[name]
    damage(regdb)
    for read in (read_training, read_protocol):
        with pytest.raises(InputError, match=re.escape(message)):
            read(DataOptions(), regdb)


def test_a_trial_that_could_not_be_packed_says_why(loose, tmp_path):
    root = Path(shutil.copytree(loose["regdb"], tmp_path / "RegDB"))
    (root / "idx" / "train_visible_7.txt").unlink()
    done = pack(root, tmp_path / "pack")
    assert list(done.left_out) == ["train+val-07"]
    assert len(read_training(DataOptions(trial=6), tmp_path / "pack"))
    with pytest.raises(InputError, match=r"packed without train\+val-07: .*visible_7.txt: missing"):
        read_training(DataOptions(trial=7), tmp_path / "pack")


def test_stand_in_galleries_must_be_requested_and_are_marked(more_people, tmp_path):
    root = Path(shutil.copytree(more_people, tmp_path / "people"))
    (root / "exp" / "rand_perm_cam.mat").unlink()
    with pytest.raises(InputError, match=r"pass --data.stand-in-galleries"):
        pack(root, tmp_path / "pack")
    pack(root, tmp_path / "pack", stand_in_galleries=True)
    assert "not comparable" in read_protocol(DataOptions(), tmp_path / "pack").remark


def test_what_cannot_be_packed_is_refused(packs, loose, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"--out .*full: exists; name another folder"):
        pack(loose["regdb"], tmp_path / "full")
    with pytest.raises(InputError, match="is already packed"):
        pack(packs["regdb"], tmp_path / "new")
    with pytest.raises(InputError, match="--shard-mib 0: must be at least 1"):
        pack(loose["regdb"], tmp_path / "new", shard_mib=0)
    with pytest.raises(InputError, match=r"--data.kind sysu: .* is packed regdb"):
        kind_of(packs["regdb"], "sysu")
    assert kind_of(packs["regdb"], "regdb") == "packed"  # as the preset says
    with pytest.raises(InputError, match="--trial 2: sysu has only one trial"):
        read_training(DataOptions(trial=2), packs["sysu"])
    with pytest.raises(InputError, match="one trial is read at a time"):
        read_training(DataOptions(trial="all"), packs["regdb"])
    root = Path(shutil.copytree(loose["regdb"], tmp_path / "RegDB"))
    gone = sorted(root.glob("Visible/*/*"))[3]
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone}: missing, but idx/.* names it; restore it"):
        pack(root, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["RegDB", "full"]


def test_a_full_disk_leaves_nothing(loose, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=r"--out .*new: cannot be written \(File too large\)"):
            pack(loose["sysu"], tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_pack_is_not_a_pack(loose, packs, tmp_path):
    def interrupt(done: int, of: int) -> None:
        # The folder is now what a kill would leave behind.
        shutil.copytree(next(tmp_path.glob(".new.*")), tmp_path / "left")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(loose["sysu"], tmp_path / "new", on_progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["left"]
    with pytest.raises(InputError, match="holds no known data set"):
        kind_of(tmp_path / "left")


def test_more_shards_than_the_open_file_limit(packs):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = [*packs["sysu"].glob("shard-*.tar")] * 40
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        assert len(map_files(files)) == len(files)  # the limit was raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm", "table"])
def test_check_finds_no_fault_in_a_whole_pack(packs, name):
    kind, survey = check(packs[name])
    assert (kind, survey.faults) == ("packed", [])
    assert len(survey.files) == survey.counts["images"][1]


def edited(root: Path, name: str, content: bytes) -> None:
    """Replaces a file, and says so in pack.json."""
    (root / name).write_bytes(content)
    about = json.loads((root / ABOUT).read_text())
    about["files"][name] = {"bytes": len(content), "sha256": sha256(root / name)}
    (root / ABOUT).write_text(json.dumps(about))


def faults(root: Path) -> list[tuple[str, str]]:
    return [(fault.kind, fault.where) for fault in check(root)[1].faults]


def test_check_names_what_is_wrong(regdb):
    index = read_training(DataOptions(trial=3), regdb)
    name = index.path(5).relative_to(regdb)
    shard = (regdb / "shard-000000.tar").read_bytes()
    first = int(index.members.offset[5])

    flipped = bytearray(shard)
    flipped[first + 40] ^= 1
    (regdb / "shard-000000.tar").write_bytes(flipped)
    assert faults(regdb) == [("damaged pack", "shard-000000.tar")]

    flipped[first : first + 2] = b"ab"
    edited(regdb, "shard-000000.tar", bytes(flipped))
    assert faults(regdb) == [("not an image", str(name))]

    edited(regdb, "shard-000000.tar", shard)
    assert faults(regdb) == []
    file = regdb / "index/train+val-03/offset.npy"
    offsets = np.load(file)
    offsets[5] += 512
    np.save(file, offsets)
    edited(regdb, "index/train+val-03/offset.npy", file.read_bytes())
    assert faults(regdb) == [("bad index", str(name))]
