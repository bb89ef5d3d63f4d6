"""JPEGs that were cut and closed with an end marker are distinguished from all whole ones."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.jpeg import why_incomplete
from tests import trees

END = b"\xff\xd9"
KINDS = {
    "plain": {},
    "fine, own tables": {"quality": 95, "subsampling": 0, "optimize": True},
    "coarse": {"quality": 20},
    "restart markers": {"restart_marker_rows": 1},
    "restart markers within rows": {"restart_marker_blocks": 2},
    "progressive": {"progressive": True},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
}


def saved(pixels: np.ndarray, mode: str = "RGB", **encoding) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **encoding)
    return file.getvalue()


def decoded(jpeg: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(jpeg)) as opened:
            return np.asarray(opened.convert("RGB")).astype(int)
    except OSError:
        return None


@pytest.fixture(scope="module")
def crops(more_people) -> list[np.ndarray]:
    files = sorted(more_people.glob("cam[16]/*/0001.jpg"))[::5]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def test_every_image_of_whole_data_sets_is_whole(more_people, tmp_path):
    files = [*more_people.glob("cam*/*/*.jpg"), *trees.llcm(tmp_path / "LLCM").rglob("*.jpg")]
    assert len(files) > 300
    assert [file for file in files if why_incomplete(file.read_bytes())] == []


@pytest.mark.parametrize("encoding", KINDS.values(), ids=KINDS)
def test_a_picture_with_a_flat_end_is_whole(crops, encoding):
    rows = np.random.default_rng(0).integers(1, 100, len(crops))
    for crop, n in zip(crops, rows, strict=True):
        for level in (0, 128, 255):
            padded = crop.copy()
            padded[-n:] = level
            assert why_incomplete(saved(padded, **encoding)) is None
        for mode in ("L", "CMYK"):
            assert why_incomplete(saved(crop, mode, **encoding)) is None
    assert why_incomplete(saved(np.zeros((1, 1, 3), np.uint8), **encoding)) is None


def test_data_after_the_end_and_markers_in_metadata_do_not_matter(crops):
    thumbnail = saved(crops[0][::8, ::8])
    exif = Image.Exif()
    exif[270] = "a picture"
    jpeg = saved(crops[1], exif=exif.tobytes() + thumbnail, comment=b"\xff\xda\xff\xd9")
    assert why_incomplete(jpeg) is None
    assert why_incomplete(jpeg + b"\0" * 50 + thumbnail) is None


@pytest.mark.parametrize("encoding", KINDS.values(), ids=KINDS)
def test_cuts_are_found_wherever_they_are(crops, encoding):
    num_cut = num_found = 0
    for crop in crops:
        jpeg = saved(crop, **encoding)
        whole, start = decoded(jpeg), jpeg.find(b"\xff\xda") + 14
        for percent in range(10, 100, 10):
            cut = jpeg[: start + (len(jpeg) - 2 - start) * percent // 100] + END
            pixels = decoded(cut)
            if pixels is None:  # a separate fault
                continue
            lost = (pixels != whole).any(axis=(1, 2)).mean()
            flaw = why_incomplete(cut)
            if lost >= 0.05:
                num_cut += 1
                num_found += flaw is not None
            if flaw and not encoding.get("progressive"):
                said = int(flaw.text.split("lower ")[1].split("%")[0]) / 100
                assert abs(said - lost) < 0.12  # it counts in rows of blocks
    assert num_cut > 40
    assert num_found == num_cut


def test_a_progressive_file_without_its_last_scans_is_blurred(crops):
    jpeg = saved(crops[0], progressive=True)
    last = jpeg.rfind(b"\xff\xda")
    flaw = why_incomplete(jpeg[:last] + END)
    assert flaw
    assert flaw.text == "is cut short: its last scans are missing, so that it is blurred"
