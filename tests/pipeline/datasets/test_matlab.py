"""MATLAB files: what SciPy writes is read as SciPy reads it, and damage never goes unnoticed."""

import io
import random
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import scipy.io

from pipeline.datasets.matlab import read_mat


def cells() -> np.ndarray:
    """Cells of cells of numbers, some of them empty, as rand_perm_cam.mat has them."""
    rng = np.random.default_rng(0)
    outer = np.empty((2, 1), object)
    for i, dtype in enumerate((np.uint8, np.float64)):
        outer[i, 0] = np.empty((5, 1), object)
        for j, n in enumerate((3, 0, 1, 300, 2)):
            outer[i, 0][j, 0] = rng.integers(0, 200, (10, n)).astype(dtype)
    return outer


def written(compressed: bool) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"other": np.eye(3), "some": cells()}, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_it_reads_what_scipy_writes(compressed):
    content = written(compressed)
    theirs = scipy.io.loadmat(io.BytesIO(content))["some"]
    ours = read_mat(content, "some")
    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs[:, 0], strict=True):
        for array, expected in zip(mine, other[:, 0], strict=True):
            assert array.shape == expected.shape
            assert (array == expected).all()
    np.testing.assert_array_equal(read_mat(content, "other"), np.eye(3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_it_reads_what_matlab_writes(order):
    """MATLAB stores integral doubles as bytes, and an empty cell without content."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)

    def small(kind: int, content: bytes) -> bytes:
        words = (len(content) << 16 | kind,)
        return struct.pack(f"{order}I", *words) + content.ljust(4, b"\0")

    def matrix(of_class: int, shape: tuple[int, int], name: bytes, *values: bytes) -> bytes:
        flags = element(6, struct.pack(f"{order}II", of_class, 0))
        size = element(5, struct.pack(f"{order}ii", *shape))
        return element(14, flags + size + small(1, name) + b"".join(values))

    numbers = matrix(6, (2, 3), b"", element(2, bytes([1, 2, 3, 4, 5, 6])))
    one = matrix(6, (1, 1), b"", small(2, b"\x07"))
    cell = matrix(1, (3, 1), b"x", numbers, element(14, b""), one)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49)
    packed = zlib.compress(cell)
    compressed = struct.pack(f"{order}II", 15, len(packed)) + packed
    for content in (head + cell, head + compressed):
        first, nothing, last = read_mat(content, "x")
        assert first.tolist() == [[1, 3, 5], [2, 4, 6]]
        assert nothing.size == 0
        assert last.tolist() == [[7]]


def same(one: object, other: object) -> bool:
    if isinstance(one, list) or isinstance(other, list):
        both_lists = isinstance(one, list) and isinstance(other, list) and len(one) == len(other)
        return both_lists and all(map(same, one, other))
    return np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_compressed_file_is_refused_or_read_right(seed):
    whole, rng = written(compressed=True), random.Random(seed)
    good = read_mat(whole, "some")
    for _ in range(25):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.choice([1, 3, 30])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            found = read_mat(bytes(damaged), "some")
        except (ValueError, zlib.error, IndexError):
            continue
        assert same(found, good)


def test_a_damaged_uncompressed_file_gives_an_error_or_numbers():
    whole, rng = written(compressed=False), random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        with suppress(ValueError):  # SciPy's reader crashed the process
            read_mat(bytes(damaged), "some")
