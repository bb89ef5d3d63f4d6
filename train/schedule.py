"""A run that is trained for another number of epochs than it began with: what applies when.

Milestones are shares of the epochs, so another number of them moves every milestone. What was
trained keeps its learning rates, and `Config.history` tells which those were, so that the rate of
an epoch depends on the configuration alone, and whoever reads the run knows what it was.
"""

import dataclasses

from pipeline.errors import InputError
from train.config import Config, Stretch


def epochs_of(cfg: Config, epoch: int) -> int:
    """The number of epochs whose milestones `epoch` is trained with."""
    return next((past.epochs for past in cfg.history if epoch <= past.until), cfg.epochs)


def rate(cfg: Config, epoch: int) -> float:
    """The learning rate of `epoch`, from 1."""
    return cfg.method.lr_at(epoch, epochs_of(cfg, epoch))


def is_end(cfg: Config, epoch: int) -> bool:
    """Is this the last epoch, or was it until the run was made longer?"""
    return epoch in (cfg.epochs, *(past.until for past in cfg.history if past.until == past.epochs))


def extended(cfg: Config, trained: int, epochs: int) -> Config:
    """`cfg` with `epochs` epochs, of which `trained` keep their learning rates.

    Raises `InputError` if more than `epochs` are trained.
    """
    past = cfg.history[-1].until if cfg.history else 0
    trained = max(trained, past)  # a damaged checkpoint may have taken some away
    if epochs < trained:
        raise InputError(
            f"--epochs {epochs}: the run has trained epoch {trained}; pass {trained} or more"
        )
    if epochs == cfg.epochs:
        return cfg
    history = list(cfg.history)
    if trained > past:
        history.append(Stretch(trained, cfg.epochs))
    while history and history[-1].epochs == epochs:  # back to what it was
        history.pop()
    return dataclasses.replace(cfg, epochs=epochs, history=tuple(history))


def disclosure(cfg: Config, epoch: int) -> dict[str, str]:
    """What a result after `epoch` must say, under "training"; empty if all was one straight run."""
    history = [past for past in cfg.history if past.until < epoch]
    if not history:
        return {}
    begin, parts = 1, []
    for past in [*history, Stretch(cfg.epochs, cfg.epochs)]:
        parts.append(f"{begin}-{past.until} as of {past.epochs}")
        begin = past.until + 1
    numbers = " to ".join(str(past.epochs) for past in history)
    return {
        "training": f"resumed from {numbers} to {cfg.epochs} epochs, which is no straight run of "
        f"{cfg.epochs}: learning rates of epochs {', '.join(parts)}"
    }


def describe_change(cfg: Config, trained: int) -> str:
    """What happens to the learning rate after the `trained` epochs."""
    words = f"{cfg.epochs} epochs from here on; milestones move with their number"
    last = rate(cfg, trained) if trained else None
    for epoch in range(trained + 1, cfg.epochs + 1):
        now = rate(cfg, epoch)
        if now != last:
            change = f"learning rate {now:g}" if last is None else f"{last:g} to {now:g}"
            words += f"; from epoch {epoch}: {change}"
            last = now
        elif epoch == trained + 1:
            words += f"; epoch {epoch}: learning rate stays {now:g}"
    return words
