"""Where a training starts: its weights, and what they have seen already."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from model.options import NAMED_WEIGHTS, ModelOptions
from pipeline.errors import InputError
from train import checkpoint, run_folder


@dataclass(frozen=True, slots=True)
class Start:
    """What a new network begins with."""

    model: ModelOptions  # weights: a file where the run's options name a run folder; none if a
    # checkpoint of the run itself takes their place
    trained_on: str  # the name of all that the run's weights will have seen


def find(model: ModelOptions, run_dir: Path, resume: bool, tested_on: str) -> Start:
    """Finds the weights that a run, tested on `tested_on`, starts from.

    Raises `InputError` if a run folder has no checkpoint, a checkpoint is damaged, or its weights
    saw identities of the test.
    """
    saved = checkpoint.found(run_dir) if resume else []
    if saved:
        histories = [checkpoint.history(path) for path in reversed(saved)]  # none of damaged ones
        seen = next(filter(None, histories), [tested_on])
        return Start(dataclasses.replace(model, weights="none"), checkpoint.AFTER.join(seen))
    if not is_file(model):
        return Start(model, tested_on)
    weights = _file(Path(model.weights))
    seen = checkpoint.history(weights)
    if other := checkpoint.leak(seen, tested_on):
        raise InputError(
            f"--model.weights {weights}: was trained on {other}, and so on identities that "
            f"{tested_on} tests with; start from other weights"
        )
    checkpoint.check_whole(weights)
    history = checkpoint.AFTER.join(dict.fromkeys([tested_on, *seen]))
    return Start(dataclasses.replace(model, weights=str(weights)), history)


def is_file(model: ModelOptions) -> bool:
    """Are the weights to come from a file or a run folder?"""
    return model.weights not in NAMED_WEIGHTS


def _file(weights: Path) -> Path:
    """A run folder's newest checkpoint; a file as it is."""
    if not weights.is_dir():
        return weights
    if not (weights / run_folder.CONFIG).is_file():
        raise InputError(f"--model.weights {weights}: is no run folder; name one, or a file")
    if (weights / "trial-01").is_dir():
        raise InputError(
            f"--model.weights {weights}: holds ten runs; name one, as {weights}/trial-01"
        )
    return checkpoint.latest(weights)
