"""One optimizer step: its figures, its updates, every precision."""

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.losses import triplet_loss
from model.options import ModelOptions, StructureName
from pipeline.batch import PairedBatch
from pipeline.errors import InputError
from pipeline.options import num_views
from train import checkpoint, run_folder
from train.checkpoint import Progress, State
from train.dhsm import DhsmOptions, Mining
from train.distributed import ALONE
from train.methods import finding
from train.methods.base import Method
from train.optimizer import OptimizerOptions, build
from train.presets import find_preset
from train.runtime import StepOptions, own_stream, resolve_precision, resolve_step
from train.stages import Stage, enter, learning
from train.step import TrainingStep

CPU = torch.device("cpu")
SIZES = {"cpu": (16, 16), "cuda": (64, 32)}  # fp16 on a CPU takes 1.6 s for a step of 64 x 32


def make_batch(seed: int = 0, device: torch.device = CPU) -> PairedBatch:
    """Four identities, one RGB and one infrared original each."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (8, 2, *SIZES[device.type], 3), dtype=torch.uint8, generator=rng)
    return PairedBatch(
        images=images.to(device),
        pids=torch.arange(4).repeat(2).to(device),
        modality=torch.tensor([0] * 4 + [1] * 4, dtype=torch.uint8).to(device),
        spectrum=torch.tensor([0, 1, 2, 3, -1, -1, -1, -1], dtype=torch.int8).to(device),
        rows=torch.arange(8).numpy(),
    )


def make_step(
    precision: str = "off",
    device: torch.device = CPU,
    lr: float = 1e-3,
    clip_norm: float = 0.0,
    **switches,
):
    torch.manual_seed(0)
    how = resolve_step(StepOptions(**switches), device, precision)
    method = Method(
        model=ModelOptions("test_resnet", "none", dropout=0.0),
        optimizer=OptimizerOptions(lr=lr, clip_norm=clip_norm),
    )
    network = method.network(4, SIZES[device.type]).to(device).train()
    optimizer = build(method.groups(network), method.optimizer, how, device)
    mining = Mining(method.dhsm, 4, device)
    step = TrainingStep(network, method, optimizer, mining, precision, device, how)
    return network, mining, step


def test_losses_and_confidence_are_those_of_the_forward_pass_before_the_update():
    network, mining, step = make_step()
    batch = make_batch()
    twin, _, _ = make_step()
    features, _, logits, _ = twin(batch.flat())
    cls = F.cross_entropy(logits, batch.pids.repeat_interleave(2))
    tri = triplet_loss(features[0::2], batch.pids, 0.3)
    before = network.classifier.weight.clone()

    losses = step(batch)

    originals = features[0::2].detach()
    spread = (originals.var(dim=0, correction=0).sum()).sqrt()
    assert step.names == ("loss", "loss_cls", "loss_tri", "spread")
    torch.testing.assert_close(losses, torch.stack([cls + tri, cls, tri, spread]).detach())
    assert not torch.equal(before, network.classifier.weight)
    probability = logits.softmax(1)
    expected = [probability[2 * n + 1, batch.pids[n]].item() for n in range(4)]
    assert mining.sums.tolist() == pytest.approx(expected, rel=1e-5)
    assert mining.counts.tolist() == [1, 1, 1, 1]


def gradients_after(num_steps: int, precision: str, clip_norm: float) -> torch.Tensor:
    network, _, step = make_step(precision, clip_norm=clip_norm)
    for _ in range(num_steps):
        step(make_batch())
    return torch.cat([weight.grad.flatten() for weight in network.parameters()])


def test_gradients_are_clipped_to_the_norm_over_all_weights():
    free, clipped, loose = (gradients_after(1, "off", norm) for norm in (0.0, 0.5, 1e6))
    assert free.norm() > 1
    torch.testing.assert_close(clipped, free * 0.5 / free.norm(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(loose, free)


def test_fp16_clips_unscaled_gradients():
    # The first steps overflow at the initial scale and change nothing.
    clipped = gradients_after(6, "fp16", 0.5)
    assert clipped.norm().item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("precision", ["off", pytest.param("fp16", marks=pytest.mark.slow)])
def test_it_overfits_a_batch(precision):
    _, _, step = make_step(precision, lr=3e-3)
    batch = make_batch()
    losses = [step(batch)[0].item() for _ in range(12)]
    assert losses[-1] < 0.3 * losses[0]


def test_fp16_stays_close_to_full_precision():
    exact = make_step("off")[2](make_batch())
    rounded = make_step("fp16")[2](make_batch())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0.01)


def losses_of_five_steps(precision: str = "off", device: torch.device = CPU, **switches):
    network, mining, step = make_step(precision, device, **switches)
    network.dropout.p = 0.5
    torch.manual_seed(1)
    losses = [step(make_batch(seed, device)) for seed in range(5)]
    return torch.stack(losses).cpu(), torch.cat([mining.sums, mining.counts]).cpu().numpy()


def assert_same_course(some, others, near: float) -> None:
    """Equal up to rounding, amplified by Adam's first updates, which have full size."""
    torch.testing.assert_close(some[0][0], others[0][0], rtol=near, atol=near)
    torch.testing.assert_close(some[0], others[0], rtol=500 * near, atol=500 * near)
    np.testing.assert_allclose(some[1], others[1], atol=500 * near)


