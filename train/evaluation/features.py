"""Features made by any model: checked arrays and the `.npz` files that hold them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import InputError, in_one_line

ARRAYS = ("features", "pids", "camids")
LARGEST = np.iinfo(np.int64).max
SMALLEST = 1e-30  # squares of float32 numbers near its limits vanish
MOST_LOST = 1e-3  # by rounding to float32, relative to the features' standard deviation
FLIP_TEST = "flip_test"  # true if made by `cdp embed --flip-test`; optional


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Embedded images: `features` float32 [n, d], `pids` and `camids` int64 [n].

    Converts other floating and integer dtypes. Raises `InputError` naming an array whose dtype,
    shape or content is invalid, or that does not fit into these dtypes.
    """

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    name: str = "features"
    flip_test: bool = False  # averaged over each image and its mirror image; disclosed in figures

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or 0 in self.features.shape:
            raise InputError(
                f"{self.name}: features has shape {list(self.features.shape)}; expected [n, d], "
                "one row per image"
            )
        if self.features.dtype.kind != "f":
            raise InputError(
                f"{self.name}: features is {self.features.dtype}; expected float32, or another "
                "floating-point dtype"
            )
        for field, array in (("pids", self.pids), ("camids", self.camids)):
            if array.dtype.kind not in "iu":
                raise InputError(
                    f"{self.name}: {field} is {array.dtype}; expected int64, or another integer "
                    "dtype"
                )
            if array.shape != (len(self.features),):
                raise InputError(
                    f"{self.name}: {field} has shape {list(array.shape)}; expected "
                    f"[{len(self.features)}], one per row of features"
                )
            if array.max() > LARGEST:
                raise InputError(
                    f"{self.name}: {field}, row {array.argmax()}: is {array.max()}; int64 holds "
                    f"numbers up to {LARGEST}"
                )
            object.__setattr__(self, field, array.astype(np.int64, copy=False))
        unknown = np.flatnonzero(self.pids < 0)
        if len(unknown):
            raise InputError(
                f"{self.name}: pids, row {unknown[0]}: is {self.pids[unknown[0]]}, an unknown "
                f"person ({len(unknown)} such rows); leave these images out, or label them (cdp "
                "embed with a CSV)"
            )
        finite = np.empty(len(self.features), bool)
        for start in range(0, len(finite), 1024):  # isfinite of a million images takes gigabytes
            part = slice(start, start + 1024)
            np.isfinite(self.features[part]).all(axis=1, out=finite[part])
        bad = np.flatnonzero(~finite)
        if len(bad):
            raise InputError(
                f"{self.name}: features, row {bad[0]}: holds NaN or infinity ({len(bad)} such "
                "rows); leave these images out or embed them again"
            )
        with np.errstate(over="ignore"):
            converted = self.features.astype(np.float32, copy=False)
        if converted is not self.features and not np.isfinite(converted).all():
            row = np.flatnonzero(~np.isfinite(converted).all(axis=1))[0]
            raise InputError(
                f"{self.name}: features, row {row}: holds a number that float32 cannot represent; "
                "scale query and gallery by the same factor"
            )
        if self.features.dtype.itemsize > converted.dtype.itemsize:
            _check_converted(self.features, converted, self.name)
        object.__setattr__(self, "features", converted)


def _check_converted(wide: np.ndarray, converted: np.ndarray, name: str) -> None:
    """Raises `InputError` if rounding to float32 changes what distances compare."""
    parts = [slice(start, start + 1024) for start in range(0, len(wide), 1024)]
    mean = sum(wide[part].sum(axis=0) for part in parts) / len(wide)
    deviation = np.sqrt(sum(np.square(wide[part] - mean).sum() for part in parts) / wide.size)
    lost = max(np.abs(wide[part] - converted[part]).max() for part in parts)
    largest = max(np.abs(wide[part]).max() for part in parts)
    if 0 < largest < SMALLEST:
        raise InputError(
            f"{name}: features are at most {largest:.3g}, too small for float32; scale query and "
            "gallery by the same factor"
        )
    if lost > MOST_LOST * deviation > 0:
        raise InputError(
            f"{name}: features are {wide.dtype} and differ from each other by {deviation:.3g} on "
            f"average, but rounding to float32 changes them by up to {lost:.3g}; subtract the same "
            "vector from query and gallery, such as the gallery's mean"
        )


def read_features(file: Path) -> Features:
    """Reads an `.npz` of arrays `features`, `pids`, `camids`; raises `InputError` naming it.

    An optional array `flip_test`, true, marks features made by `cdp embed --flip-test`.
    """
    if not file.exists():
        raise InputError(f"{file}: no such file; expected an .npz of {', '.join(ARRAYS)}")
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in (*ARRAYS, FLIP_TEST) if name in opened}
    except Exception as error:  # zip, zlib, NumPy and the disk each raise their own
        raise InputError(
            f"{file}: is not an .npz file of plain arrays ({in_one_line(error)}); write it with "
            "numpy.savez"
        ) from error
    for name in ARRAYS:
        if name not in arrays:
            raise InputError(
                f"{file}: has no array {name!r}; expected {', '.join(ARRAYS)} "
                "(numpy.savez(file, features=…, pids=…, camids=…))"
            )
    flip_test = arrays.pop(FLIP_TEST, np.False_)
    if flip_test.dtype != np.bool_ or flip_test.shape:
        raise InputError(
            f"{file}: {FLIP_TEST} is {flip_test.dtype} of shape {list(flip_test.shape)}; expected "
            "true or false"
        )
    return Features(**arrays, name=str(file), flip_test=bool(flip_test))
