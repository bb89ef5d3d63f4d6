"""Methods of several stages: which epoch is in which, what is frozen, and exact resumption."""

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from model.network import ReidNetwork
from pipeline.errors import InputError
from tests.front_door import SMALL, call, refused
from tests.test_cli import events
from tests.train.test_resume import assert_same_run, signal_at
from train import schedule
from train.config import Config
from train.distributed import ALONE
from train.methods import finding
from train.methods.base import Method
from train.optimizer import OptimizerOptions
from train.stages import Place, Stage, enter, learning, lengths, place

STAGED = '''"""Three stages; the second begins with what may happen only once."""
from dataclasses import dataclass
from model.options import ModelOptions
from train.methods.base import Method
from train.stages import Stage


def double(network):
    network.classifier.weight.mul_(2)


@dataclass(frozen=True)
class Staged(Method):
    @property
    def stages(self):
        return (
            Stage("first"),
            Stage("held", frozen=("classifier.weight",), begin=double),
            Stage("free"),
        )


METHOD = Staged(model=ModelOptions("test_resnet", "none"))
'''
ARGS = [*SMALL, "--epochs", "3", "--log-every", "1"]
WEIGHT = "network.classifier.weight"


@dataclass(frozen=True)
class Halves(Method):
    shares: tuple[float, ...] = (2.0, 1.0, 1.0)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(Stage(str(i), share) for i, share in enumerate(self.shares))


shares = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


@given(shares, st.integers(0, 60))
@settings(deadline=None)
def test_stages_follow_one_another_and_fill_the_epochs(shares, more):
    stages = tuple(Stage(share=share) for share in shares)
    epochs = len(stages) + more
    found = lengths(stages, epochs)
    assert len(found) == len(stages)
    assert sum(found) == epochs
    assert min(found) >= 1
    places = [place(stages, epoch, epochs) for epoch in range(1, epochs + 1)]
    assert places == [
        Place(i, epoch, length) for i, length in enumerate(found) for epoch in range(1, length + 1)
    ]


def test_lengths_are_shares_of_the_epochs():
    stages = Halves().stages
    assert lengths(stages, 280) == [140, 70, 70]
    assert lengths(stages, 10) == [5, 3, 2]  # ends at 5, 7.5 and 10
    assert lengths((Stage(share=100.0), Stage(), Stage()), 4) == [2, 1, 1]


def test_the_learning_rate_starts_over_in_every_stage():
    steps = OptimizerOptions(lr=1.0, milestones=(0.5,), gamma=0.5, warmup_epochs=1)
    cfg = Config(epochs=16, method=Halves(optimizer=steps))
    rates = [schedule.rate(cfg, epoch) for epoch in range(1, 17)]
    one = [0.5, 1.0, 0.5, 0.5]
    assert rates == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, *one, *one]
    assert [e for e in range(1, 17) if schedule.begins_stage(cfg, e)] == [1, 9, 13]
    of_one = Config(epochs=16, method=Method(optimizer=steps))
    assert [e for e in range(1, 17) if schedule.begins_stage(of_one, e)] == [1]


@pytest.mark.parametrize(
    ("trained", "epochs", "now", "then"),
    [
        (5, 16, "1", "0"),  # 1-8, 9-12, 13-16: back to the first
        (8, 16, "2", "1"),  # finished, back to the second
        (3, 4, "0", "2"),  # 1-2, 3, 4: passes over the second
    ],
)
def test_a_new_total_that_would_lead_back_or_past_a_stage_is_refused(trained, epochs, now, then):
    cfg = Config(epochs=8, method=Halves())  # 1-4, 5-6, 7-8
    told = (
        f"^--epochs {epochs}: epoch {trained} was in stage '{now}', but epoch {trained + 1} would "
        f"be in stage '{then}', as stages are shares of the epochs; start a new run with that many "
        "epochs$"
    )
    with pytest.raises(InputError, match=told):
        schedule.extended(cfg, trained, epochs)


