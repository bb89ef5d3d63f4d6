"""`cdp bench timm`: compares our training step with timm's own benchmark script.

The script, `benchmark.py` of timm's repository, is not in its package. Both train on random pixels
in the device's memory. The script uses Adam, and our network timm's strides (last stride 2);
remaining differences are printed and recorded with the figures.
"""

import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

from bench.measure import Pass, Side
from bench.session import Session
from bench.step import step_side
from pipeline.errors import InputError
from pipeline.options import num_views
from train import runtime
from train.config import with_method

OURS, EAGER, COMPILED = "ours", "timm's script, eager", "timm's script, compiled"
ROUNDS = 2  # one process each, of half a minute
WARMUP, TIMED = 20, 100  # steps; timm's defaults, 10 and 40, are shorter
AMP = {"bf16": ["--amp", "--amp-dtype", "bfloat16"], "fp16": ["--amp"], "off": []}
HOW_TO_GET_IT = (
    "it is benchmark.py of https://github.com/huggingface/pytorch-image-models, at the version of "
    "the installed timm; pass its path as --timm-script"
)


def bench_timm(session: Session) -> None:
    """Compares them with the same network, size, batch and precision; the script also compiled."""
    script = session.timm_script
    if script is None:
        session.display.say(f"timm's benchmark script: left out; {HOW_TO_GET_IT}")
        return
    if not script.is_file():
        raise InputError(f"--timm-script {script}: no such file; {HOW_TO_GET_IT}")
    model = dataclasses.replace(session.config.method.model, last_stride=2)
    config = with_method(session.config, model=model)
    same = dataclasses.replace(session, config=config, rounds=min(ROUNDS, session.rounds))
    sides: dict[str, Side] = {
        EAGER: lambda: run_script(same, script, []),
        COMPILED: lambda: run_script(same, script, ["--torchcompile"]),
    }
    if session.device.type != "cuda":  # compiling would take longer than everything else
        del sides[COMPILED]
    with runtime.own_stream(session.device):
        sides[OURS] = step_side(same, config.data.p)
        only = differences(same)
        samples = same.compare("step, beside timm's script", sides, EAGER, warmup=0, **only)
    theirs = samples.best_of([name for name in sides if name != OURS])
    session.display.say(f"timm's script at its best: {theirs}")
    for whose, things in only.items():
        session.display.say(f"{whose.replace('_', ' ')}: {'; '.join(things)}")
    session.ratios["step_over_timm_benchmark"] = samples.ratios(OURS, theirs)


def differences(session: Session) -> dict[str, list[str]]:
    """Lists what only one side's step does, as of timm 1.0.

    Both do: forward pass, mean cross-entropy, backward pass, Adam; channels_last, cuDNN's choice of
    algorithms, the same precision. The script makes one batch of normalised floats at its start.
    """
    config, on_gpu = session.config, session.device.type == "cuda"
    model = config.method.model
    step = runtime.resolve_step(config.step, session.device, session.precision)
    ours = {
        "uint8 pixels, normalised in the step": True,
        f"structure {model.structure}": model.structure != "one-stream",
        "batch-hard triplet loss, distances in float32": config.method.loss.triplet,
        "BNNeck": model.bnneck,
        f"dropout {model.dropout:g}": model.dropout > 0,
        "DHSM's sums of confidence": num_views(config.data) == 2,
        "scaled gradients": session.precision == "fp16",
        "fused Adam": step.fused_optimizer == "on",
        "the step recorded as a CUDA graph": step.cuda_graph == "on",
    }
    theirs = {
        "new random labels each step": True,
        "the host waits for the GPU after each step": on_gpu,
        "TF32": on_gpu and session.precision == "off",
    }
    return {
        "only_ours": [thing for thing, there in ours.items() if there],
        "only_theirs": [thing for thing, there in theirs.items() if there],
    }


def command(session: Session, script: Path, extra: list[str]) -> list[str]:
    """Returns the script's command line."""
    data = session.config.data
    warmup, timed = _steps(session)
    return [
        sys.executable,
        str(script),
        "--bench=train",
        f"--model={session.config.method.model.backbone}",
        "--input-size",
        *("3", str(data.height_px), str(data.width_px)),
        f"--batch-size={session.images}",
        f"--num-classes={session.num_classes}",
        f"--device={session.device.type}",
        "--opt=adam",
        "--channels-last",
        "--no-retry",
        f"--num-warm-iter={warmup}",
        f"--num-bench-iter={timed}",
        *AMP[session.precision],
        *extra,
    ]


def run_script(session: Session, script: Path, extra: list[str]) -> Pass:
    """Runs the script once; CPU time includes its start.

    Raises `InputError` with its last line of output if it fails.
    """
    cpu = _cpu_of_children()
    done = subprocess.run(command(session, script, extra), capture_output=True, text=True)
    rate = training_rate(done.stdout)
    if rate is None:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise InputError(f"--timm-script {script}: ended with {done.returncode}: {lines[-1]}")
    images = sum(_steps(session)) * session.images
    return Pass(rate=rate, cpu_us=1e6 * (_cpu_of_children() - cpu) / images)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _steps(session: Session) -> tuple[int, int]:
    """Returns the numbers of warm-up steps and timed steps."""
    return (2, 5) if session.quick else (WARMUP, TIMED)


def training_rate(output: str) -> float | None:
    """Returns the images/s that the script printed after `--result`; None if there are none."""
    _, found, result = output.partition("--result\n")
    if not found:
        return None
    results = json.loads(result)
    first = results[0] if isinstance(results, list) else results
    rate = first.get("train_samples_per_sec")
    return None if rate is None else float(rate)
