"""The embedded people look as near- and far-infrared cameras are described to show them."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray
from PIL import Image

from pipeline.datasets import synthetic
from pipeline.datasets.body import Part
from pipeline.datasets.kinds import kind_of, read_training, survey
from pipeline.datasets.population import identity, warm
from pipeline.options import DataOptions

INFRARED, COLOUR = (3, 6), (1, 2, 4, 5)
MEANS = (116.5, 86.5, 106.5, 115.9, 81.6, 91.4, 104.7, 109.7)  # of version 2
FEW = {"num_train": 4, "num_val": 1, "num_test": 1, "images_per_camera": 3}


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few people, their infrared images near-infrared."""
    root = tmp_path_factory.mktemp("near") / "set"
    synthetic.make(root, synthetic.SyntheticOptions(**FEW), workers=1)
    return root


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same people, their infrared images far-infrared."""
    root = tmp_path_factory.mktemp("far") / "set"
    synthetic.make(root, synthetic.SyntheticOptions(**FEW, thermal=True), workers=1)
    return root


def images(root: Path, camids: tuple[int, ...], size: tuple[int, int] | None = None) -> list:
    """Returns the luma of all images of some cameras, float32 [H, W]."""
    pictures = (Image.open(f) for camid in camids for f in sorted(root.glob(f"cam{camid}/*/*")))
    resized = (picture.resize(size) if size else picture for picture in pictures)
    return [np.asarray(picture.convert("L"), np.float32) for picture in resized]


def noise(pixels: ndarray) -> float:
    """Returns the deviation of white noise, estimated from second differences (Immerkaer 1996)."""
    rows = pixels[:-2] - 2 * pixels[1:-1] + pixels[2:]
    second = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(np.median(abs(second)) / 0.6745 / 6)


def steepness(pixels: ndarray) -> float:
    """Returns how steep the steepest edges are, in ranges of brightness per pixel."""
    low, high = np.percentile(pixels, (2, 98))
    return float(np.percentile(abs(np.diff(pixels, axis=1)), 99) / (high - low))


def person_and_border(pixels: ndarray) -> tuple[float, float]:
    """Returns the brightness of the upper body's middle, and of the border beside the head."""
    height, width = pixels.shape
    body = pixels[height // 4 : height // 2, width * 2 // 5 : width * 3 // 5]
    border = pixels[: height // 8, [*range(width // 10), *range(-(width // 10), 0)]]
    return float(body.mean()), float(border.mean())


def test_near_infrared_is_as_sharp_and_clean_as_colour(near: Path) -> None:
    infrared, colour = images(near, INFRARED), images(near, COLOUR)
    assert np.mean([*map(noise, infrared)]) < 1.25 * np.mean([*map(noise, colour)])
    infrared, colour = (images(near, camids, (64, 128)) for camids in (INFRARED, COLOUR))
    assert np.mean([*map(steepness, infrared)]) > 0.8 * np.mean([*map(steepness, colour)])


def test_near_infrared_says_less_about_colour_than_colours_say_about_each_other() -> None:
    people = [identity(0, pid) for pid in range(1, 301)]
    worn = np.array([p.spectra[part - 1] for p in people for part in (Part.UPPER, Part.LOWER)])
    related = np.corrcoef(worn.T)
    assert related[:3, 3].max() < 0.4 < related[:3, :3].min()


def test_people_are_brighter_than_what_is_behind_them(near: Path, far: Path) -> None:
    for root in (near, far):
        body, border = np.transpose([person_and_border(x) for x in images(root, INFRARED)])
        assert (body > border).mean() > 0.9
        assert body.mean() > 1.6 * border.mean()


def test_far_infrared_shows_heat() -> None:
    for pid in range(1, 101):
        person = identity(0, pid)
        hot = warm(person, 0, pid)
        heat = {part: hot.spectra[part - 1][3] for part in Part}
        assert heat[Part.SKIN] > heat[Part.UPPER] + 20 > heat[Part.FURNITURE] + 20
        assert heat[Part.PRINT] == heat[Part.UPPER]
        assert heat[Part.EYES] == heat[Part.SKIN]
        assert [s[:3] for s in hot.spectra] == [s[:3] for s in person.spectra]


def test_far_infrared_is_blurred(near: Path, far: Path) -> None:
    sharp, blurred = (
        np.mean([steepness(pixels) for pixels in images(root, INFRARED, (64, 128))])
        for root in (near, far)
    )
    assert blurred < 0.6 * sharp


def test_far_infrared_changes_no_rgb_image(near: Path, far: Path) -> None:
    for file in near.glob("cam*/*/*.jpg"):
        same = file.read_bytes() == (far / file.relative_to(near)).read_bytes()
        assert same == (int(file.parts[-3].removeprefix("cam")) in COLOUR)


def test_a_far_infrared_set_loads_like_any_other(near: Path, far: Path) -> None:
    assert kind_of(far) == "sysu"
    assert not survey(far, "sysu").faults
    ours, theirs = (read_training(DataOptions(), root) for root in (far, near))
    np.testing.assert_array_equal(ours.pids, theirs.pids)
    np.testing.assert_array_equal(ours.modality, theirs.modality)


def test_the_recipe_tells_sets_apart(near: Path, far: Path, tmp_path: Path) -> None:
    assert synthetic.title(near) == f"synthetic people v{synthetic.VERSION}"
    assert synthetic.title(far) == f"thermal synthetic people v{synthetic.VERSION}"
    assert synthetic.title(tmp_path) is None
    assert (synthetic.recipe(far) or {})["thermal"] == 1
    of_version_1 = {"version": 1, "options": {**FEW, "seed": 0}}  # had no thermal
    (tmp_path / "synthetic.json").write_text(json.dumps(of_version_1))
    assert synthetic.title(tmp_path) == "synthetic people v1"


def test_pictures_change_only_with_the_version(near: Path, far: Path) -> None:
    """Compares mean brightness by camera; where it has changed, raise VERSION."""
    assert synthetic.VERSION == 2
    cameras = [(near, camid) for camid in range(1, 7)] + [(far, camid) for camid in INFRARED]
    means = [np.mean([x.mean() for x in images(root, (camid,))]) for root, camid in cameras]
    np.testing.assert_allclose(means, MEANS, atol=0.4)
