"""`train()`: the whole program, top to bottom: prepare, then train, record and test each epoch."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from model.network import ReidNetwork
from pipeline.datasets.kinds import kind_of, read_training
from pipeline.datasets.records import Index, Protocol
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader, TrainingLoader
from pipeline.options import image_size, num_images
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
from train.checkpoint import Progress
from train.config import with_method
from train.data import locate, name_of_training, read_test
from train.dhsm import Mining
from train.distributed import World, find_world, joined
from train.divergence import CollapsedError, NotFiniteError, check_finite
from train.evaluation.evaluate import evaluate, extract_features
from train.interruption import Interruption
from train.live import board
from train.live.clock import Clock
from train.live.display import Display
from train.looks import Looks
from train.methods import finding
from train.methods.base import augment
from train.optimizer import build, set_learning_rate
from train.step import TrainingStep

NO_TEST = {"test": None, "remark": "trained without a test (--no-test)"}


@dataclass
class Run:
    """A training run on one rank of `world`, prepared."""

    cfg: config.Config  # resolved
    run_dir: Path
    display: Display
    world: World
    device: torch.device
    images: Index
    protocol: Protocol | None  # None: no test
    loader: TrainingLoader
    test_loader: EvaluationLoader | None
    network: ReidNetwork
    step: TrainingStep
    learning: frozenset[str]  # the parameters that learn, unless a stage freezes them
    mining: Mining  # DHSM: P̂, R, and the epoch's sums
    state: checkpoint.State
    at: Progress
    trained_on: str  # the name of all that the weights will have seen
    at_one_point: dict[str, float]  # what losses are when all features have collapsed into one
    interrupted: Interruption = field(default_factory=Interruption)
    show_on_board: board.Write = lambda record: None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def tests_now(self) -> bool:
        """Is the running epoch followed by a test?"""
        epoch = self.at.epoch
        return schedule.is_end(self.cfg, epoch) or is_due(self.cfg.eval_every, epoch)

    @property
    def is_lost(self) -> bool:
        """Is it to stop, as all features have been one point throughout the running epoch?"""
        began = (self.at.epoch - 1) * len(self.loader) + 1
        return self.cfg.on_collapse == "stop" and 0 < self.at.collapsed_since <= began


def train(
    cfg: config.Config,
    run_dir: Path,
    display: Display,
    overwrite: bool = False,
    begin: Callable[[], None] = lambda: None,
    resume: bool = False,
    epochs: int | None = None,
) -> dict[str, Any]:
    """Trains, tests on unseen identities, and returns what `result.json` holds.

    `begin` is called when nothing stands in the way any more, just before `run_dir` is touched.
    With `resume` the run in `run_dir`, whose configuration `cfg` is, goes on from its newest
    checkpoint: what follows is what would have followed, on the CPU to the bit. With `epochs`, too,
    it is trained for that many, whatever `cfg` says (schedule.py). Raises `InputError` before the
    folder is touched if data, options or weights cannot work, `NotFiniteError` if the loss is NaN
    or infinite, `CollapsedError` if all features became one point, and `Interrupted` after a
    signal.

    Under torchrun each process takes its share of every batch, and rank 0 writes and speaks.
    """
    world = find_world()
    if world.leads and not resume:
        run_folder.check_free(run_dir, overwrite)  # before anything that takes long
    board.check(cfg.tensorboard)
    device = runtime.resolve_device(cfg.device, world)
    runtime.set_up(device)
    with joined(world, device), runtime.own_stream(device):
        run = prepare(cfg, run_dir, display if world.leads else Display(quiet=True), device, resume)
        begin()
        if world.leads and not resume:
            source = finding.own_source(run.cfg.method)
            run_folder.create(run_dir, config.to_json(run.cfg), overwrite, source)
        with running(run, resume, epochs):
            while run.at.epoch <= run.cfg.epochs:
                train_epoch(run)
                save_if_due(run)
                p_hat = run.mining.probability
                run.mining.end_epoch()  # DHSM: from what the epoch has shown to the next P̂
                record(run, p_hat)
                stop_if_lost(run)
                if run.tests_now and run.protocol:
                    test(run, run.protocol)
                written = run_folder.metrics_bytes(run_dir)
                run.at = run.at.next_epoch(written)
        return finish(run) if world.leads else {}


def prepare(
    cfg: config.Config, run_dir: Path, display: Display, device: torch.device, resume: bool
) -> Run:
    """Everything that a run needs, before its folder is touched; raises as `train` does."""
    world = find_world()
    precision = runtime.resolve_precision(cfg.precision, device)
    runtime.resolve_step(cfg.step, device, precision, num_ranks=world.size)  # what cannot be, first
    torch.manual_seed(cfg.seed)  # the same on every rank

    # Data: which images, how they are tested, and the pipeline that feeds them.
    root = world.leader_first(lambda: locate(cfg.data.root, display))
    images = read_training(cfg.data, root, display.note)
    protocol = read_test(cfg, root, resume, display.note)
    options = runtime.share_threads(cfg.data, world)
    augmenting = partial(augment, cfg.method)
    loader = TrainingLoader(images, options, device, cfg.seed, world.share, augmenting)
    test_loader = None
    if protocol:
        own_test = protocol.index.take(world.own_rows(len(protocol.index)))
        test_loader = EvaluationLoader(own_test, options, device)

    # The method: its network, its optimizer, its losses; and DHSM beside them.
    seen = protocol.name if protocol else name_of_training(cfg.data, root)
    origin = start.find(cfg.method.model, run_dir, resume, seen)
    method = with_method(cfg, model=origin.model).method
    network = method.network(loader.num_classes, image_size(options))
    check_network(network, cfg)
    network.to(device)
    how = runtime.resolve_step(cfg.step, device, precision, network.fixed_shapes, world.size)
    optimizer = build(method.groups(network), method.optimizer, how, device)
    mining = Mining(method.dhsm, len(cfg.data.spectra), device, world.total)
    step = TrainingStep(
        *(network, method, optimizer, mining, precision, device, how),
        *(world, cfg.sync_batch_norm, cfg.data.sampling == "balanced"),
    )
    losses = torch.zeros(len(loader), len(step.names), device=device)
    one_point = method.at_one_point(loader.num_classes)  # also of losses that a subclass replaced

    kind = kind_of(root, cfg.data.kind)
    return Run(
        cfg=config.resolve(cfg, root, kind, loader.cache, device, precision, how),
        run_dir=run_dir,
        display=display,
        world=world,
        device=device,
        images=images,
        protocol=protocol,
        loader=loader,
        test_loader=test_loader,
        network=network,
        step=step,
        learning=stages.learning(network, method.stages),
        mining=mining,
        state=checkpoint.State(network, loader.num_classes, optimizer, step.scaler, mining, losses),
        at=Progress(1, 0, bad=loader.plan.bad),
        trained_on=origin.trained_on,
        at_one_point={name: x for name, x in one_point.items() if name in step.weights},
    )


def check_network(network: object, cfg: config.Config) -> None:
    """Raises `InputError` if a method's network is none, or cannot train on these batches."""
    if not isinstance(network, ReidNetwork):
        raise InputError(
            f"the method's network() returned a {type(network).__name__}; return a subclass of "
            "model.network.ReidNetwork"
        )
    if network.needs_balanced and cfg.data.sampling != "balanced":
        raise InputError(
            f"--data.sampling {cfg.data.sampling}: this method's network needs half RGB and half "
            "infrared batches; leave it at balanced"
        )


