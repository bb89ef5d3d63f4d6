"""`train()`: the whole program from top to bottom: prepare, then train, record and test epochs."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from pipeline.datasets.records import Protocol
from pipeline.options import num_images
from train import (
    checkpoint,
    config,
    divergence,
    interruption,
    replay,
    run_folder,
    runtime,
    schedule,
    stages,
    start,
)
from train.distributed import find_world, joined
from train.divergence import CollapsedError, NotFiniteError, check_finite
from train.evaluation.evaluate import evaluate, extract_features
from train.live import board, cores
from train.live.clock import Clock
from train.live.display import Display
from train.loss_reader import LossReader
from train.methods import finding
from train.offline import embed_training
from train.optimizer import set_learning_rate
from train.preparation import Run, prepare
from train.stages import Embedded, Offline

NO_TEST = {"test": None, "remark": "trained without a test (--no-test)"}


def train(
    cfg: config.Config,
    run_dir: Path,
    display: Display,
    overwrite: bool = False,
    on_start: Callable[[], None] = lambda: None,
    resume: bool = False,
    epochs: int | None = None,
    first_stage: Path | None = None,
) -> dict[str, Any]:
    """Trains, tests on unseen identities, and returns the contents of `result.json`.

    Calls `on_start` after all checks have passed, just before touching `run_dir`. `resume`
    continues the run in `run_dir`, whose configuration is `cfg`, from its newest checkpoint as if
    it had never stopped, bit for bit on the CPU; `epochs` then overrides `cfg.epochs`
    (schedule.py). `first_stage` is the folder of a finished run that is this run's first stage:
    it continues from there instead of training it again. Raises `InputError` before touching
    the folder if data, options or weights cannot be used, `NotFiniteError` if the loss is NaN or
    infinite, `CollapsedError` if all features became one point, and `Interrupted` after a signal.

    Under torchrun each process takes its share of every batch, and rank 0 writes and prints.
    """
    world = find_world()
    if world.leads and not resume:
        run_folder.check_free(run_dir, overwrite, start.files(cfg))  # before anything slow
    board.check(cfg.tensorboard)
    device = runtime.resolve_device(cfg.device, world)
    runtime.set_up(device)
    with joined(world, device), runtime.own_stream(device):
        run = prepare(cfg, run_dir, display if world.leads else Display(quiet=True), device, resume)
        on_start()
        if world.leads and not resume:
            source = finding.own_source(run.cfg.method)
            run_folder.create(run_dir, config.to_json(run.cfg), overwrite, source)
        with running(run, resume, epochs, first_stage):
            while run.progress.epoch <= run.cfg.epochs:
                train_epoch(run)
                finish_stage(run)
                save_if_due(run)
                p_hat = run.mining.probability
                run.mining.end_epoch()  # DHSM: this epoch's sums give the next P̂
                record(run, p_hat)
                stop_if_collapsed(run)
                if run.test_follows and run.protocol:
                    test(run, run.protocol)
                written = run_folder.metrics_bytes(run_dir)
                run.progress = run.progress.next_epoch(written)
        return finish(run) if world.leads else {}


@contextmanager
def running(run: Run, resume: bool, epochs: int | None, first_stage: Path | None) -> Iterator[None]:
    """Holds display, lock and signal handlers around the epochs; restores a resumed run."""
    run_dir, display, leads = run.run_dir, run.display, run.world.leads
    display.show_setup(run_dir, runtime.describe(run.device), run.cfg, run.images, run.protocol)
    if run.network.account:
        display.say(f"weights   {run.network.account}")
    steps = len(run.loader)
    with (
        ExitStack() as locks,
        interruption.caught() as run.interrupted,
        display.training(
            *(run.cfg.epochs if epochs is None else epochs, steps),
            run.interrupted.reader_left,
        ),
        board.opened(run_dir, run.cfg.tensorboard and leads) as run.show_on_board,
    ):
        if leads:
            locks.enter_context(run_folder.lock(run_dir))
        if resume:
            run.progress = checkpoint.restore(run_dir, run.state, display.say) or run.progress
            run.loader.plan.bad = run.progress.bad
            trained = run.progress.trained  # a started epoch keeps its learning rate
            if epochs not in (None, run.cfg.epochs):
                run.cfg = schedule.extended(run.cfg, trained, epochs)
                display.say(f"epochs    {schedule.describe_change(run.cfg, trained)}")
                if leads:
                    run_folder.set_epochs(run_dir, run.cfg)
                    run_folder.disclose_extension(run_dir, trained, run.cfg.epochs)
                    locks.enter_context(run_folder.lock(run_dir))  # config.json is a new file now
            if leads and run_folder.roll_back(run_dir, run.progress.metrics_bytes):
                display.note(f"{run_dir / run_folder.METRICS} lacks records of earlier epochs")
            epoch, step = run.progress.epoch, run.progress.step
            display.say(f"resumed   in epoch {epoch}, after step {step} of {steps}")
        elif first_stage:
            take_over(run, first_stage)
        yield


def take_over(run: Run, first_stage: Path) -> None:
    """Makes the run one that has just trained its first stage, as the run in `first_stage` has."""
    say = run.display.say
    progress = checkpoint.restore(first_stage, run.state, say, of_first_stage=True)
    if not progress:
        return
    run.progress = progress
    run.loader.plan.bad = progress.bad
    if run.world.leads:
        run_folder.copy_metrics(first_stage, run.run_dir, progress.metrics_bytes)
        checkpoint.save(run.run_dir, run.state, progress, run.trained_on)
    say(f"trained   epochs 1 to {progress.epoch} are those of {first_stage}")


def train_epoch(run: Run) -> None:
    """Trains to the end of the epoch or until a signal arrives."""
    cfg, progress, losses, steps = run.cfg, run.progress, run.state.losses, len(run.loader)
    run.network.train()
    enter_stage(run)
    set_learning_rate(run.state.optimizer, schedule.rate(cfg, progress.epoch))
    clock = Clock(run.device, progress.seconds, progress.waited)
    loss_reader = LossReader(losses)
    batches = run.loader.epoch(progress.epoch, run.mining.probability, first_step=progress.step)
    try:
        for i, batch in enumerate(clock.time_waits(batches), start=progress.step + 1):
            losses[i - 1] = run.step(batch)
            progress.step = i
            log_now = i % cfg.log_every == 0 or i == steps
            if log_now:
                known = loss_reader.read(i)  # lags behind by the steps the GPU has yet to finish
                check_finite(known, run.step.names, progress.epoch, cfg.precision)
                watch(run, known)
                rate = clock.rate(len(known) * num_images(cfg.data))
                run.display.step(progress.epoch, known, run.step.names, rate, clock.wait_share())
            if log_now or run.world.size == 1:
                run.interrupted.agree(run.world.collect)
            if run.interrupted.signal:
                break
        known = loss_reader.wait(progress.step)
        check_finite(known, run.step.names, progress.epoch, cfg.precision)
        if progress.step == steps:  # after a signal, an uninterrupted run would not have looked
            watch(run, known)
    except NotFiniteError as error:
        if run.world.leads:
            replay.save(run.run_dir, progress, error.step, run.loader, run.mining.probability)
        raise
    progress.waited, progress.seconds = clock.waited, clock.seconds()
    taken, run.cores_taken = run.cores_taken, clock.cores_taken()
    if run.cores_taken > cores.MUCH >= taken:
        on_cpu = run.device.type == "cpu"
        run.display.note(cores.advice(run.cores_taken, progress.epoch, on_cpu, run.run_dir))
    for bad in run.world.collect(progress.bad):
        progress.bad.update(bad)


def enter_stage(run: Run) -> None:
    """Prepares the network for the stage of the current epoch, which may begin with it."""
    cfg, progress = run.cfg, run.progress
    place = schedule.place(cfg, progress.epoch)
    stage = cfg.method.stages[place.stage]
    begins = progress.step == 0 and schedule.begins_stage(cfg, progress.epoch)
    if stages.enter(stage, begins, run.network, run.learning, run.state.optimizer, run.world):
        run.step.restart()
    if begins and len(cfg.method.stages) > 1:
        last = progress.epoch + place.epochs - place.epoch
        frozen = f"; frozen: {', '.join(stage.frozen)}" if stage.frozen else ""
        run.display.say(f"stage     {stage.name}, epochs {progress.epoch} to {last}{frozen}")


def finish_stage(run: Run) -> None:
    """Does what is left to do once the last step of a stage is done.

    Saves a checkpoint first, from which a resumed run does it again.
    """
    run.finish_seconds = 0.0
    cfg, progress, world = run.cfg, run.progress, run.world
    place = schedule.place(cfg, progress.epoch)
    stage = cfg.method.stages[place.stage]
    ended = place.epoch == place.epochs and progress.step == len(run.loader)
    if not (stage.finish and ended) or run.interrupted.signal:
        return
    started = time.perf_counter()
    if world.leads:
        checkpoint.save(run.run_dir, run.state, progress, run.trained_on)

    def embed() -> Embedded:
        with run.display.progress("embedding the training images") as shown:
            options = runtime.share_threads(cfg.data, world)
            return embed_training(run.network, run.images, options, run.device, world, shown)

    def check() -> None:
        if world.size == 1:  # else processes could disagree
            run.interrupted.agree(world.collect)
            run.interrupted.check()

    with torch.no_grad():
        done = stage.finish(run.network, Offline(embed, check))
    world.share_weights(run.network)
    run.display.say(f"stage     {stage.name} is over; {done}")
    run.finish_seconds = time.perf_counter() - started


def watch(run: Run, known: Float32[Tensor, "known names"]) -> None:
    """Warns when all features become one point; `known`: figures of the epoch's first steps."""
    names = run.step.names
    warning = divergence.watch(run.progress, known, names, run.at_one_point, len(run.loader))
    if warning:
        run.display.note(warning)


