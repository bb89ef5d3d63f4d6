"""A network's figures under a data set's protocol: features → rankings → mean over trials."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from model.network import ReidNetwork
from pipeline.datasets.records import Modality, Protocol
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from train.metrics import Distance, Images, Ranking, rank, summary


@torch.inference_mode()
def extract_features(
    network: ReidNetwork,
    loader: EvaluationLoader,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float[Tensor, "n d"]:
    """Features of every image of the loader's index, in order, float32, on the device.

    Raises `InputError` naming an image whose features are NaN or infinite.
    """
    was_training = network.training
    network.eval()
    infrared = torch.from_numpy(loader.source.index.modality == Modality.IR)
    infrared = infrared.to(loader.device).split(loader.source.batch)
    features = []
    for done, (images, is_infrared) in enumerate(zip(loader, infrared, strict=True), start=1):
        num = len(images)
        if images.is_cuda:  # one shape only: for each new one cuDNN tries its algorithms anew
            images, is_infrared = (fill(x, loader.source.batch) for x in (images, is_infrared))
        features.append(network.embed(images, is_infrared)[:num])
        on_progress(done, len(loader))
    network.train(was_training)
    joined = torch.cat(features)
    bad = (~joined.isfinite().all(dim=1)).nonzero()
    if len(bad):
        raise InputError(
            f"{loader.source.index.path(int(bad[0]))}: the network's features of it are NaN or "
            f"infinite ({len(bad)} such images); evaluate an earlier checkpoint, or train with a "
            "lower --optimizer.lr"
        )
    return joined


def fill(rows: Tensor, size: int) -> Tensor:
    """The rows, and the last of them again until there are `size`."""
    missing = size - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def evaluate(
    features: Float[Tensor, "n d"], protocol: Protocol, distance: Distance = "euclidean"
) -> dict[str, Any]:
    """Figures in percent, averaged over each mode's trials, as `result.json` holds them.

    `features` are those of the protocol's index, row by row. The first mode's figures stand at the
    top, all modes' under "modes".
    """
    return figures(rank_modes(features, protocol, distance), protocol, distance)


def rank_modes(
    features: Float[Tensor, "n d"], protocol: Protocol, distance: Distance = "euclidean"
) -> list[list[Ranking]]:
    """The rankings of each mode's trials, for `features` as `evaluate` takes them."""
    codes = protocol.rule.exclusion(protocol.index.pids, protocol.index.camids)
    images = Images(
        features,
        torch.from_numpy(protocol.index.pids).to(features.device),
        torch.from_numpy(codes).to(features.device),
    )
    return _rank_modes(images, protocol, distance)


def figures(
    rankings: list[list[Ranking]], protocol: Protocol, distance: Distance
) -> dict[str, Any]:
    """What `evaluate` returns, from the rankings of each mode's trials."""
    about: dict[str, Any] = {"distance": distance, "unit": "percent"}
    if protocol.remark:
        about["remark"] = protocol.remark
    modes = [
        {"protocol": f"{protocol.name} {mode.name}", **about, **summary(rankings[m])}
        | {"num_gallery": len(mode.trials[0].gallery)}
        for m, mode in enumerate(protocol.modes)
    ]
    return modes[0] | {"modes": modes}


def _rank_modes(images: Images, protocol: Protocol, distance: Distance) -> list[list[Ranking]]:
    """Distances are computed once for all trials of a query."""
    groups: dict[bytes, list[tuple[int, int]]] = {}  # equal queries: (mode, trial)
    for m, mode in enumerate(protocol.modes):
        for t, trial in enumerate(mode.trials):
            groups.setdefault(trial.query.tobytes(), []).append((m, t))
    rankings: list[list[Any]] = [[None] * len(mode.trials) for mode in protocol.modes]
    for group in groups.values():
        trials = [protocol.modes[m].trials[t] for m, t in group]
        pool = np.unique(np.concatenate([trial.gallery for trial in trials]))

        def rows(numbers: np.ndarray) -> Tensor:
            return torch.from_numpy(numbers).to(images.pids.device)

        found = rank(
            images.take(rows(trials[0].query)),
            images.take(rows(pool)),
            [rows(np.searchsorted(pool, trial.gallery)) for trial in trials],
            protocol.rule.cmc_unique_pids,
            distance,
        )
        for (m, t), ranking in zip(group, found, strict=True):
            rankings[m][t] = ranking
    return rankings
