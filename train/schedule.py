"""Stages and learning rates by epoch, also of a run resumed with another total number of epochs.

Milestones are shares of the total, so changing it moves all of them. Epochs already trained keep
their learning rates: `Config.history` records the earlier totals, so that an epoch's learning rate
depends only on the configuration, and results can disclose the change.
"""

import dataclasses

from pipeline.errors import InputError
from train import stages
from train.config import Config, Stretch
from train.stages import Place


def epochs_of(cfg: Config, epoch: int) -> int:
    """Returns the total number of epochs that determines the milestones for `epoch`."""
    return next((past.epochs for past in cfg.history if epoch <= past.until), cfg.epochs)


def place(cfg: Config, epoch: int) -> Place:
    """The stage of `epoch`, from 1, and where in it that is."""
    return stages.place(cfg.method.stages, epoch, epochs_of(cfg, epoch))


def begins_stage(cfg: Config, epoch: int) -> bool:
    """Is `epoch` in another stage than the one before?"""
    return epoch == 1 or place(cfg, epoch).stage != place(cfg, epoch - 1).stage


def rate(cfg: Config, epoch: int) -> float:
    """Returns the learning rate of `epoch`, from 1."""
    at = place(cfg, epoch)
    return cfg.method.lr_at(at.epoch, at.epochs)


def is_end(cfg: Config, epoch: int) -> bool:
    """Whether this is the last epoch, or was before the run was extended."""
    return epoch in (cfg.epochs, *(past.until for past in cfg.history if past.until == past.epochs))


def is_due(every: int, epoch: int) -> bool:
    """Whether `epoch` is a multiple of `every`; 0 means never."""
    return every > 0 and epoch % every == 0


def extended(cfg: Config, trained: int, epochs: int) -> Config:
    """Returns `cfg` with `epochs` epochs, the first `trained` of which keep their learning rates.

    Raises `InputError` if more than `epochs` are trained already, or if the run would go back to a
    stage that is over, or skip one.
    """
    past = cfg.history[-1].until if cfg.history else 0
    trained = max(trained, past)  # an older checkpoint may replace a damaged one
    if epochs < trained:
        raise InputError(
            f"--epochs {epochs}: the run is already at epoch {trained}; pass {trained} or more"
        )
    if epochs == cfg.epochs:
        return cfg
    history = list(cfg.history)
    if trained > past:
        history.append(Stretch(trained, cfg.epochs))
    while history and history[-1].epochs == epochs:  # back to an earlier total
        history.pop()
    longer = dataclasses.replace(cfg, epochs=epochs, history=tuple(history))
    _check_order(longer, trained)
    return longer


def _check_order(cfg: Config, trained: int) -> None:
    """Raises `InputError` if the stage after the first `trained` epochs may not follow theirs."""
    if not 0 < trained < cfg.epochs:
        return
    last, following = place(cfg, trained), place(cfg, trained + 1)
    is_over = last.epoch == last.epochs and cfg.method.stages[last.stage].finish is not None
    if following.stage in {last.stage + is_over, last.stage + 1}:
        return
    was, next_ = (cfg.method.stages[at.stage].name for at in (last, following))
    state = f"stage {was!r} is over" if is_over else f"epoch {trained} was in stage {was!r}"
    raise InputError(
        f"--epochs {cfg.epochs}: {state}, but epoch {trained + 1} would be in stage {next_!r}, as "
        "stages are shares of the epochs; start a new run with that many epochs"
    )


def disclosure(cfg: Config, epoch: int) -> dict[str, str]:
    """Returns the "training" entry of a result after `epoch`; {} if the total never changed."""
    history = [past for past in cfg.history if past.until < epoch]
    if not history:
        return {}
    first, parts = 1, []
    for past in [*history, Stretch(cfg.epochs, cfg.epochs)]:
        parts.append(f"{first}-{past.until} as of {past.epochs}")
        first = past.until + 1
    numbers = " to ".join(str(past.epochs) for past in history)
    return {
        "training": f"resumed from {numbers} to {cfg.epochs} epochs, unlike a single run of "
        f"{cfg.epochs}: learning rates of epochs {', '.join(parts)}"
    }


def describe_change(cfg: Config, trained: int) -> str:
    """Describes the changes of the learning rate after the `trained` epochs."""
    text = f"{cfg.epochs} in total from now on; milestones move accordingly"
    last = rate(cfg, trained) if trained else None
    for epoch in range(trained + 1, cfg.epochs + 1):
        now = rate(cfg, epoch)
        if now != last:
            change = f"learning rate {now:g}" if last is None else f"{last:g} to {now:g}"
            text += f"; from epoch {epoch}: {change}"
            last = now
        elif epoch == trained + 1:
            text += f"; epoch {epoch}: learning rate stays {now:g}"
    return text
