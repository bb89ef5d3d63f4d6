"""Official figures for features made elsewhere: two or more `.npz` files in, CMC, mAP, mINP out."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.datasets.rules import RULES
from pipeline.errors import InputError
from train import run_folder
from train.evaluation.metrics import Distance, Images, rank, summary
from train.reporting.display import Display
from train.runtime import resolve_device


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Embedded images: `features` float32 [n, d], `pids` and `camids` int64 [n].

    Raises `InputError` naming the array whose kind, shape or content cannot serve.
    """

    features: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    name: str = "features"

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or 0 in self.features.shape:
            raise InputError(
                f"{self.name}: features has shape {list(self.features.shape)}; expected [n, d], "
                "a row an image"
            )
        if self.features.dtype != np.float32:
            raise InputError(
                f"{self.name}: features is {self.features.dtype}; expected float32 "
                "(features.astype(numpy.float32))"
            )
        for field, array in (("pids", self.pids), ("camids", self.camids)):
            if array.dtype != np.int64:
                raise InputError(
                    f"{self.name}: {field} is {array.dtype}; expected int64 "
                    f"({field}.astype(numpy.int64))"
                )
            if array.shape != (len(self.features),):
                raise InputError(
                    f"{self.name}: {field} has shape {list(array.shape)}; expected "
                    f"[{len(self.features)}], one for each row of features"
                )
        unknown = np.flatnonzero(self.pids < 0)
        if len(unknown):
            raise InputError(
                f"{self.name}: pids, row {unknown[0]}: is {self.pids[unknown[0]]}, of nobody known "
                f"({len(unknown)} such rows); leave these images out, or name them (cdp embed with "
                "a CSV)"
            )
        finite = np.empty(len(self.features), bool)
        for start in range(0, len(finite), 1024):  # the answers of a million images are gigabytes
            part = slice(start, start + 1024)
            np.isfinite(self.features[part]).all(axis=1, out=finite[part])
        bad = np.flatnonzero(~finite)
        if len(bad):
            raise InputError(
                f"{self.name}: features, row {bad[0]}: holds NaN or infinity ({len(bad)} such "
                "rows); leave these images out or embed them again"
            )


def read_features(file: Path) -> Features:
    """Reads an `.npz` of arrays `features`, `pids`, `camids`; raises `InputError` naming it."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Features(arrays["features"], arrays["pids"], arrays["camids"], str(file))
    except KeyError as error:
        raise InputError(
            f"{file}: holds no array {error.args[0].split()[0]!r}; expected features, pids, camids "
            "(numpy.savez(file, features=…, pids=…, camids=…))"
        ) from error
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{file}: no such file; expected an .npz of features, pids, camids"
        ) from error
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file}: is no .npz file of plain arrays ({error}); write it with numpy.savez"
        ) from error


def score(
    queries: Features | Sequence[Features],
    galleries: Features | Sequence[Features],
    protocol: str,
    distance: Distance = "euclidean",
    device: str = "auto",
) -> dict[str, Any]:
    """Figures of one search, in percent; of several trials, mean and deviation.

    Trials are several galleries, queries or pairs of both; one side alone serves all trials.

    `protocol` is a key of `pipeline.datasets.rules.RULES`: sysu, regdb, llcm, market or plain. The
    result holds rank1, rank5, rank10, rank20, mAP, mINP, `num_query` (queries that have a match, of
    the first gallery), `num_gallery`, `chance_rank1` (of a random order), `num_trials` and `std`.
    Ties rank in the gallery's order. `device` auto is the GPU if there is one. Raises `InputError`
    if the protocol is unknown, the features of query and gallery differ in length, or no query has
    a gallery image to be matched with.

        >>> score(Features(q, q_pids, q_camids), Features(g, g_pids, g_camids), "sysu")["mAP"]
    """
    if protocol not in RULES:
        raise InputError(f"--protocol {protocol}: unknown; there are {', '.join(RULES)}")
    rule = RULES[protocol]
    queries = [queries] if isinstance(queries, Features) else list(queries)
    galleries = [galleries] if isinstance(galleries, Features) else list(galleries)
    num_trials = max(1, len(queries), len(galleries))
    for side, of_side in (("--query", queries), ("--gallery", galleries)):
        if len(of_side) not in (1, num_trials):
            raise InputError(
                f"{side}: {len(of_side)} files for {num_trials} trials; pass one for each, or one "
                "for all"
            )
    queries, galleries = (
        of_side * (num_trials // len(of_side)) for of_side in (queries, galleries)
    )
    there = resolve_device(device)
    rankings = []
    for query, gallery in zip(queries, galleries, strict=True):
        widths = [side.features.shape[1] for side in (query, gallery)]
        if widths[0] != widths[1]:
            raise InputError(
                f"{gallery.name}: features have {widths[1]} numbers, those of {query.name} "
                f"{widths[0]}; embed both with one network"
            )
        pids = np.concatenate([query.pids, gallery.pids])
        codes = rule.exclusion(pids, np.concatenate([query.camids, gallery.camids]))
        split = len(query.pids)
        searched, images = (
            Images(*(torch.from_numpy(np.ascontiguousarray(a)).to(there) for a in arrays))
            for arrays in (
                (query.features, query.pids, codes[:split]),
                (gallery.features, gallery.pids, codes[split:]),
            )
        )
        everything = torch.arange(len(gallery.pids), device=there)
        try:
            rankings += rank(searched, images, [everything], rule.cmc_unique_pids, distance)
        except ValueError as error:
            raise InputError(
                f"{gallery.name}: {error} (protocol {protocol}: {rule.about})"
            ) from error
    about = {"protocol": protocol, "distance": distance, "unit": "percent"}
    return about | summary(rankings) | {"num_gallery": len(galleries[0].pids)}


def score_files(
    queries: Sequence[Path],
    galleries: Sequence[Path],
    protocol: str,
    distance: Distance,
    json_file: Path | None,
    display: Display,
    device: str = "auto",
) -> None:
    """Scores files, shows the table and, if asked to, writes the result as JSON."""
    if json_file is not None:
        run_folder.make_parent(json_file)
    read = [[read_features(file) for file in files] for files in (queries, galleries)]
    result = score(read[0], read[1], protocol, distance, device)
    display.result(result)
    if json_file is not None:
        run_folder.write_result(json_file, result)
