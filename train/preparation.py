"""Everything that a training run consists of, made ready without touching its folder."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.network import ReidNetwork
from pipeline.datasets.kinds import kind_of, read_training
from pipeline.datasets.records import Index, Protocol
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader, TrainingLoader
from pipeline.options import image_size
from train import checkpoint, config, runtime, schedule, stages, start
from train.checkpoint import Progress
from train.config import with_method
from train.data import locate, name_of_training, read_test
from train.dhsm import Mining
from train.distributed import World, find_world
from train.interruption import Interruption
from train.live import board
from train.live.display import Display
from train.methods.base import augment
from train.optimizer import build
from train.step import TrainingStep


@dataclass
class Run:
    """A training run on one rank of `world`, ready to train."""

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
    learning: frozenset[str]  # the parameters that learn unless a stage freezes them
    mining: Mining  # DHSM: P̂, R and the epoch's sums
    state: checkpoint.State
    progress: Progress
    trained_on: str  # names all data that the weights will have seen
    at_one_point: dict[str, float]  # the losses' values once all features have collapsed into one
    cores_taken: float = 0.0  # by other programs during the epoch, 0…1
    interrupted: Interruption = field(default_factory=Interruption)
    show_on_board: board.Write = lambda record: None
    finish_seconds: float = 0.0  # spent on what the stage does after its last step
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def test_follows(self) -> bool:
        """Whether a test follows the current epoch."""
        epoch = self.progress.epoch
        return schedule.is_end(self.cfg, epoch) or schedule.is_due(self.cfg.eval_every, epoch)

    @property
    def should_stop(self) -> bool:
        """Whether to stop because all features were one point for the whole current epoch."""
        first_step = (self.progress.epoch - 1) * len(self.loader) + 1
        return self.cfg.on_collapse == "stop" and 0 < self.progress.collapsed_since <= first_step


def prepare(
    cfg: config.Config, run_dir: Path, display: Display, device: torch.device, resume: bool
) -> Run:
    """Prepares a run without touching its folder; raises the same errors as `train`."""
    world = find_world()
    precision = runtime.resolve_precision(cfg.precision, device)
    runtime.resolve_step(cfg.step, device, precision, num_ranks=world.size)  # fail early
    torch.manual_seed(cfg.seed)  # the same on every rank

    # Data: the training images, the test protocol, and the pipeline that loads both.
    root = world.leader_first(lambda: locate(cfg.data.root, display))
    images = read_training(cfg.data, root, display.note)
    identity = checkpoint.identify(images)
    check_alike(world, cfg, images.origin, identity)
    protocol = read_test(cfg, root, resume, display.note)
    options = runtime.share_threads(cfg.data, world)
    augmenting = partial(augment, cfg.method)
    loader = TrainingLoader(images, options, device, cfg.seed, world.share, augmenting)
    test_loader = None
    if protocol:
        own_test = protocol.index.take(world.own_rows(len(protocol.index)))
        test_loader = EvaluationLoader(own_test, options, device)

    # The method: its network, optimizer and losses; and DHSM beside them.
    seen = protocol.name if protocol else name_of_training(cfg.data, root)
    origin = start.find(cfg.method.model, run_dir, resume, seen)
    method = with_method(cfg, model=origin.model).method
    network = method.network(loader.num_classes, image_size(options))
    check_network(network, cfg)
    network.to(device)
    step_options = runtime.resolve_step(
        cfg.step, device, precision, network.fixed_shapes, world.size
    )
    optimizer = build(method.groups(network), method.optimizer, step_options, device)
    mining = Mining(method.dhsm, len(cfg.data.spectra), device, world.total)
    step = TrainingStep(
        *(network, method, optimizer, mining, precision, device, step_options),
        *(world, cfg.sync_batch_norm, cfg.data.sampling == "balanced"),
    )
    losses = torch.zeros(len(loader), len(step.names), device=device)
    one_point = method.at_one_point(loader.num_classes)  # also of losses that a subclass replaced

    kind = kind_of(root, cfg.data.kind)
    return Run(
        cfg=config.resolve(cfg, root, kind, loader.cache, device, precision, step_options),
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
        state=checkpoint.State(
            *(network, loader.num_classes, optimizer, step.scaler, mining, losses),
            identity,
        ),
        progress=Progress(1, 0, bad=loader.plan.bad),
        trained_on=origin.trained_on,
        at_one_point={name: x for name, x in one_point.items() if name in step.weights},
    )


def check_alike(world: World, cfg: config.Config, origin: object, identity: object) -> None:
    """Raises `InputError` if another rank has other options or training images.

    `origin` is where the images are, which may differ, as on several machines; `identity` is what
    `checkpoint.identify` returns.
    """
    options = config.to_json(config.with_data(cfg, root=None))
    for rank, (others, data) in enumerate(world.collect((options, identity))):
        what = "options" if others != options else "training images"
        if others != options or data != identity:
            raise InputError(
                f"{origin}: rank {rank} has other {what} than rank {world.rank}; give all "
                "processes the same"
            )


def check_network(network: object, cfg: config.Config) -> None:
    """Raises `InputError` if a method's network is not one or cannot train on these batches."""
    if not isinstance(network, ReidNetwork):
        raise InputError(
            f"the method's network() returned a {type(network).__name__}; return a subclass of "
            "model.network.ReidNetwork"
        )
    if network.needs_balanced and cfg.data.sampling != "balanced":
        raise InputError(
            f"--data.sampling {cfg.data.sampling}: this method's network needs batches that are "
            "half RGB and half infrared; leave it at balanced"
        )
