"""What is said of the difference between our step and timm's."""

import dataclasses

import torch

from bench.run import make_session
from bench.timm_script import differences
from train.reporting.display import Display


def test_each_side_s_own_work_is_named(people):
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
    plain = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, spectra=()),
        model=dataclasses.replace(config.model, dropout=0.0, bnneck=True),
        loss=dataclasses.replace(config.loss, triplet=False),
    )
    assert differences(dataclasses.replace(session, config=plain, precision="off"))[
        "only_ours"
    ] == ["uint8 pixels, normalised in the step", "BNNeck"]