def test_a_run_is_made_longer_where_its_stages_still_follow_one_another():
    cfg = Config(epochs=8, method=Halves())  # 1-4, 5-6, 7-8
    for trained, epochs, expected in (
        (3, 16, [0] * 8 + [1] * 4 + [2] * 4),
        (4, 16, [0] * 8 + [1] * 4 + [2] * 4),  # the first stage goes on, and has not ended
        (8, 10, [0] * 4 + [1] * 2 + [2] * 4),
    ):
        longer = schedule.extended(cfg, trained, epochs)
        assert [schedule.place(longer, e).stage for e in range(1, epochs + 1)] == expected
        begins = [e for e in range(1, epochs + 1) if schedule.begins_stage(longer, e)]
        assert begins == [expected.index(stage) + 1 for stage in (0, 1, 2)]


@dataclass(frozen=True)
class Finished(Method):
    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("features", finish=lambda network, offline: ""),)


def test_a_run_that_has_finished_its_stage_for_good_is_not_made_longer():
    cfg = Config(epochs=4, method=Finished())
    assert schedule.extended(cfg, 3, 6).epochs == 6
    assert schedule.extended(cfg, 4, 4) == cfg
    with pytest.raises(InputError, match="--epochs 6: stage 'features' is over, but epoch 5 would"):
        schedule.extended(cfg, 4, 6)
    assert schedule.extended(Config(epochs=4), 4, 6).epochs == 6  # what other methods do


