"""Learning rates by hand, scales of groups, and updates compared with torch's optimizers."""

import pytest
import torch

from model.options import ModelOptions
from pipeline.errors import InputError
from train.methods.base import Method
from train.optimizer import Group, OptimizerOptions, build, learning_rate, set_learning_rate
from train.runtime import StepOptions

CPU = torch.device("cpu")
PLAIN = StepOptions("off", "off", "on", "off")


def rates(epochs: int, **options) -> list[float]:
    chosen = OptimizerOptions(**options)
    return [learning_rate(chosen, epoch, epochs) for epoch in range(1, epochs + 1)]


def test_the_papers_milestones_are_at_40_and_70_percent():
    assert rates(10) == pytest.approx([1e-3] * 4 + [1e-4] * 3 + [1e-5] * 3)


def test_a_warm_up_rises_in_equal_steps_and_does_not_move_milestones():
    assert rates(10, lr=0.1, warmup_epochs=3)[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.01])


def test_cosine_falls_from_the_rate_towards_zero():
    found = rates(5, lr=1.0, schedule="cosine", warmup_epochs=1)
    assert found == pytest.approx([0.5, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_each_group_has_its_multiple_of_the_rate(name, recorded):
    how = StepOptions("off", "on" if recorded else "off", "on", "off")
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [Group([weights[0]], 0.1), Group([weights[1]])]
    optimizer = build(groups, OptimizerOptions(name=name, lr=0.5), how, CPU)
    tensors = [group["lr"] for group in optimizer.param_groups]
    assert [float(rate) for rate in tensors] == pytest.approx([0.05, 0.5])
    set_learning_rate(optimizer, 0.2)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.02, 0.2])
    if recorded:  # a recorded step keeps reading the tensor it was recorded with
        assert all(g["lr"] is t for g, t in zip(optimizer.param_groups, tensors, strict=True))


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"name": "adam"}, lambda w: torch.optim.Adam(w, 0.01)),
        (
            {"name": "adamw", "weight_decay": 0.1},
            lambda w: torch.optim.AdamW(w, 0.01, weight_decay=0.1),
        ),
        (
            {"name": "sgd", "momentum": 0.8, "weight_decay": 0.1},
            lambda w: torch.optim.SGD(w, 0.01, momentum=0.8, weight_decay=0.1),
        ),
        (
            {"name": "sgd", "nesterov": True},
            lambda w: torch.optim.SGD(w, 0.01, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_updates_equal_those_of_torchs_optimizer(options, reference):
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    optimizers = (build([Group([ours])], OptimizerOptions(lr=0.01, **options), PLAIN, CPU),)
    optimizers += (reference([theirs]),)
    for _ in range(3):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            weight.pow(4).sum().backward()
            optimizer.step()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, r"--optimizer.lr 0.0: must be greater than 0"),
        ({"momentum": -1.0}, r"--optimizer.momentum -1.0: must be 0 or more"),
        ({"head_scale": 0.0}, r"--optimizer.head-scale 0.0: must be greater than 0"),
        ({"clip_norm": -1.0}, r"--optimizer.clip-norm -1.0: must be 0 or more"),
        ({"nesterov": True}, r"--optimizer.nesterov: not possible for adam .*--optimizer.name sgd"),
        ({"warmup_epochs": -1}, r"--optimizer.warmup-epochs -1: must be 0 or more"),
        ({"milestones": (40.0,)}, r"must be a share of the epochs"),
    ],
)
def test_bad_values_are_rejected(options, message):
    with pytest.raises(InputError, match=message):
        OptimizerOptions(**options)


def test_the_heads_rate_is_relative_to_the_backbones():
    method = Method(
        model=ModelOptions("test_resnet", "none", structure="two-stems", bnneck=True),
        optimizer=OptimizerOptions(lr=0.01, head_scale=10.0),
    )
    network = method.network(5, (32, 16))
    optimizer = build(method.groups(network), method.optimizer, PLAIN, CPU)
    rate = {id(w): group["lr"] for group in optimizer.param_groups for w in group["params"]}
    found = {name: rate[id(weight)] for name, weight in network.named_parameters()}
    heads = {name for name, lr in found.items() if lr == pytest.approx(0.1)}
    assert heads == {"neck.weight", "neck.bias", "classifier.weight", "classifier.bias"}
    assert all(lr == pytest.approx(0.01) for name, lr in found.items() if name not in heads)


def test_a_network_without_a_backbone_has_no_head_to_scale():
    method = Method(optimizer=OptimizerOptions(head_scale=10.0))
    with pytest.raises(InputError, match=r"--optimizer.head-scale 10: the method's network has no"):
        method.groups(torch.nn.Linear(3, 2))