STRUCTURES = [name for name in get_args(StructureName) if name != "generated-spectrum"]  # d2rl's
OFF = dict.fromkeys(("compile", "cuda_graph", "channels_last", "fused_optimizer"), "off")


@pytest.mark.parametrize(
    "switch",
    ["channels_last", "fused_optimizer", pytest.param("compile", marks=pytest.mark.long)],
)
def test_a_switch_changes_nothing_beyond_rounding(switch, unchecked):
    switched = losses_of_five_steps(**OFF | {switch: "on"})
    assert_same_course(switched, losses_of_five_steps(**OFF), near=1e-5)


def test_bf16_on_a_cpu_is_rejected_and_never_chosen():
    """torch 2.10 on an AMX CPU: the demo's loss became NaN at step 2 to 10 (bench/NOTES.md)."""
    assert resolve_precision("auto", CPU) == "off"
    with pytest.raises(InputError, match=r"--precision bf16: torch computes .* leave it at auto"):
        resolve_precision("bf16", CPU)


def test_what_a_machine_cannot_do_is_rejected(monkeypatch):
    with pytest.raises(InputError, match=r"--step.cuda-graph on: there is no GPU here"):
        resolve_step(StepOptions(cuda_graph="on"), CPU, "off")
    with pytest.raises(InputError, match=r"--step.compile on: torch 2.10 fails to compile"):
        resolve_step(StepOptions(compile="on"), CPU, "bf16")
    with pytest.raises(InputError, match=r"--step.cuda-graph on: in fp16 requires the fused"):
        resolve_step(StepOptions("off", "on", "on", "off"), torch.device("cuda"), "fp16")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"--step.compile on: found no C\+\+ compiler"):
        resolve_step(StepOptions(compile="on"), CPU, "off")
    assert resolve_step(StepOptions(), CPU, "off") == StepOptions("off", "off", "on", "off")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_compiling_and_recording_do_not_change_the_losses(precision, unchecked, gpu):
    near = {"off": 1e-4, "bf16": 3e-2, "fp16": 5e-3}[precision]
    losses, confidence = losses_of_five_steps(precision, gpu, **OFF)
    for on in (*({name: "on"} for name in OFF), dict.fromkeys(OFF, "on")):
        if (
            precision == "fp16" and "cuda_graph" in on
        ):  # recording in fp16 needs the fused optimizer
            on = on | {"fused_optimizer": "on"}
        with own_stream(gpu):
            switched = losses_of_five_steps(precision, gpu, **OFF | on)
        assert_same_course(switched, (losses, confidence), near)


@pytest.mark.gpu
def test_a_recorded_step_sees_a_new_learning_rate(unchecked, gpu):
    with own_stream(gpu):
        network, _, step = make_step("off", gpu, cuda_graph="on", compile="off")
        for seed in range(5):
            step(make_batch(seed, gpu))
        before = network.classifier.weight.clone()
        step.optimizer.param_groups[0]["lr"].fill_(0)
        step(make_batch(6, gpu))
        assert torch.equal(network.classifier.weight, before)


