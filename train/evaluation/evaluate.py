"""Evaluates a network under a data set's protocol: features → rankings → mean over trials."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from model.network import ReidNetwork
from pipeline.datasets.records import Modality, Protocol, Trial
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from train.evaluation.options import PLAIN, EvalOptions, ReRanking
from train.evaluation.re_ranking import check_size, rank_re_ranked
from train.metrics import Distance, Images, Ranking, rank, summary


@torch.inference_mode()
def extract_features(
    network: ReidNetwork,
    loader: EvaluationLoader,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    flip_test: bool = False,
) -> Float[Tensor, "n d"]:
    """Returns features of every image that the loader yields, in order, float32, on the device.

    With `flip_test`, averages the features of each image and its mirror image as `network.embed`
    returns them; cosine distance normalises the mean, not the two. Raises `InputError` naming an
    image whose features are NaN or infinite.
    """
    was_training = network.training
    network.eval()
    infrared = torch.from_numpy(loader.source.index.modality == Modality.IR)
    features, rows = [], []
    for done, (of_batch, images) in enumerate(loader.with_rows(), start=1):
        num = len(images)
        is_infrared = infrared[of_batch].to(loader.device)
        if images.is_cuda:  # one shape only: cuDNN benchmarks its algorithms for each new one
            images, is_infrared = (fill(x, loader.source.batch) for x in (images, is_infrared))
        found = network.embed(images, is_infrared)
        if flip_test:
            found = (found + network.embed(images.flip(3), is_infrared)) / 2
        features.append(found[:num])
        rows.append(of_batch)
        on_progress(done, len(loader))
    network.train(was_training)
    if not features:  # a loader may skip them all
        return torch.empty(0, network.width, device=loader.device)
    joined = torch.cat(features)
    bad = (~joined.isfinite().all(dim=1)).nonzero()
    if len(bad):
        first = np.concatenate(rows)[int(bad[0])]
        raise InputError(
            f"{loader.source.index.path(first)}: its features are NaN or infinite "
            f"({len(bad)} such images); evaluate an earlier checkpoint, or train with a lower "
            "--optimizer.lr"
        )
    return joined


def fill(rows: Tensor, size: int) -> Tensor:
    """Pads `rows` to `size` rows by repeating the last."""
    missing = size - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def evaluate(
    features: Float[Tensor, "n d"],
    protocol: Protocol,
    distance: Distance = "euclidean",
    options: EvalOptions = PLAIN,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Returns figures in percent, averaged over each mode's trials, in the form of `result.json`.

    `features` belong to the rows of the protocol's index and were extracted according to `options`.
    The top level holds the first mode's figures, "modes" those of all modes.
    """
    rankings = rank_modes(features, protocol, distance, options.re_ranking, on_progress)
    return figures(rankings, protocol, distance, options)


def rank_modes(
    features: Float[Tensor, "n d"],
    protocol: Protocol,
    distance: Distance = "euclidean",
    re_ranking: ReRanking | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Ranking]]:
    """Returns the rankings of each mode's trials; `features` as in `evaluate`."""
    codes = protocol.rule.exclusion(protocol.index.pids, protocol.index.camids)
    images = Images(
        features,
        torch.from_numpy(protocol.index.pids).to(features.device),
        torch.from_numpy(codes).to(features.device),
    )
    return _rank_modes(images, protocol, distance, re_ranking, on_progress)


def figures(
    rankings: list[list[Ranking]],
    protocol: Protocol,
    distance: Distance,
    options: EvalOptions = PLAIN,
) -> dict[str, Any]:
    """Returns what `evaluate` does, from the rankings of each mode's trials."""
    about: dict[str, Any] = {"distance": distance, "unit": "percent", **options.disclosure()}
    if protocol.remark:
        about["remark"] = protocol.remark
    modes = [
        {"protocol": f"{protocol.name} {mode.name}", **about, **summary(rankings[m])}
        | {"num_gallery": len(mode.trials[0].gallery)}
        for m, mode in enumerate(protocol.modes)
    ]
    return modes[0] | {"modes": modes}


def _rank_modes(
    images: Images,
    protocol: Protocol,
    distance: Distance,
    re_ranking: ReRanking | None,
    on_progress: Callable[[int, int], None],
) -> list[list[Ranking]]:
    """Ranks all trials, computing a query's distances only once."""
    rankings: list[list[Any]] = [[None] * len(mode.trials) for mode in protocol.modes]
    total = sum(map(len, rankings))
    count = itertools.count(1)
    for group, trials, pool in _groups(protocol):

        def rows(numbers: np.ndarray) -> Tensor:
            return torch.from_numpy(numbers).to(images.pids.device)

        search = (
            images.take(rows(trials[0].query)),
            images.take(rows(pool)),
            [rows(np.searchsorted(pool, trial.gallery)) for trial in trials],
            protocol.rule.cmc_unique_pids,
            distance,
        )
        found = (
            rank_re_ranked(*search, re_ranking, lambda: on_progress(next(count), total))
            if re_ranking
            else rank(*search)
        )
        for (m, t), ranking in zip(group, found, strict=True):
            rankings[m][t] = ranking
    return rankings


def _groups(
    protocol: Protocol,
) -> Iterator[tuple[list[tuple[int, int]], list[Trial], Int64[ndarray, " pool"]]]:
    """Groups trials with equal queries: (mode, trial) numbers, trials, and all gallery rows."""
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for m, mode in enumerate(protocol.modes):
        for t, trial in enumerate(mode.trials):
            groups.setdefault(trial.query.tobytes(), []).append((m, t))
    for group in groups.values():
        trials = [protocol.modes[m].trials[t] for m, t in group]
        yield group, trials, np.unique(np.concatenate([trial.gallery for trial in trials]))


def check_re_ranking(protocol: Protocol) -> None:
    """Raises `InputError` if the protocol has too many images to re-rank."""
    for _, trials, pool in _groups(protocol):
        check_size(len(trials[0].query), len(pool))