@contextmanager
def running(run: Run, resume: bool, epochs: int | None) -> Iterator[None]:
    """What surrounds the epochs: display, lock, signals; takes the run up where it was."""
    run_dir, display, leads = run.run_dir, run.display, run.world.leads
    display.begin(run_dir, runtime.describe(run.device), run.cfg, run.images, run.protocol)
    if run.network.account:
        display.say(f"weights   {run.network.account}")
    steps = len(run.loader)
    with (
        ExitStack() as held,
        interruption.caught() as run.interrupted,
        display.training(run.cfg.epochs if epochs is None else epochs, steps),
        board.opened(run_dir, run.cfg.tensorboard and leads) as run.show_on_board,
    ):
        if leads:
            held.enter_context(run_folder.lock(run_dir))
        if resume:
            run.at = checkpoint.restore(run_dir, run.state, display.say) or run.at
            run.loader.plan.bad = run.at.bad
            trained = run.at.epoch - (run.at.step == 0)  # a rate is a whole epoch's
            if epochs not in (None, run.cfg.epochs):
                run.cfg = schedule.extended(run.cfg, trained, epochs)
                display.say(f"epochs    {schedule.announced(run.cfg, trained)}")
                if leads:
                    run_folder.set_epochs(run_dir, run.cfg)
                    held.enter_context(run_folder.lock(run_dir))  # it is another file now
            if leads:
                run_folder.take_back(run_dir, run.at.metrics_bytes)
            at = run.at
            display.say(f"resumed   at epoch {at.epoch}, after {at.step} of its {steps} steps")
        yield