class Two(ReidNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.bias.requires_grad_(False)  # never learns

    def forward(self, x):
        return self.b(self.a(x))


def test_what_is_frozen_stays_to_the_bit_and_what_never_learnt_still_does_not():
    torch.manual_seed(0)
    network = Two()
    names = learning(network, ())
    assert names == {"a.weight", "a.bias", "b.weight"}
    optimizer = torch.optim.Adam(network.parameters(), weight_decay=0.1)

    def moved_in(stage: Stage, begins: bool) -> set[str]:
        enter(stage, begins, network, names, optimizer, ALONE)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        for _ in range(2):
            optimizer.zero_grad()
            network(torch.ones(3, 2)).square().sum().backward()
            optimizer.step()
        after = network.state_dict()
        return {name for name in before if not torch.equal(before[name], after[name])}

    assert moved_in(Stage("all"), True) == names
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {2}
    assert moved_in(Stage("some", frozen=("a.",)), True) == {"b.weight"}
    assert [int(state["step"]) for state in optimizer.state.values()] == [2]  # moments are fresh
    assert moved_in(Stage("some", frozen=("a.",)), False) == {"b.weight"}
    assert [int(state["step"]) for state in optimizer.state.values()] == [4]  # and then kept
    assert moved_in(Stage("all"), True) == names


def test_a_recorded_step_is_out_of_date_only_if_something_changed():
    network, frozen = Two(), Stage(frozen=("a.",))
    names = learning(network, (frozen,))
    optimizer = torch.optim.SGD(network.parameters())

    def changed(stage: Stage, begins: bool) -> bool:
        return enter(stage, begins, network, names, optimizer, ALONE)

    assert not changed(Stage(), False)
    assert changed(frozen, False)  # resumed in it
    assert not changed(frozen, False)
    assert changed(frozen, True)
    assert changed(Stage(), False)


def test_a_stage_begins_once_without_gradients():
    network, calls = Two(), []

    def begin(network: nn.Module) -> None:
        calls.append(torch.is_grad_enabled())
        network.a.weight.fill_(7)

    optimizer = torch.optim.SGD(network.parameters())
    for begins in (True, False):
        enter(Stage(begin=begin), begins, network, learning(network, ()), optimizer, ALONE)
    assert calls == [False]
    assert (network.a.weight == 7).all()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A method file with three stages."""
    file = tmp_path_factory.mktemp("method") / "staged.py"
    file.write_text(STAGED)
    return file


@pytest.fixture(autouse=True)
def _others_keep_theirs(monkeypatch) -> None:
    """What a test names is forgotten after it."""
    monkeypatch.setattr(finding, "own_module", list(finding.own_module))


@pytest.fixture(scope="module")
def kept() -> dict[int, dict[str, torch.Tensor]]:
    """The tensors of the whole run's checkpoints, by epoch."""
    return {}


@pytest.fixture(scope="module")
def whole(people, file, kept, tmp_path_factory) -> Path:
    """A run of three stages, an epoch each, that nobody interrupted."""
    from train import checkpoint

    folder = tmp_path_factory.mktemp("runs") / "whole"
    save = checkpoint.save

    def and_keep(run_dir, state, at, trained_on):
        path = save(run_dir, state, at, trained_on)
        kept[at.epoch] = load_file(path)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", and_keep)
        assert call("train", file, "--data.root", people, "--run-dir", folder, *ARGS) == 0
    return folder


def test_a_run_holds_a_stage_s_weights_and_frees_them_again(whole, kept):
    first, held, free = (kept[epoch] for epoch in (1, 2, 3))
    assert torch.equal(held[WEIGHT], 2 * first[WEIGHT])  # begun once, then frozen to the bit
    assert not torch.equal(free[WEIGHT], held[WEIGHT])
    for earlier, later in ((first, held), (held, free)):
        assert not torch.equal(earlier["network.classifier.bias"], later["network.classifier.bias"])
    steps = events(whole, "epoch")[0]["step"]
    for tensors in (first, held, free):  # the optimizer began anew each time
        counted = [v for name, v in tensors.items() if name.startswith("optimizer.")]
        assert {int(v) for v in counted if v.ndim == 0} == {steps}
    moments = {sum(name.startswith("optimizer.") for name in x) for x in (first, free)}
    assert len(moments) == 1
    assert sum(name.startswith("optimizer.") for name in held) == moments.pop() - 3
    assert len({epoch["lr"] for epoch in events(whole, "epoch")}) == 1


@pytest.mark.parametrize(
    ("epoch", "step"),
    [  # before the second stage begins, just after, and so on
        (1, -1),
        (2, 1),
        pytest.param(2, -1, marks=pytest.mark.slow),
        pytest.param(3, 1, marks=pytest.mark.slow),
    ],
)
def test_interrupted_in_any_stage_it_goes_on_as_if_it_had_not_been(
    whole, people, file, tmp_path, monkeypatch, epoch, step
):
    run = tmp_path / "run"
    steps = events(whole, "epoch")[0]["step"]
    signal_at(monkeypatch, epoch, step % (steps + 1), signal.SIGTERM)
    assert call("train", file, "--data.root", people, "--run-dir", run, *ARGS) == 3
    assert call("train", "--resume", run, "--method", file) == 0
    assert_same_run(run, whole)


def test_fewer_epochs_than_stages_and_a_warm_up_longer_than_one_are_refused(file, people, capsys):
    line = refused(capsys, "train", file, "--data.root", people, "--epochs", "2")
    assert "--epochs 2: this method trains in 3 stages; pass at least 3" in line
    warmup = ("--epochs", "6", "--optimizer.warmup-epochs", "2")
    line = refused(capsys, "train", file, "--data.root", people, *warmup)
    assert "2: must be less than --epochs 6, of which the shortest stage has 2" in line


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("Stage('x', frozen=('clasifier.',))", "'x' freezes 'clasifier.', with which no"),
        ("Stage('x', frozen=('',))", "stage 'x' freezes all parameters"),
        ("Stage(share=0.0)", "there must be one, and every share greater than 0"),
        ("", "there must be one"),
    ],
)
def test_stages_that_cannot_be_are_named_in_a_line(stages, message, people, tmp_path, capsys):
    file = tmp_path / "mine.py"
    stages = f"{stages}," if stages else ""
    head, _, rest = STAGED.partition("        return (")
    file.write_text(f"{head}        return ({stages})\n\n\nMETHOD{rest.split('METHOD')[1]}")
    args = ["--data.root", people, "--run-dir", tmp_path / "r", *ARGS]
    assert message in refused(capsys, "train", file, *args)
    assert not (tmp_path / "r").exists()


def test_stages_that_are_none_are_refused():
    with pytest.raises(InputError, match="there must be one"):
        lengths((), 3)


def test_a_refused_extension_leaves_the_run_as_it_was(whole, file, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = refused(capsys, "train", "--resume", run, "--method", file, "--epochs", "9")
    assert "--epochs 9: epoch 3 was in stage 'free', but epoch 4 would be in stage 'held'" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