def save_if_due(run: Run) -> None:
    """Saves a checkpoint if one is due; raises `Interrupted` after a signal."""
    is_due = schedule.is_due(run.cfg.checkpoint_every, run.progress.epoch)
    due = is_due or run.test_follows or run.should_stop
    if run.world.leads and (due or run.interrupted.signal):
        checkpoint.save(run.run_dir, run.state, run.progress, run.trained_on)
    run.interrupted.check()


def record(run: Run, p_hat: Any) -> None:
    """Writes and shows the epoch's metrics; `p_hat` is what its spectra were drawn from."""
    cfg, progress, steps = run.cfg, run.progress, len(run.loader)
    means = run.state.losses.double().mean(dim=0).tolist()
    metrics = {
        "event": "epoch",
        "epoch": progress.epoch,
        "step": progress.epoch * steps,
        **dict(zip(run.step.names, means, strict=True)),
        "lr": schedule.rate(cfg, progress.epoch),
        "images_per_second": num_images(cfg.data) * steps / progress.seconds,
        "data_wait": progress.waited / progress.seconds,
        "cores_taken": run.cores_taken,
        "seconds": progress.seconds,
        **({"finish_seconds": run.finish_seconds} if run.finish_seconds else {}),
        "num_bad_images": len(progress.bad),
        "confidence": dict(zip(cfg.data.spectra, run.mining.r.tolist(), strict=True)),
        "probability": dict(zip(cfg.data.spectra, p_hat.tolist(), strict=True)),
    }
    if run.world.leads:
        run_folder.append_metrics(run.run_dir, metrics)
        run.show_on_board(metrics)
        run_folder.write_bad_images(run.run_dir, run.images, progress.bad)
    run.display.epoch(metrics)