@pytest.mark.slow
def test_a_compiled_step_trains_what_a_stage_frees_and_skips_what_one_freezes(
    unchecked, monkeypatch
):
    """Without a C++ compiler, but traced and differentiated as with one."""

    def traced(function, **options):
        return compiled(function, dynamic=options["dynamic"], backend="aot_eager")

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr("train.runtime.find_compiler", lambda: "not needed")
    network, _, step = make_step(compile="on")
    names = frozenset(name for name, _ in network.named_parameters())

    def moved(stage: Stage) -> set[str]:
        if enter(stage, True, network, names, step.optimizer, ALONE):
            step.restart()
        before = {name: weight.clone() for name, weight in network.named_parameters()}
        step(make_batch())
        after = dict(network.named_parameters())
        return {name.split(".")[0] for name in names if not torch.equal(before[name], after[name])}

    assert moved(Stage("head", frozen=("backbone.",))) == {"classifier"}
    assert moved(Stage("all")) == {"backbone", "classifier"}
    assert moved(Stage("backbone", frozen=("classifier.",))) == {"backbone"}


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_recorded_step_holds_what_a_stage_freezes_and_frees_it_again(unchecked, gpu, compiled):
    with own_stream(gpu):
        network, _, step = make_step("off", gpu, cuda_graph="on", compile=compiled)
        names = learning(network, ())

        def moved_in(stage: Stage) -> bool:
            if enter(stage, True, network, names, step.optimizer, ALONE):
                step.restart()
            before = network.classifier.weight.clone()
            for seed in range(5):  # the last two are replayed
                step(make_batch(seed, gpu))
            return not torch.equal(network.classifier.weight, before)

        held = Stage(frozen=("classifier.",))
        assert [moved_in(stage) for stage in (Stage(), held, Stage())] == [True, False, True]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_every_precision_learns_on_the_gpu(precision, unchecked, gpu):
    with own_stream(gpu):
        _, mining, step = make_step(precision, gpu)
        batch = make_batch(device=gpu)
        losses = [step(batch)[0].item() for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]
    assert mining.counts.is_cuda


@pytest.mark.gpu
@pytest.mark.parametrize(
    "switches", [{}, {"cuda_graph": "off"}, {"cuda_graph": "off", "compile": "off"}]
)
def test_a_step_never_waits_for_the_gpu(unchecked, gpu, switches):
    with own_stream(gpu):
        _, _, step = make_step("bf16", gpu, **switches)
        batch = make_batch(device=gpu)
        for _ in range(5):
            step(batch)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses = step(batch)  # raises if anything waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert losses.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("views", [1, 2])
def test_every_structure_steps_on_the_gpu(unchecked, gpu, structure, views):
    """Recorded if its shapes allow; not compiled, to save time."""
    torch.manual_seed(0)
    how = resolve_step(StepOptions(compile="off"), gpu, "bf16")
    method = Method(model=ModelOptions("test_resnet", "none", structure=structure))
    with own_stream(gpu):
        network = method.network(4, (64, 32)).to(gpu).train()
        optimizer = build(method.groups(network), method.optimizer, how, gpu)
        mining = Mining(DhsmOptions(), 4, gpu)
        step = TrainingStep(network, method, optimizer, mining, "bf16", gpu, how)
        batch = make_batch(device=gpu)
        batch = dataclasses.replace(batch, images=batch.images[:, :views].contiguous())
        losses = [step(batch)[0].item() for _ in range(25)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cdp-dhsm", *finding.names()])
def test_every_method_steps_on_the_gpu(name, unchecked, gpu):
    """Recorded if its shapes allow; not compiled, to save time."""
    config = find_preset(name).config
    model = dataclasses.replace(config.method.model, backbone="test_resnet", weights="none")
    method = dataclasses.replace(config.method, model=model)
    views = num_views(config.data)
    torch.manual_seed(0)
    with own_stream(gpu):
        network = method.network(4, SIZES["cuda"]).to(gpu).train()
        how = resolve_step(StepOptions(compile="off"), gpu, "bf16", network.fixed_shapes)
        optimizer = build(method.groups(network), method.optimizer, how, gpu)
        mining = Mining(method.dhsm, len(config.data.spectra), gpu)
        step = TrainingStep(network, method, optimizer, mining, "bf16", gpu, how)
        batch = make_batch(device=gpu)
        batch = dataclasses.replace(batch, images=batch.images[:, :views].contiguous())
        losses = torch.stack([step(batch) for _ in range(8)])
    assert losses.isfinite().all()
    assert len({*losses[:, 0].tolist()}) > 4, "the weights hardly change"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_on_the_gpu_a_step_after_a_restart_equals_the_step_without_it(precision, gpu, tmp_path):
    (tmp_path / run_folder.CHECKPOINTS).mkdir()

    def begin():
        network, mining, step = make_step(precision, gpu, compile="off")
        losses = torch.zeros(5, 3, device=gpu)
        state = State(network, 4, step.optimizer, step.scaler, mining, losses)
        return step, state

    with own_stream(gpu):
        (step, state), (other, restored) = begin(), begin()
        for seed in range(5):
            step(make_batch(seed, gpu))
        at = Progress(1, 5)
        checkpoint.save(tmp_path, state, at, "sysu")
        expected = torch.stack([step(make_batch(seed, gpu)) for seed in (6, 7)])
        checkpoint.restore(tmp_path, restored, pytest.fail)
        found = torch.stack([other(make_batch(seed, gpu)) for seed in (6, 7)])
    near = {"off": 1e-4, "bf16": 3e-2, "fp16": 1e-2}[precision]
    torch.testing.assert_close(found, expected, rtol=near, atol=near)
