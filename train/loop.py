"""`train()`: the whole program, top to bottom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from model.network import Network
from pipeline import spectrum
from pipeline.datasets.kinds import kind_of, read_protocol, read_training
from pipeline.loader import EvaluationLoader, TrainingLoader
from train import checkpoint, config, dhsm, run_folder, runtime
from train.data import locate
from train.evaluation.evaluate import evaluate, extract_features
from train.reporting.clock import Clock
from train.reporting.display import Display
from train.step import TrainingStep, adam


class NotFiniteError(ArithmeticError):
    """The loss is NaN or infinite; the message names the step."""


def train(
    cfg: config.Config,
    run_dir: Path,
    display: Display,
    overwrite: bool = False,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains, tests on unseen identities, and returns what `result.json` holds.

    `begin` is called when nothing stands in the way any more, just before `run_dir` is touched.
    Raises `InputError` or `OptionError` before that if data, options or weights cannot work, and
    `NotFiniteError` if the loss is NaN or infinite.
    """
    run_folder.check_free(run_dir, overwrite)  # before anything that takes long
    device = runtime.resolve_device(cfg.device)
    precision = runtime.resolve_precision(cfg.precision, device)
    how = runtime.resolve_step(cfg.step, device, precision)
    torch.manual_seed(cfg.seed)

    # Data: which images, how they are tested, and the pipeline that feeds them.
    root = locate(cfg.data.root, display)
    images = read_training(cfg.data, root)
    protocol = read_protocol(cfg.data, root)
    loader = TrainingLoader(images, cfg.data, device, cfg.seed)
    test_loader = EvaluationLoader(protocol.index, cfg.data, device)

    # Model: one stream for every spectrum.
    network = Network(cfg.model, loader.num_classes).to(device)
    optimizer = adam(
        network.parameters(), cfg.optimizer.lr, cfg.optimizer.weight_decay, how, device
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer,
        [round(share * cfg.epochs) for share in cfg.optimizer.milestones],
        cfg.optimizer.gamma,
    )
    confidence = dhsm.Confidence(len(spectrum.NAMES), device)
    step = TrainingStep(network, optimizer, confidence, cfg.loss, precision, device, how)

    kind = kind_of(root, cfg.data.kind)
    resolved = config.resolve(cfg, root, kind, loader.cache, device, precision, how)
    begin()
    run_folder.create(run_dir, config.to_json(resolved), overwrite)
    display.begin(run_dir, runtime.describe(device), resolved, images, protocol)

    # P̂: uniform through the first epoch. R: no confidence in a spectrum that was never drawn.
    probability = spectrum.uniform()
    r = np.zeros(len(spectrum.NAMES))
    losses = torch.zeros(len(loader), 3, device=device)
    result: dict[str, Any] = {}

    with display.training(cfg.epochs, len(loader)), runtime.own_stream(device):
        for epoch in range(1, cfg.epochs + 1):
            network.train()
            clock = Clock()
            for i, batch in enumerate(clock.time_waits(loader.epoch(epoch, probability)), start=1):
                losses[i - 1] = step(batch)
                if i % cfg.log_every == 0 or i == len(loader):
                    check_finite(losses[:i], epoch, precision)
                    display.step(
                        epoch,
                        i,
                        losses[i - 1].tolist(),
                        clock.rate(2 * i * len(batch.pids)),
                        clock.wait_share(),
                    )
            seconds = clock.seconds()

            r = dhsm.confidence(*confidence.take(), r)
            mean_loss, mean_cls, mean_tri = losses.double().mean(dim=0).tolist()
            record = {
                "event": "epoch",
                "epoch": epoch,
                "step": epoch * len(loader),
                "loss": mean_loss,
                "loss_cls": mean_cls,
                "loss_tri": mean_tri,
                "lr": float(schedule.get_last_lr()[0]),
                "images_per_second": 2 * len(loader) * cfg.data.p * cfg.data.k / seconds,
                "data_wait": clock.wait_share(),
                "seconds": seconds,
                "confidence": dict(zip(spectrum.NAMES, r.tolist(), strict=True)),
                "probability": dict(zip(spectrum.NAMES, probability.tolist(), strict=True)),
            }
            run_folder.append_metrics(run_dir, record)
            display.epoch(record)

            schedule.step()
            if cfg.dhsm.enabled:
                probability = dhsm.next_probability(probability, r, cfg.dhsm.alpha)
            last = epoch == cfg.epochs
            if last or (cfg.checkpoint_every and epoch % cfg.checkpoint_every == 0):
                checkpoint.save(run_dir, network, epoch, trained_on=protocol.name)
            if last or (cfg.eval_every and epoch % cfg.eval_every == 0):
                with display.progress("evaluating") as progress:
                    features = extract_features(network, test_loader, progress)
                result = evaluate(features, protocol, cfg.distance)
                run_folder.append_metrics(run_dir, {"event": "eval", "epoch": epoch, **result})

    run_folder.write_result(run_dir / run_folder.RESULT, result)
    display.result(result)
    return result


def check_finite(losses: Float32[Tensor, "steps 3"], epoch: int, precision: str) -> None:
    """Raises `NotFiniteError` naming the epoch's first step whose loss is NaN or infinite."""
    bad = (~losses.isfinite()).any(dim=1).nonzero()
    if len(bad):
        step = int(bad[0])
        total, cls, tri = losses[step].tolist()
        mend = "a lower --optimizer.lr" + ("" if precision == "off" else " or --precision off")
        raise NotFiniteError(
            f"loss is {total} at epoch {epoch}, step {step + 1} (L_cls {cls}, L_tri {tri}); "
            f"training stopped, earlier checkpoints are kept; try {mend}"
        )
