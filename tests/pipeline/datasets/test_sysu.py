"""SYSU-MM01's layout and protocol, on trees of empty files built here, one fault at a time."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pipeline.datasets import kinds
from pipeline.datasets.findings import Findings
from pipeline.datasets.lists import read_ids
from pipeline.datasets.records import Index, Protocol
from pipeline.errors import InputError
from pipeline.options import DataOptions

# pid -> camera -> number of images
PEOPLE = {
    1: {1: 3, 2: 2, 3: 2, 6: 1},
    2: {4: 2, 5: 4, 6: 2},
    5: {1: 2, 3: 1},
    7: {2: 3, 3: 2, 5: 1},
    8: {1: 4, 2: 2, 3: 3, 4: 1, 5: 2, 6: 2},
    9: {3: 2},
    10: {2: 2, 3: 2},
}
SPLITS = {"train": [1, 2], "val": [5], "test": [7, 8]}


def write_tree(root: Path) -> Path:
    rng = np.random.default_rng(0)
    cells = np.empty((6, 1), object)
    for camera in range(1, 7):
        of_camera = np.empty((10, 1), object)
        for pid in range(1, 11):
            n = PEOPLE.get(pid, {}).get(camera, 0)
            of_camera[pid - 1, 0] = np.array(
                [rng.permutation(n) + 1 for _ in range(10)], np.uint8
            ).reshape(10, n)
            folder = root / f"cam{camera}" / f"{pid:04d}"
            if n:
                folder.mkdir(parents=True)
            for image in range(1, n + 1):
                # Numbers with gaps: the protocol refers to the n-th sorted file, not to its number.
                (folder / f"{3 * image:04d}.jpg").touch()
        # As in the official file, where cameras 1, 2 and 6 stop early.
        cells[camera - 1, 0] = of_camera[:8] if camera in (1, 6) else of_camera
    (root / "exp").mkdir()
    for name, pids in SPLITS.items():
        (root / "exp" / f"{name}_id.txt").write_text(",".join(map(str, pids)) + "\n")
    scipy.io.savemat(root / "exp" / "rand_perm_cam.mat", {"rand_perm_cam": cells})
    return root


def read_training(root: Path, split: str) -> Index:
    return kinds.read_training(DataOptions(split=split), root)


def read_protocol(root: Path, stand_in: bool = False) -> Protocol:
    return kinds.read_protocol(DataOptions(stand_in_galleries=stand_in), root)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "SYSU-MM01")


def test_training_images(tree):
    index = read_training(tree, "train")
    assert sorted(set(index.pids.tolist())) == [1, 2]
    assert len(index) == 8 + 8
    assert len(read_training(tree, "train+val")) == 8 + 8 + 3
    assert all(index.path(row).is_file() for row in range(len(index)))
    for camid, modality in zip(index.camids, index.modality, strict=True):
        assert modality == (camid in (3, 6))
    assert index.path(0) == tree / "cam1" / "0001" / "0003.jpg"


def test_every_infrared_test_image_is_a_query(tree):
    protocol = read_protocol(tree)
    index = protocol.index
    for trial in protocol.modes[0].trials:
        assert (index.modality[trial.query] == 1).all()
        assert len(trial.query) == 2 + 3 + 2
    assert [len(mode.trials) for mode in protocol.modes] == [10] * 4
    assert protocol.rule.cmc_unique_pids
    assert protocol.remark == ""
    # 7 is seen by RGB cameras 2 and 5, 8 by 1, 2, 4 and 5; camera 3 ignores camera 2.
    counts: dict[tuple[int, int], int] = {}
    for row, matches in zip(trial.query, protocol.num_matches(trial), strict=True):
        counts[(int(index.pids[row]), int(index.camids[row]))] = int(matches)
    assert counts == {(7, 3): 1, (8, 3): 3, (8, 6): 4}


def test_the_gallery_is_the_permutations_first_image_of_each_identity_and_camera(tree):
    protocol = read_protocol(tree)
    index = protocol.index
    cells = scipy.io.loadmat(tree / "exp" / "rand_perm_cam.mat")["rand_perm_cam"]
    expected_pairs = [(1, 8), (2, 7), (2, 8), (4, 8), (5, 7), (5, 8)]
    for number, trial in enumerate(protocol.modes[0].trials):
        rows = trial.gallery
        pairs = list(zip(index.camids[rows].tolist(), index.pids[rows].tolist(), strict=True))
        assert pairs == expected_pairs
        for row, (camid, pid) in zip(rows, pairs, strict=True):
            first = int(cells[camid - 1][0][pid - 1][0][number, 0])
            files = sorted((tree / f"cam{camid}" / f"{pid:04d}").iterdir())
            assert index.path(row) == files[first - 1]
    assert len({trial.gallery.tobytes() for trial in protocol.modes[0].trials}) > 1


def break_tree(tree: Path, fault: str) -> None:
    exp = tree / "exp"
    if fault == "no list":
        (exp / "train_id.txt").unlink()
    elif fault == "empty list":
        (exp / "train_id.txt").write_text("\n")
    elif fault == "no number":
        (exp / "train_id.txt").write_text("1,two,3\n")
    elif fault == "no images":
        (exp / "train_id.txt").write_text("1,2,6\n")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no list", r"train_id.txt: missing; --data.root must be the data set's folder"),
        ("empty list", r"train_id.txt: lists no identity; expected integers such as 1,2"),
        ("no number", r"train_id.txt: 'two' is not an identity"),
        ("no images", r"exp/train_id.txt, identity 6: has no image in any camera folder"),
    ],
)
def test_faults_of_the_training_part_are_named(tree, fault, message):
    break_tree(tree, fault)
    with pytest.raises(InputError, match=message):
        read_training(tree, "train")


def test_ids_are_unpadded_integers_on_one_line_or_several(tree):
    (tree / "exp" / "train_id.txt").write_text("1, 2,\n5\n")
    assert read_ids(tree, "exp/train_id.txt", Findings(tree)) == [1, 2, 5]


def test_missing_permutations_say_where_to_get_them(tree):
    (tree / "exp" / "rand_perm_cam.mat").unlink()
    with pytest.raises(InputError, match=r"evaluation code .*SYSU-MM01.* copy it there"):
        read_protocol(tree)


def test_a_file_that_is_not_a_mat_file_is_refused(tree):
    (tree / "exp" / "rand_perm_cam.mat").write_bytes(b"not a matlab file" * 20)
    with pytest.raises(InputError, match="not SYSU-MM01's permutations"):
        read_protocol(tree)


def test_permutations_that_do_not_fit_the_images_are_refused(tree):
    (tree / "cam1" / "0008" / "0003.jpg").unlink()
    message = r"cam1/0008: rand_perm_cam.mat orders 4 images of this folder, not 3; restore"
    with pytest.raises(InputError, match=message):
        read_protocol(tree)


def test_indoor_galleries_are_those_of_cameras_1_and_2(tree):
    protocol = read_protocol(tree)
    camids = {
        mode.name: sorted(set(protocol.index.camids[mode.trials[0].gallery].tolist()))
        for mode in protocol.modes
    }
    assert camids["all-search single-shot"] == camids["all-search multi-shot"] == [1, 2, 4, 5]
    assert camids["indoor single-shot"] == camids["indoor multi-shot"] == [1, 2]


def test_stand_in_galleries_must_be_requested_and_are_marked(tree):
    official = read_protocol(tree, stand_in=True)
    assert official.remark == ""  # the file is there
    (tree / "exp" / "rand_perm_cam.mat").unlink()
    with pytest.raises(InputError, match=r"--data.stand-in-galleries"):
        read_protocol(tree)
    first, again = (read_protocol(tree, stand_in=True) for _ in range(2))
    assert "not comparable with published figures" in first.remark
    for mine, other, official_mode in zip(first.modes, again.modes, official.modes, strict=True):
        for trial, same, real in zip(mine.trials, other.trials, official_mode.trials, strict=True):
            assert (trial.gallery == same.gallery).all()
            assert len(trial.gallery) == len(real.gallery)


@pytest.mark.parametrize(
    ("pids", "message"),
    [
        ("9", r"cam\*/0009: has no RGB image"),
        ("10", r"exp/test_id.txt: none of these identities has an RGB image .* matched with"),
        ("11", r"exp/test_id.txt, identity 11: has no image in any camera folder"),
    ],
)
def test_a_test_set_without_matches_is_refused(tree, pids, message):
    # 10's only RGB image is from the place of its infrared camera.
    (tree / "exp" / "test_id.txt").write_text(pids)
    with pytest.raises(InputError, match=message):
        read_protocol(tree)