def stop_if_collapsed(run: Run) -> None:
    """Raises `CollapsedError`, after writing the reason to the run folder, if it must stop."""
    if run.should_stop:
        progress, last = run.progress, run.state.losses[-1]
        reason = divergence.told(progress, last, run.step.names, run.at_one_point)
        if run.world.leads:
            about = {
                "since_step": progress.collapsed_since,
                "epoch": progress.epoch,
                "what": reason,
            }
            run_folder.write_result(run.run_dir / divergence.COLLAPSED, about)
        raise CollapsedError(
            f"{reason}; training stopped after a whole epoch of it and kept the checkpoint "
            "(a run started with --on-collapse warn continues)"
        )


def test(run: Run, protocol: Protocol) -> None:
    """Tests the current network; raises `Interrupted` after a signal if epochs are left."""
    assert run.test_loader, "made with the protocol"
    run.world.share_buffers(run.network)
    with run.display.progress("evaluating") as progress:
        own_features = extract_features(run.network, run.test_loader, progress)
    features = run.world.gather_rows(own_features, len(protocol.index))
    if run.world.leads:
        run.result = evaluate(features, protocol, run.cfg.distance)
        run.result |= schedule.disclosure(run.cfg, run.progress.epoch)
        run.result |= divergence.said(run.progress.collapsed_since)
        figures = {"event": "eval", "epoch": run.progress.epoch, **run.result}
        run_folder.append_metrics(run.run_dir, figures)
        run.show_on_board(figures)
    if run.progress.epoch < run.cfg.epochs:
        run.interrupted.agree(run.world.collect)
        run.interrupted.check()


def finish(run: Run) -> dict[str, Any]:
    """Writes and shows the result, and returns it."""
    result = run.result
    if not run.protocol:
        result = NO_TEST | schedule.disclosure(run.cfg, run.cfg.epochs)
    run_folder.write_result(run.run_dir / run_folder.RESULT, result)
    run.display.result(result)
    if run.progress.bad:
        names = run.run_dir / run_folder.BAD_IMAGES
        run.display.note(f"{len(run.progress.bad)} bad images were skipped, see {names}")
    return result
