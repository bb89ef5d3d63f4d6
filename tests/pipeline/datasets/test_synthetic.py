"""The embedded data set keeps SYSU-MM01's layout, is reproducible, and poses the real problem."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from numpy import ndarray
from PIL import Image

from pipeline.datasets.body import Part
from pipeline.datasets.synthetic import CAMERAS, SyntheticOptions, identity, make
from pipeline.errors import InputError

OPTIONS = SyntheticOptions(num_train=10, num_val=2, num_test=6, images_per_camera=2)
TINY = SyntheticOptions(num_train=1, num_val=1, num_test=1, images_per_camera=1)
INFRARED = {camera.camid for camera in CAMERAS if camera.modality == "ir"}


@pytest.fixture(scope="module")
def root(more_people: Path) -> Path:
    """The set that other tests share, made with OPTIONS."""
    return more_people


@pytest.fixture(scope="module")
def pictures(root: Path) -> tuple[ndarray, ndarray, ndarray]:
    """Images float32 [n, 64, 32, 3], identities [n] and whether infrared [n]."""
    paths = sorted(root.glob("cam*/*/*.jpg"))
    pixels = [np.asarray(Image.open(path).resize((32, 64)), np.float32) for path in paths]
    camids = [int(path.parts[-3].removeprefix("cam")) for path in paths]
    pids = [int(path.parent.name) for path in paths]
    return np.stack(pixels), np.array(pids), np.isin(camids, list(INFRARED))


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_id_lists_are_disjoint_and_complete(root: Path) -> None:
    lists = {}
    for name in ("train", "val", "test", "available"):
        lines = (root / "exp" / f"{name}_id.txt").read_text().splitlines()
        assert len(lines) == 1
        lists[name] = [int(pid) for pid in lines[0].split(",")]
    assert [len(lists[name]) for name in ("train", "val", "test")] == [10, 2, 6]
    assert sorted(lists["train"] + lists["val"] + lists["test"]) == lists["available"]
    assert lists["available"] == list(range(1, 19))
    about = json.loads((root / "synthetic.json").read_text())
    assert SyntheticOptions(**about["options"]) == OPTIONS


def test_permutations_order_each_folder(root: Path) -> None:
    cameras = scipy.io.loadmat(root / "exp" / "rand_perm_cam.mat")["rand_perm_cam"]
    assert cameras.shape == (6, 1)
    counts = np.zeros((6, 18), int)
    for camera in range(6):
        assert cameras[camera, 0].shape == (18, 1)
        for pid in range(1, 19):
            names = sorted(p.name for p in (root / f"cam{camera + 1}" / f"{pid:04d}").glob("*"))
            counts[camera, pid - 1] = n = len(names)
            assert names == [f"{image:04d}.jpg" for image in range(1, n + 1)]
            order = cameras[camera, 0][pid - 1, 0]
            assert order.dtype.kind == "u"
            assert order.size == 10 * n
            if n:
                assert (np.sort(order, axis=1) == np.arange(1, n + 1)).all()
                assert n < 4 or len({tuple(row) for row in order.tolist()}) > 1
    assert (counts == 0).any()
    assert len(np.unique(counts[counts > 0])) > 1
    assert counts[[0, 1, 3, 4]].any(0).all()
    assert counts[[2, 5]].any(0).all()


def test_files_look_like_detector_crops(root: Path) -> None:
    sizes = []
    for path in root.glob("cam*/*/*.jpg"):
        picture = Image.open(path)
        assert picture.format == "JPEG"
        assert picture.mode == "RGB"
        sizes.append((*picture.size, path.stat().st_size))
        pixels = np.asarray(picture)
        grey = (pixels == pixels[..., :1]).all()
        assert grey == (int(path.parts[-3].removeprefix("cam")) in INFRARED)
    width, height, size = np.array(sizes).T
    assert width.min() >= 50
    assert width.max() <= 250
    assert height.min() >= 130
    assert height.max() <= 550
    assert (height / width).min() > 2.1
    assert (height / width).max() < 3.3
    assert 12_000 < size.mean() < 20_000


def test_workers_do_not_matter_but_the_seed_does(tmp_path: Path) -> None:
    make(tmp_path / "one", TINY, workers=1)
    reports: list[tuple[int, int]] = []
    made, two = lambda *report: reports.append(report), tmp_path / "two"
    total = make(two, TINY, workers=2, on_progress=made)
    assert reports[-1] == (total, total)
    assert total == len(list(two.glob("cam*/*/*.jpg")))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = SyntheticOptions(num_train=1, num_val=1, num_test=1, images_per_camera=1, seed=1)
    make(tmp_path / "other", other, workers=1)
    one, other_files = contents(tmp_path / "one"), contents(tmp_path / "other")
    shared = [name for name in one if name.endswith(".jpg") and name in other_files]
    assert shared
    assert all(one[name] != other_files[name] for name in shared)


def test_pictures_do_not_depend_on_the_other_images(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "fewer", TINY, workers=1)
    paths = list((tmp_path / "fewer").glob("cam*/*/0001.jpg"))
    assert paths
    for path in paths:
        assert path.read_bytes() == (root / path.relative_to(tmp_path / "fewer")).read_bytes()


@pytest.mark.parametrize("occupied_by", ["file", "folder"])
def test_existing_data_is_refused_and_untouched(tmp_path: Path, occupied_by: str) -> None:
    root = tmp_path / "set"
    mine = root if occupied_by == "file" else root / "mine"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    with pytest.raises(InputError, match=r"set: exists and is not empty; delete it or"):
        make(root, TINY, workers=1)
    assert mine.read_text() == "precious"
    assert len(list(tmp_path.rglob("*"))) == (1 if occupied_by == "file" else 2)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert make(tmp_path / "set", TINY, workers=1) > 0
    assert (tmp_path / "set" / "synthetic.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_make_leaves_nothing(tmp_path: Path, workers: int) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "set", TINY, workers=workers, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_train", 0), ("num_val", -1), ("num_test", 3001), ("images_per_camera", 0), ("seed", -1)],
)
def test_options_say_what_is_wrong(name: str, value: int) -> None:
    flag = name.replace("_", "-")
    with pytest.raises(InputError, match=rf"--{flag} {value}: must be in \d…\d+"):
        SyntheticOptions(**{name: value})


def test_workers_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers is 0: must be at least 1"):
        make(tmp_path / "set", TINY, workers=0)


def test_dyes_fade_in_infrared() -> None:
    people = [identity(0, pid) for pid in range(1, 301)]
    worn = np.array([p.spectra[part - 1] for p in people for part in (Part.UPPER, Part.LOWER)])
    visible, nir = worn[:, :3].mean(1), worn[:, 3]
    assert np.corrcoef(visible, nir)[0, 1] < 0.4
    black = visible < 50
    assert (nir[black] > 120).mean() > 0.5
    assert (nir[black] < 100).mean() > 0.1
    prints = np.array(
        [[p.spectra[part - 1][3] for part in (Part.UPPER, Part.PRINT)] for p in people]
    )
    assert 0.4 < (prints[:, 0] == prints[:, 1]).mean() < 0.7


def test_modalities_differ_more_than_people(pictures: tuple[ndarray, ndarray, ndarray]) -> None:
    pixels, pids, infrared = pictures
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    square = (flat**2).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * flat @ flat.T, 0))
    same_pid, same_kind = pids[:, None] == pids, infrared[:, None] == infrared
    assert distance[same_kind & ~same_pid].mean() < distance[~same_kind & same_pid].mean()


def test_shape_alone_matches_people_across_modalities(
    pictures: tuple[ndarray, ndarray, ndarray],
) -> None:
    """Local edge directions, averaged over a person's images, rank the right one well above chance.

    Chance is a mean rank of 8.5 among 18 people.
    """
    pixels, pids, infrared = pictures
    dy, dx = np.gradient(pixels.mean(3), axis=(1, 2))
    strength, direction = np.hypot(dx, dy), np.floor(np.arctan2(dy, dx) % np.pi / np.pi * 5.999)
    cells = [(strength * (direction == k)).reshape(-1, 16, 4, 8, 4).sum((2, 4)) for k in range(6)]
    edges = np.stack(cells, -1)
    edges /= np.linalg.norm(edges, axis=-1, keepdims=True) + 10
    edges = edges.reshape(len(edges), -1)
    people = []
    for kind in (infrared, ~infrared):
        mine = (edges - edges[kind].mean(0)) / (edges[kind].std(0) + 1e-3)
        mean = np.stack([mine[kind & (pids == pid)].mean(0) for pid in np.unique(pids)])
        people.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    similarity = people[0] @ people[1].T
    rank = (similarity > np.diag(similarity)[:, None]).sum(1)
    assert rank.mean() < 5.5
