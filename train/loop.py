"""`train()`: the whole program, top to bottom."""

from collections.abc import Callable
from contextlib import nullcontext
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
from pipeline.options import num_images
from train import checkpoint, config, dhsm, interruption, replay, run_folder, runtime
from train.checkpoint import Progress
from train.data import locate
from train.distributed import World, find_world, joined
from train.evaluation.evaluate import evaluate, extract_features
from train.looks import Looks
from train.reporting import board
from train.reporting.clock import Clock
from train.reporting.display import Display
from train.step import TrainingStep, adam, learning_rate, set_learning_rate


class NotFiniteError(ArithmeticError):
    """The loss is NaN or infinite; the message names the step, from 1, which is also in `step`."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def train(
    cfg: config.Config,
    run_dir: Path,
    display: Display,
    overwrite: bool = False,
    begin: Callable[[], None] = lambda: None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains, tests on unseen identities, and returns what `result.json` holds.

    `begin` is called when nothing stands in the way any more, just before `run_dir` is touched.
    With `resume` the run in `run_dir`, whose configuration `cfg` is, goes on from its newest
    checkpoint: what follows is what would have followed, on the CPU to the bit. Raises `InputError`
    or `OptionError` before the folder is touched if data, options or weights cannot work,
    `NotFiniteError` if the loss is NaN or infinite, and `Interrupted` after a signal.

    Under torchrun each process takes its share of every batch, and rank 0 writes and speaks.
    """
    world = find_world()
    if world.leads and not resume:
        run_folder.check_free(run_dir, overwrite)  # before anything that takes long
    board.check(cfg.tensorboard)
    device = runtime.resolve_device(cfg.device, world)
    runtime.set_up(device)
    with joined(world, device), runtime.own_stream(device):
        return _train(cfg, run_dir, display, overwrite, begin, resume, world, device)