def train_epoch(run: Run) -> None:
    """Trains the epoch to its end, or until a signal comes."""
    cfg, at, losses, steps = run.cfg, run.at, run.state.losses, len(run.loader)
    run.network.train()
    enter_stage(run)
    set_learning_rate(run.state.optimizer, schedule.rate(cfg, at.epoch))
    clock, looks = Clock(run.device, at.seconds, at.waited), Looks(losses)
    batches = run.loader.epoch(at.epoch, run.mining.probability, first_step=at.step)
    try:
        for i, batch in enumerate(clock.time_waits(batches), start=at.step + 1):
            losses[i - 1] = run.step(batch)
            at.step = i
            look = i % cfg.log_every == 0 or i == steps
            if look:
                seen = looks.look(i)  # of earlier steps only, where the GPU is behind
                check_finite(seen, run.step.names, at.epoch, cfg.precision)
                watch(run, seen)
                rate = clock.rate(len(seen) * num_images(cfg.data))
                run.display.step(at.epoch, seen, run.step.names, rate, clock.wait_share())
            if look or run.world.size == 1:
                run.interrupted.agree(run.world.collect)
            if run.interrupted.signal:
                break
        seen = looks.wait(at.step)
        check_finite(seen, run.step.names, at.epoch, cfg.precision)
        if at.step == steps:  # where a signal came, an uninterrupted run would not have looked
            watch(run, seen)
    except NotFiniteError as error:
        if run.world.leads:
            replay.keep(run.run_dir, at, error.step, run.loader, run.mining.probability)
        raise
    at.waited, at.seconds = clock.waited, clock.seconds()
    for bad in run.world.collect(at.bad):
        at.bad.update(bad)


def enter_stage(run: Run) -> None:
    """Makes the network ready for the running epoch's stage, which may begin with it."""
    cfg, at = run.cfg, run.at
    place = schedule.place(cfg, at.epoch)
    stage = cfg.method.stages[place.stage]
    begins = at.step == 0 and schedule.begins_stage(cfg, at.epoch)
    if stages.enter(stage, begins, run.network, run.learning, run.state.optimizer, run.world):
        run.step.restart()
    if begins and len(cfg.method.stages) > 1:
        last = at.epoch + place.epochs - place.epoch
        frozen = f"; frozen: {', '.join(stage.frozen)}" if stage.frozen else ""
        run.display.say(f"stage     {stage.name}, epochs {at.epoch} to {last}{frozen}")


