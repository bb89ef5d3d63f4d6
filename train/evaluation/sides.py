"""Checks that query and gallery files fit together and that their cameras fit the protocol."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from pipeline.datasets.rules import RULES, Rule
from pipeline.errors import InputError
from train.evaluation.features import Features
from train.metrics import Distance

ROWS = 1024  # processed at a time, to bound copies
SMALLEST, LARGEST = 1e-15, 1e16  # of the largest feature: float32 must resolve squared distances
LEAST_SPREAD = 1e-5  # relative to the features' size; `metrics.distances` rounds smaller ones to 0


def check_sides(query: Features, gallery: Features, protocol: str, distance: Distance) -> None:
    """Raises `InputError`, naming the file, if figures of these two would be meaningless.

    That is: features of different lengths or of a magnitude that distances cannot represent,
    cameras that the protocol's data set does not have, or queries that are in the gallery too.
    """
    widths = [side.features.shape[1] for side in (query, gallery)]
    if widths[0] != widths[1]:
        raise InputError(
            f"{gallery.name}: features have {widths[1]} numbers, but those of {query.name} have "
            f"{widths[0]}; embed both with the same network"
        )
    _check_size(query, gallery, distance)
    _check_spread(query, gallery)
    rule = RULES[protocol]
    if rule.uses_cameras:
        _check_cameras(query, gallery, protocol, rule)
    elif (found := _num_in_gallery(query, gallery)) == len(query.pids):
        raise InputError(
            f"{query.name}: all {found} queries are in {gallery.name} too (same features, pid and "
            f"camid), and protocol {protocol} would let each match itself; remove them from the "
            "gallery"
        )


def cameras_of(files: Sequence[Features]) -> list[int]:
    """Returns the cameras of all files, in ascending order."""
    return [int(camid) for camid in np.unique(np.concatenate([np.unique(f.camids) for f in files]))]


def remark_on(rule: Rule, cameras: Mapping[str, Sequence[int]]) -> str:
    """Returns a remark for figures with these query and gallery cameras; "" if none is needed."""
    direction = rule.direction(set(cameras["query"]), set(cameras["gallery"]))
    if not (rule.usual_query and direction) or direction[0] == rule.usual_query:
        return ""
    return (
        f"queries are {direction[0]} and the gallery {direction[1]}, the reverse of the published "
        "protocol"
    )


def listed(cameras: Sequence[int]) -> str:
    """Returns the cameras as text; a long list is shortened."""
    shown = ", ".join(map(str, cameras[:20]))
    return shown if len(cameras) <= 20 else f"{shown}, … ({len(cameras)} cameras)"


def _check_cameras(query: Features, gallery: Features, protocol: str, rule: Rule) -> None:
    known = sorted(set().union(*rule.cameras.values()))
    for side in (query, gallery):
        found = cameras_of([side])
        if known and (found[0] < known[0] or found[-1] > known[-1]):
            raise InputError(
                f"{side.name}: camids holds {found[0] if found[0] < known[0] else found[-1]}; "
                f"cameras of protocol {protocol} are {known[0]} to {known[-1]}: number them as the "
                "data set does (if yours start at 0, add 1 in all files)"
            )
        if found[0] < 0:
            raise InputError(
                f"{side.name}: camids holds {found[0]}, which is not a camera; protocol {protocol} "
                "needs the camera of each image: pass them, or choose another --protocol"
            )
    searching, searched = cameras_of([query]), cameras_of([gallery])
    if known and not rule.direction(set(searching), set(searched)):
        kinds = ", ".join(f"{kind} {listed(sorted(of))}" for kind, of in rule.cameras.items())
        raise InputError(
            f"{query.name}: has cameras {listed(searching)}, and {gallery.name} has "
            f"{listed(searched)}; protocol {protocol} searches for one modality in the other "
            f"({kinds}): number the cameras as the data set does, or choose another --protocol"
        )


def _check_size(query: Features, gallery: Features, distance: Distance) -> None:
    if distance == "cosine":
        for side in (query, gallery):
            zero = np.flatnonzero(~side.features.any(axis=1))
            if len(zero):
                raise InputError(
                    f"{side.name}: features, row {zero[0]}: is all zeros and has no cosine "
                    f"distance ({len(zero)} such rows); leave these images out or embed them again"
                )
        return
    size, name = max(
        (float(max(side.features.max(), -side.features.min())), side.name)
        for side in (query, gallery)
    )
    if not SMALLEST <= size <= LARGEST:
        raise InputError(
            f"{name}: the largest feature is {size:.3g}; float32 cannot represent distances of "
            "that size: scale query and gallery by the same factor, or embed them again"
        )


def _check_spread(query: Features, gallery: Features) -> None:
    """Raises `InputError` if features differ too little from each other for their size."""
    first = gallery.features[0].astype(np.float64)
    apart, squares, size, num = np.zeros_like(first), 0.0, 0.0, 0
    for side in (query, gallery):
        for start in range(0, len(side.pids), ROWS):
            features = side.features[start : start + ROWS].astype(np.float64)
            size += np.square(features).sum()
            features -= first
            apart += features.sum(axis=0)
            squares += np.square(features).sum()
            num += len(features)
    spread = np.sqrt(max(0.0, squares / num - np.square(apart / num).sum()))
    if 0 < spread < LEAST_SPREAD * np.sqrt(size / num):
        raise InputError(
            f"{gallery.name}: features have a length of {np.sqrt(size / num):.3g} but are only "
            f"{spread:.3g} from their mean on average, too little to compare them; subtract the "
            "same vector from query and gallery, such as the gallery's mean"
        )


def _num_in_gallery(query: Features, gallery: Features) -> int:
    """Counts queries whose features, pid and camid are also in the gallery."""
    return int(np.isin(_digests(query), _digests(gallery)).sum())


def _digests(side: Features) -> Int64[ndarray, " n"]:
    """Returns a hash per row; equal rows have equal hashes."""
    features = np.ascontiguousarray(side.features)
    rng = np.random.default_rng(0)
    factors = rng.integers(2**63, size=features.shape[1] + 2, dtype=np.int64) * 2 + 1
    found = side.pids * factors[0] + side.camids * factors[1]
    for start in range(0, len(found), ROWS):
        part = slice(start, start + ROWS)
        found[part] += features[part].view(np.int32) @ factors[2:]
    return found
