"""A network's figures under a data set's protocol: features → distances → trials → mean and std."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from model.network import Network
from pipeline.datasets.records import Protocol, Trial
from pipeline.loader import EvaluationLoader
from train.config import Distance
from train.evaluation.metrics import RANKS, Ranking, rank


@torch.inference_mode()
def extract_features(
    network: Network,
    loader: EvaluationLoader,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float[Tensor, "n d"]:
    """Features of every image of the loader's index, in order, float32, on the device."""
    was_training = network.training
    network.eval()
    features = []
    for done, images in enumerate(loader, start=1):
        features.append(network.embed(images))
        on_progress(done, len(loader))
    network.train(was_training)
    return torch.cat(features)


def evaluate(
    features: Float[Tensor, "n d"], protocol: Protocol, distance: Distance = "euclidean"
) -> dict[str, Any]:
    """Figures in percent, averaged over the protocol's trials, as `result.json` holds them.

    `features` are those of the protocol's index, row by row.
    """
    rankings = [_rank_trial(features, protocol, trial, distance) for trial in protocol.trials]

    figures = [
        {f"rank{k}": float(r.cmc[k - 1]) for k in RANKS} | {"mAP": r.mean_ap, "mINP": r.mean_inp}
        for r in rankings
    ]

    def percent(statistic: Callable[[list[float]], Any], name: str) -> float:
        return 100 * float(statistic([of_trial[name] for of_trial in figures]))

    return {
        "protocol": protocol.name,
        "distance": distance,
        "unit": "percent",
        **{name: percent(np.mean, name) for name in figures[0]},
        "std": {name: percent(np.std, name) for name in figures[0]},
        "chance_rank1": 100 * float(np.mean([r.chance_rank1 for r in rankings])),
        "num_trials": len(rankings),
        "num_query": rankings[0].num_query,
        "num_gallery": len(protocol.trials[0].gallery),
    }


def _rank_trial(features: Tensor, protocol: Protocol, trial: Trial, distance: Distance) -> Ranking:
    device = features.device
    pids = torch.from_numpy(protocol.index.pids).to(device)
    query, gallery = (torch.from_numpy(rows).to(device) for rows in (trial.query, trial.gallery))
    return rank(
        pairwise(features[query], features[gallery], distance),
        pids[query],
        pids[gallery],
        torch.from_numpy(trial.ignored()).to(device),
        protocol.cmc_unique_pids,
    )


def pairwise(
    query: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"], distance: Distance
) -> Float[Tensor, "q g"]:
    """Distances in float32: Euclidean as in the official code, or 1 - cosine."""
    if distance == "cosine":
        return 1 - F.normalize(query) @ F.normalize(gallery).T
    return torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist")
