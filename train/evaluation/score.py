"""Official figures for features made elsewhere: two or more `.npz` files → CMC, mAP, mINP."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.datasets.rules import RULES
from pipeline.errors import InputError
from train import run_folder
from train.evaluation.features import Features as Features
from train.evaluation.features import read_features as read_features
from train.evaluation.options import EvalOptions, ReRanking
from train.evaluation.re_ranking import rank_re_ranked
from train.evaluation.sides import cameras_of, check_sides, remark_on
from train.live.display import Display
from train.metrics import Distance, Images, Ranking, rank, summary
from train.runtime import resolve_device


def score(
    queries: Features | Sequence[Features],
    galleries: Features | Sequence[Features],
    protocol: str,
    distance: Distance = "euclidean",
    device: str = "auto",
    re_ranking: ReRanking | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Returns the figures of a search, in percent; mean and deviation if there are several trials.

    Several queries, galleries or pairs of both are trials; a single one is used in all trials.

    `protocol` is a key of `pipeline.datasets.rules.RULES`: sysu, regdb, llcm, market or plain. The
    result holds rank1, rank5, rank10, rank20, mAP, mINP, `num_query` (queries with a match in the
    first gallery), `num_query_left_out` (those without), `num_gallery`, `chance_rank1` (of a random
    order), `num_trials`, `std`, `rule` and the `cameras` found; `test_time` discloses re-ranking
    and flip-test. Ties rank in the gallery's order. `device` auto uses the GPU if there is one.
    Raises `InputError` if the protocol is unknown, no query has a valid match in the gallery, or
    query and gallery do not fit together (`check_sides`).

        >>> score(Features(q, q_pids, q_camids), Features(g, g_pids, g_camids), "sysu")["mAP"]
    """
    if protocol not in RULES:
        raise InputError(f"--protocol {protocol}: unknown; choose one of {', '.join(RULES)}")
    rule = RULES[protocol]
    queries, galleries = _as_trials(queries, galleries)
    _check_alike([*queries, *galleries])
    torch_device = resolve_device(device)
    rankings = []
    for number, (query, gallery) in enumerate(zip(queries, galleries, strict=True), start=1):
        check_sides(query, gallery, protocol, distance)
        rankings += _ranked(query, gallery, protocol, distance, torch_device, re_ranking)
        on_progress(number, len(queries))
    cameras = {"query": cameras_of(queries), "gallery": cameras_of(galleries)}
    about: dict[str, Any] = {"protocol": protocol, "distance": distance, "unit": "percent"}
    about |= EvalOptions(queries[0].flip_test, re_ranking).disclosure()
    remark = remark_on(rule, cameras)
    return {
        **about,
        **summary(rankings),
        "num_query_left_out": len(queries[0].pids) - rankings[0].num_query,
        "num_gallery": len(galleries[0].pids),
        "rule": rule.about,
        "cameras": cameras,
        **({"remark": remark} if remark else {}),
    }


def _as_trials(
    queries: Features | Sequence[Features], galleries: Features | Sequence[Features]
) -> tuple[list[Features], list[Features]]:
    """Returns the queries and the gallery of each trial; raises `InputError` if numbers differ."""
    queries = [queries] if isinstance(queries, Features) else list(queries)
    galleries = [galleries] if isinstance(galleries, Features) else list(galleries)
    num_trials = max(1, len(queries), len(galleries))
    for side, of_side in (("--query", queries), ("--gallery", galleries)):
        if len(of_side) not in (1, num_trials):
            raise InputError(
                f"{side}: {len(of_side)} files for {num_trials} trials; pass one per trial, or one "
                "for all"
            )
    return queries * (num_trials // len(queries)), galleries * (num_trials // len(galleries))


def _ranked(
    query: Features,
    gallery: Features,
    protocol: str,
    distance: Distance,
    device: torch.device,
    re_ranking: ReRanking | None,
) -> list[Ranking]:
    """Ranks a trial's gallery; raises `InputError` naming it if no query has a match there."""
    rule = RULES[protocol]
    pids = np.concatenate([query.pids, gallery.pids])
    codes = rule.exclusion(pids, np.concatenate([query.camids, gallery.camids]))
    split = len(query.pids)
    searched, images = (
        Images(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))
        for arrays in (
            (query.features, query.pids, codes[:split]),
            (gallery.features, gallery.pids, codes[split:]),
        )
    )
    everything = torch.arange(len(gallery.pids), device=device)
    search = (searched, images, [everything], rule.cmc_unique_pids, distance)
    try:
        return rank_re_ranked(*search, re_ranking) if re_ranking else rank(*search)
    except ValueError as error:
        raise InputError(f"{gallery.name}: {error} (protocol {protocol}: {rule.about})") from error


def _check_alike(files: Sequence[Features]) -> None:
    """Raises `InputError` if only some of the files hold flip-test features."""
    flipped, plain = ([f for f in files if f.flip_test == kind] for kind in (True, False))
    if flipped and plain:
        raise InputError(
            f"{flipped[0].name}: was embedded with --flip-test, but {plain[0].name} was not; embed "
            "both the same way"
        )


def score_files(
    queries: Sequence[Path],
    galleries: Sequence[Path],
    protocol: str,
    distance: Distance,
    json_file: Path | None,
    display: Display,
    device: str = "auto",
    re_ranking: ReRanking | None = None,
) -> None:
    """Scores files, shows the table and writes the result to `json_file`, if given."""
    if json_file is not None:
        if json_file.is_dir():
            raise InputError(f"--json {json_file}: is a folder; name a file")
        run_folder.make_parent(json_file)
    for side, files in (("--query", queries), ("--gallery", galleries)):
        twice = [file for i, file in enumerate(files) if file in files[:i]]
        if twice and len(files) > 1:
            raise InputError(f"{side} {twice[0]}: is named twice; pass each trial's file once")
    read = [[read_features(file) for file in files] for files in (queries, galleries)]
    with display.progress("ranking") as progress:
        result = score(read[0], read[1], protocol, distance, device, re_ranking, progress)
    display.result(result)
    display.foundation(result)
    if json_file is not None:
        run_folder.write_result(json_file, result)
