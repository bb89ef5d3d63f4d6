"""Reads MATLAB files, version 5 to 7, that hold numbers or cells of numbers.

SciPy's reader can crash the process on a damaged file; here each length is checked first.
"""

import zlib
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

HEADER = 128  # bytes; the last four give version and byte order
NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
MATRIX, COMPRESSED = 14, 15
CELL, NUMERIC = 1, range(6, 16)  # classes of a matrix

Value = ndarray | list[Any]  # an array, or the Values of a cell array, column by column


class Element(NamedTuple):
    """A piece of the file: what it holds, and its bytes."""

    kind: int
    content: memoryview


def read_mat(content: bytes, name: str) -> Value:
    """Returns the variable `name`; raises `ValueError` or `zlib.error` if it cannot be read."""
    if content[:10] == b"MATLAB 7.3":
        raise ValueError("MATLAB 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None:
        raise ValueError("not a MATLAB file")
    for element in _elements(memoryview(content)[HEADER:], order):
        if element.kind == COMPRESSED:
            (element,) = _elements(memoryview(zlib.decompress(element.content)), order)
        if element.kind == MATRIX and _parts(element, order)[2].content.tobytes() == name.encode():
            return _value(element, order)
    raise ValueError(f"no variable {name}")


def _elements(data: memoryview, order: str) -> Iterator[Element]:
    """Yields the elements of `data`."""
    while data:
        words = np.frombuffer(data[:8].tobytes(), f"{order}u4")
        if len(words) < 2:
            raise ValueError("cut short")
        kind, length = int(words[0]), int(words[1])
        start = 8
        if kind >> 16:  # the short form: length and kind in one word, content in the other
            kind, length, start = kind & 0xFFFF, kind >> 16, 4
        if start + length > (8 if start == 4 else len(data)):
            raise ValueError("cut short")
        yield Element(kind, data[start : start + length])
        padding = 0 if kind == COMPRESSED else -(start + length) % 8
        data = data[start + length + padding :]


def _parts(matrix: Element, order: str) -> list[Element]:
    """Returns the flags, dimensions, name and values of a matrix."""
    parts = list(_elements(matrix.content, order))
    if len(parts) < 3 or len(parts[0].content) != 8:
        raise ValueError("a damaged matrix")
    return parts


def _value(matrix: Element, order: str) -> Value:
    if matrix.kind != MATRIX:
        raise ValueError(f"expected a matrix, not kind {matrix.kind}")
    if not matrix.content:
        return np.empty((0, 0))  # an empty cell
    flags, size, _, *values = _parts(matrix, order)
    matrix_class = int(np.frombuffer(flags.content, f"{order}u4")[0]) & 0xFF
    shape = tuple(_numbers(size, order).tolist())
    if min(shape, default=-1) < 0:
        raise ValueError(f"a matrix of shape {shape}")
    if matrix_class == CELL:
        if len(values) != prod(shape):
            raise ValueError(f"a cell array of shape {shape} with {len(values)} values")
        return [_value(value, order) for value in values]
    if matrix_class not in NUMERIC or len(values) != 1:
        raise ValueError(f"a matrix of class {matrix_class}; expected numbers")
    return _numbers(values[0], order).reshape(shape, order="F")


def _numbers(element: Element, order: str) -> ndarray:
    if element.kind not in NUMBERS:
        raise ValueError(f"numbers of kind {element.kind}")
    return np.frombuffer(element.content, order + NUMBERS[element.kind])
