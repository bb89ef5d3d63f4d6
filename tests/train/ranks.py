"""The work of each process of tests/train/test_distributed.py, alone or one of several.

    python -m tests.train.ranks DATA OUT N

Rank 0 of N leaves OUT/N/step.pt, what a few steps on given batches computed, OUT/N/run, a training
run, and OUT/N/longer, its extension.
"""

import dataclasses
import os
import shutil
import socket
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

from model.network import ReidNetwork
from model.options import LossOptions
from pipeline.datasets.kinds import read_training
from pipeline.loader import TrainingLoader
from pipeline.options import DataOptions
from train.config import Config
from train.dhsm import Mining
from train.distributed import find_world, joined
from train.live.display import Display
from train.loop import train
from train.methods import finding
from train.offline import embed_training
from train.runtime import StepOptions
from train.stages import Stage, enter, learning
from train.step import TrainingStep
from train.trials import resume

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).parents[2]
DATA = DataOptions(height_px=32, width_px=16, p=8, k=4, threads=1, cache="none")
OWN = REPOSITORY / "tests" / "own_method.py"  # CDP with a third loss
METHOD = finding.own(OWN).METHOD
# For the exact steps: losses that depend on the whole batch.
LOSSES = LossOptions(hetero_center=0.1, hetero_center_triplet=1.0)
HOW = StepOptions("off", "off", "on", "off")
STEPS = 3


def halve(network: ReidNetwork) -> None:
    """The classifier's weights; on other ranks than the first they get something else."""
    network.get_parameter("classifier.weight").mul_(0.5 if find_world().leads else 0.25)


HELD = Stage("held", frozen=("classifier.",), begin=halve)


def steps(root: Path) -> dict[str, torch.Tensor]:
    """Records losses, gathered features, DHSM's sums, and the weights after steps of plain SGD.

    Before the last step a stage begins, in which the classifier does not learn.
    """
    world = find_world()
    options = dataclasses.replace(DATA, root=root)
    torch.manual_seed(0)
    loader = TrainingLoader(read_training(options, root), options, CPU, 0, world.share)
    method = dataclasses.replace(METHOD, loss=LOSSES)
    network = method.network(loader.num_classes, (32, 16)).double()  # rounding would hide a fault
    for module in network.modules():  # timm initialises residual branches with weight 0
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    mining = Mining(METHOD.dhsm, 4, CPU, world.total)
    names = learning(network, [HELD])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    step = TrainingStep(network, method, optimizer, mining, "off", CPU, HOW, world)
    network.train()
    losses, gathered = [], []
    for i, batch in zip(range(STEPS), loader.epoch(1, np.full(4, 0.25)), strict=False):
        if i == STEPS - 1:
            before = network.classifier.weight.clone()
            enter(HELD, True, network, names, optimizer, world)
            assert torch.equal(network.classifier.weight, before / 2)  # as rank 0 left it
        losses.append(step(batch))
        means = batch.images.double().mean(dim=(1, 2, 3))
        means, pids = world.gather(means), world.gather(batch.pids)
        rows = torch.cat([means.flatten(1), pids[:, None]], dim=1)
        gathered.append(rows[rows[:, 0].argsort()])  # ranks have another order
    assert len(losses) == STEPS
    assert torch.equal(network.classifier.weight, before / 2)  # it did not learn
    embedded = embed_training(network, read_training(options, root), options, CPU, world)
    state = {f"weight {name}": value for name, value in network.state_dict().items()}
    return state | {
        "losses": torch.stack(losses),
        "gathered": torch.stack(gathered),
        "confidence": torch.stack([mining.sums, mining.counts]),
        "training features": torch.from_numpy(embedded.features),
        "training pids": torch.from_numpy(embedded.pids),
    }


def main(root: Path, out: Path) -> None:
    torch.set_num_threads(1)
    finding.own(OWN)  # other tests in this process may have loaded others
    cfg = Config(
        data=dataclasses.replace(DATA, root=root),
        method=METHOD,
        epochs=2,
        checkpoint_every=1,
        precision="off",
        device="cpu",
        distance="cosine",
    )
    with joined(find_world(), CPU):
        found = steps(root)
        if find_world().leads:
            out.mkdir(parents=True)
            torch.save(found, out / "step.pt")
        train(cfg, out / "run", Display())
        if find_world().leads:
            shutil.copytree(out / "run", out / "longer")
        find_world().leader_first(lambda: None)
        resume(out / "longer", Display(), epochs=3)


def start(num_ranks: int, root: Path, out: Path) -> bool:
    """Runs `main` in several processes, set up as by torchrun; returns whether all succeeded.

    They are forked, so that all that is imported here need not be imported by each.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(num_ranks):
        children.append(os.fork())
        if children[-1] == 0:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num_ranks))
            status = 1
            try:
                main(root, out)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return not any(statuses)


if __name__ == "__main__":
    data, folder, number = sys.argv[1:]
    sys.exit(0 if start(int(number), Path(data), Path(folder, number)) else 1)
