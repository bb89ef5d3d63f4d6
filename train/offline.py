"""The features of all training images, for a method that learns from them after its last step."""

from collections.abc import Callable

import numpy as np
import torch

from model.network import ReidNetwork
from pipeline.datasets.records import Index, Modality
from pipeline.loader import EvaluationLoader
from pipeline.options import DataOptions
from train.distributed import World
from train.evaluation.evaluate import extract_features
from train.stages import Embedded


def embed_training(
    network: ReidNetwork,
    images: Index,
    options: DataOptions,
    device: torch.device,
    world: World,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Embeds all training images, each process its part; all processes get all features.

    Raises `InputError` naming an image that cannot be read, unless the options skip such images,
    which are then left out.
    """
    world.share_buffers(network)
    own = images.take(world.own_rows(len(images)))
    loader = EvaluationLoader(own, options, device, skip_bad=options.on_bad_image == "skip")
    found = extract_features(network, loader, on_progress)
    good = np.delete(np.arange(len(own)), list(loader.source.bad))
    features = torch.full((len(own), found.shape[1]), torch.nan, device=device)
    features[torch.from_numpy(good).to(device)] = found
    of_all = world.gather_rows(features, len(images)).cpu().numpy()
    kept = ~np.isnan(of_all[:, 0])
    infrared = images.modality[kept] == Modality.IR
    return Embedded(of_all[kept], images.pids[kept], infrared)