def watch(run: Run, seen: Float32[Tensor, "seen names"]) -> None:
    """Warns when all features become one point; `seen` are figures of the epoch's first steps."""
    told = divergence.watch(run.at, seen, run.step.names, run.at_one_point, len(run.loader))
    if told:
        run.display.note(told)


def save_if_due(run: Run) -> None:
    """Saves the run before what follows an epoch; raises `Interrupted` after a signal."""
    due = run.tests_now or is_due(run.cfg.checkpoint_every, run.at.epoch) or run.is_lost
    if run.world.leads and (due or run.interrupted.signal):
        checkpoint.save(run.run_dir, run.state, run.at, run.trained_on)
    run.interrupted.check()


def record(run: Run, p_hat: Any) -> None:
    """Writes and shows what came of the epoch, which drew its spectra from `p_hat`."""
    cfg, at, steps = run.cfg, run.at, len(run.loader)
    means = run.state.losses.double().mean(dim=0).tolist()
    made = {
        "event": "epoch",
        "epoch": at.epoch,
        "step": at.epoch * steps,
        **dict(zip(run.step.names, means, strict=True)),
        "lr": schedule.rate(cfg, at.epoch),
        "images_per_second": num_images(cfg.data) * steps / at.seconds,
        "data_wait": at.waited / at.seconds,
        "seconds": at.seconds,
        "num_bad_images": len(at.bad),
        "confidence": dict(zip(cfg.data.spectra, run.mining.r.tolist(), strict=True)),
        "probability": dict(zip(cfg.data.spectra, p_hat.tolist(), strict=True)),
    }
    if run.world.leads:
        run_folder.append_metrics(run.run_dir, made)
        run.show_on_board(made)
        run_folder.write_bad_images(run.run_dir, run.images, at.bad)
    run.display.epoch(made)


def stop_if_lost(run: Run) -> None:
    """Raises `CollapsedError`, and leaves its reason in the run's folder, if the run is to stop."""
    if run.is_lost:
        told = divergence.told(run.at, run.state.losses[-1], run.step.names, run.at_one_point)
        if run.world.leads:
            left = {"since_step": run.at.collapsed_since, "epoch": run.at.epoch, "what": told}
            run_folder.write_result(run.run_dir / divergence.COLLAPSED, left)
        raise CollapsedError(
            f"{told}; training stopped after a whole epoch of it, the checkpoint is kept "
            "(a run that begins with --on-collapse warn goes on)"
        )


def test(run: Run, protocol: Protocol) -> None:
    """Tests the network as it stands; raises `Interrupted` after a signal, if epochs are left."""
    assert run.test_loader, "it goes with the protocol"
    run.world.share_buffers(run.network)
    with run.display.progress("evaluating") as progress:
        own_features = extract_features(run.network, run.test_loader, progress)
    features = run.world.gather_rows(own_features, len(protocol.index))
    if run.world.leads:
        run.result = evaluate(features, protocol, run.cfg.distance)
        run.result |= schedule.said(run.cfg, run.at.epoch) | divergence.said(run.at.collapsed_since)
        figures = {"event": "eval", "epoch": run.at.epoch, **run.result}
        run_folder.append_metrics(run.run_dir, figures)
        run.show_on_board(figures)
    if run.at.epoch < run.cfg.epochs:
        run.interrupted.agree(run.world.collect)
        run.interrupted.check()


def finish(run: Run) -> dict[str, Any]:
    """Writes and shows the result, and returns it."""
    result = run.result
    if not run.protocol:
        result = NO_TEST | schedule.said(run.cfg, run.cfg.epochs)
    run_folder.write_result(run.run_dir / run_folder.RESULT, result)
    run.display.result(result)
    if run.at.bad:
        names = run.run_dir / run_folder.BAD_IMAGES
        run.display.note(f"{len(run.at.bad)} bad images were skipped, see {names}")
    return result


def is_due(every: int, epoch: int) -> bool:
    """Every n epochs; 0: never."""
    return every > 0 and epoch % every == 0
