"""The listed differences between our step and timm's."""

import dataclasses
import time

import torch

from bench.suite import make_session
from bench.timm_script import differences, training_rate
from tests.front_door import call, refused
from train.config import with_data
from train.live.display import Display
from train.step import WARMUP


def test_work_that_only_one_side_does_is_listed(people):
    session = make_session("sysu", people, torch.device("cpu"), Display(), quick=True)
    on_cpu = differences(dataclasses.replace(session, precision="off"))
    assert on_cpu == {
        "only_ours": [
            "uint8 pixels, normalised in the step",
            "batch-hard triplet loss, distances in float32",
            "dropout 0.5",
            "DHSM's sums of confidence",
        ],
        "only_theirs": ["new random labels each step"],
    }
    on_gpu = dataclasses.replace(session, device=torch.device("cuda"), precision="bf16")
    found = differences(on_gpu)
    assert {"fused Adam", "the step recorded as a CUDA graph"} < set(found["only_ours"])
    assert "the host waits for the GPU after each step" in found["only_theirs"]
    assert "TF32" in differences(dataclasses.replace(on_gpu, precision="off"))["only_theirs"]

    config = session.config
    method = dataclasses.replace(
        config.method,
        model=dataclasses.replace(config.method.model, dropout=0.0, bnneck=True),
        loss=dataclasses.replace(config.method.loss, triplet=False),
    )
    plain = with_data(dataclasses.replace(config, method=method), spectra=())
    assert differences(dataclasses.replace(session, config=plain, precision="off"))[
        "only_ours"
    ] == ["uint8 pixels, normalised in the step", "BNNeck"]


def test_the_scripts_output_is_parsed():
    assert training_rate('log\n--result\n{"train_samples_per_sec": 123.5}') == 123.5
    assert training_rate('--result\n{"error": "out of memory"}') is None
    assert training_rate("Traceback") is None


def test_a_missing_script_is_named_and_a_script_is_optional(people, tmp_path, capsys):
    args = ("--preset", "demo", "--data-root", people, "--device", "cpu", "--quick")
    line = refused(capsys, "bench", "timm", *args, "--timm-script", tmp_path / "gone.py")
    assert "no such file; it is benchmark.py of https://" in line
    assert call("bench", "timm", *args) == 0
    assert "left out" in capsys.readouterr().out


def test_compiling_and_recording_are_not_timed(people):
    """There is no round to warm up beside the script, which takes half a minute."""
    session = make_session("demo", people, torch.device("cpu"), Display(quiet=True), quick=True)
    calls = 0

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == WARMUP + 1:  # at this call, a GPU records the step
            time.sleep(0.2)

    assert session.resident_side(step, 1)().rate > 100  # 40 with the 0.2 s among the 8 steps
