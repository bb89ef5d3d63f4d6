"""Makes run folders of untrained networks, as `cdp train` writes them, within a moment."""

from pathlib import Path

import torch

from model.options import ModelOptions
from pipeline.options import DataOptions
from train import checkpoint, config, run_folder
from train.checkpoint import Progress, State
from train.config import Config
from train.dhsm import Mining
from train.methods.base import Method
from train.optimizer import build
from train.runtime import StepOptions

CPU = torch.device("cpu")


def make_run(run_dir: Path, root: Path, trained_on: str, **changes) -> Config:
    """Makes a run on `root` with random weights, compared by cosine."""
    data = DataOptions(root=root, height_px=32, width_px=16, eval_batch=32)
    model = changes.pop("model", None) or ModelOptions("test_resnet", "none", bnneck=True)
    cfg = Config(**{"data": data, "method": Method(model=model), "distance": "cosine"} | changes)
    torch.manual_seed(0)
    network = cfg.method.network(5, (32, 16))
    with torch.no_grad():
        for module in network.modules():  # timm initialises residual branches with weight 0
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
        for _ in range(3):  # in training mode, for distinct running means and variances
            pixels = torch.randint(256, (8, 3, 32, 16), dtype=torch.uint8)
            network(pixels, torch.arange(8) % 2 == 1)
    plain = StepOptions("off", "off", "on", "off")
    optimizer = build(cfg.method.groups(network), cfg.method.optimizer, plain, CPU)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    mining = Mining(cfg.method.dhsm, len(cfg.data.spectra), CPU)
    state = State(network, 5, optimizer, scaler, mining, torch.zeros(1, 3))
    run_folder.create(run_dir, config.to_json(cfg), overwrite=False)
    checkpoint.save(run_dir, state, Progress(1, 1), trained_on)
    return cfg
