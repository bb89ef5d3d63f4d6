"""The weights that a training starts from, and the data they have already seen."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from model.options import NAMED_WEIGHTS, ModelOptions
from pipeline.errors import InputError
from train import checkpoint, run_folder
from train.config import Config


@dataclass(frozen=True, slots=True)
class Start:
    """A new network's starting point."""

    model: ModelOptions  # with `weights` as a file, even if given as a run folder; none if the
    # run's own checkpoint replaces them
    trained_on: str  # names all data that the run's weights will have seen


def find(model: ModelOptions, run_dir: Path, resume: bool, tested_on: str) -> Start:
    """Finds the weights that a run, tested on `tested_on`, starts from.

    Raises `InputError` if a run folder has no checkpoint, a checkpoint is damaged, or its weights
    saw identities of the test.
    """
    saved = checkpoint.found(run_dir) if resume else []
    if resume and not saved and (run_dir / run_folder.RESULT).exists():
        raise InputError(
            f"{run_dir}: the run is finished, but its checkpoints are gone, so it cannot go on; "
            "restore them, or train again in another folder"
        )
    if saved:
        histories = [checkpoint.history(path) for path in reversed(saved)]  # [] if damaged
        seen = next(filter(None, histories), [tested_on])
        return Start(dataclasses.replace(model, weights="none"), checkpoint.AFTER.join(seen))
    if not is_file(model):
        return Start(model, tested_on)
    weights = _file(Path(model.weights))
    seen = checkpoint.history(weights)
    if other := checkpoint.leak(seen, tested_on):
        raise InputError(
            f"--model.weights {weights}: was trained on {other}, and so on identities that "
            f"{tested_on} tests on; start from other weights"
        )
    checkpoint.check_intact(weights)
    history = checkpoint.AFTER.join(dict.fromkeys([tested_on, *seen]))
    return Start(dataclasses.replace(model, weights=str(weights)), history)


def files(cfg: Config) -> list[Path]:
    """Returns the data set and the file or folder with the weights that a run is made from."""
    weights = [Path(cfg.method.model.weights)] if is_file(cfg.method.model) else []
    return weights if cfg.data.root is None else [cfg.data.root, *weights]


def is_file(model: ModelOptions) -> bool:
    """Whether the weights come from a file or a run folder."""
    return model.weights not in NAMED_WEIGHTS


def _file(weights: Path) -> Path:
    """Returns a run folder's newest checkpoint, or the file itself."""
    if not weights.is_dir():
        return weights
    if not (weights / run_folder.CONFIG).is_file():
        raise InputError(f"--model.weights {weights}: is not a run folder; name one, or a file")
    if (weights / "trial-01").is_dir():
        raise InputError(
            f"--model.weights {weights}: holds ten runs; name one, such as {weights}/trial-01"
        )
    return checkpoint.latest(weights)