def _train(
    cfg: config.Config,
    run_dir: Path,
    display: Display,
    overwrite: bool,
    begin: Callable[[], None],
    resume: bool,
    world: World,
    device: torch.device,
) -> dict[str, Any]:
    """All of it, on one rank of `world`."""
    display = display if world.leads else Display(quiet=True)
    precision = runtime.resolve_precision(cfg.precision, device)
    how = runtime.resolve_step(cfg.step, device, precision, cfg.model.structure, world.size)
    torch.manual_seed(cfg.seed)  # the same on every rank

    # Data: which images, how they are tested, and the pipeline that feeds them.
    root = world.leader_first(lambda: locate(cfg.data.root, display))
    images = read_training(cfg.data, root)
    protocol = read_protocol(cfg.data, root)
    options = runtime.share_threads(cfg.data, world)
    loader = TrainingLoader(images, options, device, cfg.seed, world.share)
    own_test = protocol.index.take(world.own_rows(len(protocol.index)))
    test_loader = EvaluationLoader(own_test, options, device)

    # Model: one stream for every spectrum, or a structure that the paper compares with.
    network = Network(cfg.model, loader.num_classes).to(device)
    optimizer = adam(
        network.parameters(), cfg.optimizer.lr, cfg.optimizer.weight_decay, how, device
    )
    spectra = cfg.data.spectra
    confidence = dhsm.Confidence(len(spectra), device, world.total)
    step = TrainingStep(
        *(network, optimizer, confidence, cfg.loss, precision, device, how),
        *(world, cfg.sync_batch_norm),
    )

    # P̂: uniform through the first epoch. R: no confidence in a spectrum that was never drawn.
    steps = len(loader)
    losses = torch.zeros(steps, 3, device=device)
    state = checkpoint.State(network, optimizer, step.scaler, confidence, losses)
    p_hat = spectrum.uniform(spectra)
    at = Progress(1, 0, p_hat, np.zeros(len(spectra)), bad=loader.plan.bad)
    result: dict[str, Any] = {}

    kind = kind_of(root, cfg.data.kind)
    resolved = config.resolve(cfg, root, kind, loader.cache, device, precision, how)
    begin()
    if world.leads and not resume:
        run_folder.create(run_dir, config.to_json(resolved), overwrite)
    display.begin(run_dir, runtime.describe(device), resolved, images, protocol)

    with (
        run_folder.lock(run_dir) if world.leads else nullcontext(),
        interruption.caught() as interrupted,
        display.training(cfg.epochs, steps),
        board.opened(run_dir, cfg.tensorboard and world.leads) as show_on_board,
    ):
        if resume:
            at = checkpoint.restore(run_dir, state, display.say) or at
            loader.plan.bad = at.bad
            if world.leads:
                run_folder.take_back(run_dir, at.metrics_bytes)
            display.say(f"resumed   at epoch {at.epoch}, after {at.step} of its {steps} steps")
        while at.epoch <= cfg.epochs:
            epoch, last = at.epoch, at.epoch == cfg.epochs
            evaluate_now = last or is_due(cfg.eval_every, epoch)
            network.train()
            set_learning_rate(optimizer, learning_rate(cfg.optimizer, epoch, cfg.epochs))
            clock, looks = Clock(device, at.seconds, at.waited), Looks(losses)
            batches = loader.epoch(epoch, at.probability, first_step=at.step)
            try:
                for i, batch in enumerate(clock.time_waits(batches), start=at.step + 1):
                    losses[i - 1] = step(batch)
                    at.step = i
                    look = i % cfg.log_every == 0 or i == steps
                    if look:
                        seen = looks.look(i)  # of earlier steps only, where the GPU is behind
                        check_finite(seen, epoch, precision)
                        rate = clock.rate(len(seen) * num_images(cfg.data))
                        display.step(epoch, seen, rate, clock.wait_share())
                    if look or world.size == 1:
                        interrupted.agree(world.collect)
                    if interrupted.signal:
                        break
                check_finite(looks.wait(at.step), epoch, precision)
            except NotFiniteError as error:
                if world.leads:
                    replay.keep(run_dir, at, error.step, loader)
                raise
            at.waited, at.seconds = clock.waited, clock.seconds()
            for bad in world.collect(at.bad):
                at.bad.update(bad)
            save_now = interrupted.signal or evaluate_now or is_due(cfg.checkpoint_every, epoch)
            if world.leads and save_now:
                checkpoint.save(run_dir, state, at, trained_on=protocol.name)
            interrupted.check()

            at.r = dhsm.confidence(*confidence.take(), at.r)
            mean_loss, mean_cls, mean_tri = losses.double().mean(dim=0).tolist()
            record = {
                "event": "epoch",
                "epoch": epoch,
                "step": epoch * steps,
                "loss": mean_loss,
                "loss_cls": mean_cls,
                "loss_tri": mean_tri,
                "lr": learning_rate(cfg.optimizer, epoch, cfg.epochs),
                "images_per_second": num_images(cfg.data) * steps / at.seconds,
                "data_wait": at.waited / at.seconds,
                "seconds": at.seconds,
                "num_bad_images": len(at.bad),
                "confidence": dict(zip(spectra, at.r.tolist(), strict=True)),
                "probability": dict(zip(spectra, at.probability.tolist(), strict=True)),
            }
            if world.leads:
                run_folder.append_metrics(run_dir, record)
                show_on_board(record)
                run_folder.write_bad_images(run_dir, images, at.bad)
            display.epoch(record)

            if evaluate_now:
                world.share_buffers(network)
                with display.progress("evaluating") as progress:
                    own_features = extract_features(network, test_loader, progress)
                features = world.gather_rows(own_features, len(protocol.index))
                if world.leads:
                    result = evaluate(features, protocol, cfg.distance)
                    figures = {"event": "eval", "epoch": epoch, **result}
                    run_folder.append_metrics(run_dir, figures)
                    show_on_board(figures)
                if not last:
                    interrupted.agree(world.collect)
                    interrupted.check()
            if cfg.dhsm.enabled and len(spectra) > 1:
                at.probability = dhsm.next_probability(at.probability, at.r, cfg.dhsm.alpha)
            written = run_folder.metrics_bytes(run_dir)
            at = Progress(epoch + 1, 0, at.probability, at.r, metrics_bytes=written, bad=at.bad)

    if not world.leads:
        return {}
    run_folder.write_result(run_dir / run_folder.RESULT, result)
    display.result(result)
    if at.bad:
        names = run_dir / run_folder.BAD_IMAGES
        display.say(f"note      {len(at.bad)} bad images were skipped, see {names}")
    return result


def is_due(every: int, epoch: int) -> bool:
    """Every n epochs; 0: never."""
    return every > 0 and epoch % every == 0


def check_finite(losses: Float32[Tensor, "steps 3"], epoch: int, precision: str) -> None:
    """Raises `NotFiniteError` naming the epoch's first step whose loss is NaN or infinite."""
    bad = (~losses.isfinite()).any(dim=1).nonzero()
    if len(bad):
        step = int(bad[0])
        total, cls, tri = losses[step].tolist()
        mend = "a lower --optimizer.lr" + ("" if precision == "off" else " or --precision off")
        raise NotFiniteError(
            f"loss is {total} at epoch {epoch}, step {step + 1} (L_cls {cls}, L_tri {tri}); "
            f"training stopped, earlier checkpoints are kept; try {mend}",
            step + 1,
        )
