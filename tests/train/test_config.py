"""The configuration: to disk and back, the paper's presets, invalid values."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from train import config, runtime
from train.config import Config, from_json, to_json
from train.methods import finding
from train.optimizer import OptimizerOptions
from train.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_config_survives_a_json_round_trip(name):
    cfg = PRESETS[name].config
    assert from_json(to_json(cfg), "here") == cfg
    cpu = torch.device("cpu")
    how = runtime.resolve_step(cfg.step, cpu, "off")
    resolved = config.resolve(cfg, Path("runs/x"), "sysu", "host", cpu, "off", how)
    assert from_json(to_json(resolved), "here") == resolved
    assert resolved.data.root.is_absolute()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonsense": 1}, r"here: not a configuration of this version .*'nonsense'"),
        ({"data": {"nonsense": 1}}, r"unknown field 'nonsense'"),
        ({"epochs": 0}, r"--epochs 0: must be at least 1"),
        ({"method": {"from": {"name": "gone"}}}, r"here: no method 'gone' in this version"),
        ({"method": {"from": {"name": "own", "sha256": "1f"}}}, r"name it: --method own\.py"),
    ],
)
def test_a_config_of_another_version_is_rejected(change, message, monkeypatch):
    monkeypatch.setattr(finding, "own_module", [])
    with pytest.raises(InputError, match=message):
        from_json(json.dumps(json.loads(to_json(Config())) | change), "here")


def test_options_that_no_longer_exist_are_ignored_in_earlier_runs():
    written = json.loads(to_json(Config()))
    written["data"]["hw_decoder_load"] = 0.65
    assert from_json(json.dumps(written), "here") == Config()


def test_a_config_that_is_not_json_is_rejected():
    with pytest.raises(InputError, match="here: not a configuration"):
        from_json("{", "here")


def test_the_sysu_preset_equals_the_paper():
    cfg = PRESETS["sysu"].config
    assert (cfg.data.p, cfg.data.k, cfg.data.height_px, cfg.data.width_px) == (16, 4, 256, 128)
    method = cfg.method
    assert (cfg.epochs, method.optimizer.lr, method.optimizer.weight_decay) == (200, 1e-3, 0)
    assert method.optimizer.name == "adam"
    assert (method.optimizer.milestones, method.optimizer.gamma) == ((0.4, 0.7), 0.1)
    assert (cfg.data.jitter, method.dhsm.alpha) == (0.1, 0.1)
    assert (method.loss.margin, method.model.dropout) == (0.3, 0.5)
    assert (method.model.backbone, method.model.weights) == ("resnet50.tv_in1k", "imagenet")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Config(epochs=0), r"--epochs 0: must be at least 1"),
        (lambda: Config(log_every=0), r"--log-every 0"),
        (lambda: Config(seed=-1), r"--seed -1: must be at least 0"),
        (lambda: Config(seed=2**63), r"--seed 9223372036854775808: must be less than"),
        (lambda: OptimizerOptions(lr=0.0), r"--optimizer.lr 0.0: must be greater than 0"),
        (lambda: OptimizerOptions(milestones=(40.0,)), r"must be a share of the epochs"),
    ],
)
def test_bad_values_are_rejected(build, message):
    with pytest.raises(InputError, match=message):
        build()
