"""`python -m bench.contact`: first contact with a device: does each operator work on it?

For new hardware or a new driver, before anything is measured. The training graph is cut off after
each stage, so the first check that fails names the operator. A check that ends the process does
not end the others: they go on in a new one.
"""

import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import tyro

from pipeline import spectrum
from pipeline.datasets import synthetic
from pipeline.datasets.kinds import read_training
from pipeline.datasets.records import Index
from pipeline.decoders import decoders
from pipeline.graph import Stage, training_graph
from pipeline.loader import EvaluationLoader, TrainingLoader
from pipeline.options import DataOptions
from pipeline.run import device_id, run_raw
from pipeline.source import TrainingSource
from train import run_folder
from train.config import Device
from train.environment import environment
from train.reporting.display import Display
from train.runtime import resolve_device

PEOPLE = synthetic.SyntheticOptions(num_train=24, num_val=1, num_test=1, images_per_camera=3)
OPTIONS = DataOptions(p=8, k=4, cache="none", threads=4)
CPU = torch.device("cpu")

Check = Callable[[torch.device, Index], str]  # what was seen; raises if it does not work


def matrix_product(device: torch.device, index: Index) -> str:
    """torch itself, in bf16."""
    a, b = (torch.randn(512, 512, device=device, dtype=torch.bfloat16) for _ in range(2))
    off = ((a @ b).float() - a.float() @ b.float()).abs().max().item()
    assert off < 1, f"a product is off by {off}"
    return f"torch {torch.__version__} on {device}"


def decoders_here(device: torch.device, index: Index) -> str:
    """Which decoders this machine has for these files."""
    can = decoders(index.path(0), device_id(device))
    assert any(can.values()), "none decodes a file"
    return ", ".join(f"{name} {'yes' if works else 'no'}" for name, works in can.items())


def cut_after(stage: Stage) -> Check:
    """The training graph up to a stage; says what comes out."""

    def check(device: torch.device, index: Index) -> str:
        source = TrainingSource(index, OPTIONS, seed=0)
        graph = training_graph(source, OPTIONS, device_id(device), OPTIONS.threads, last=stage)
        source.begin(1, spectrum.uniform())
        batches = run_raw(graph, source, device)
        _, (made, *_) = next(batches)
        if device.type == "cuda":
            torch.cuda.synchronize()
        said = f"{type(made).__name__} of {made[0].shape()}, {made.dtype}"
        batches.close()
        return said

    return check


def evaluation_pixels(device: torch.device, index: Index) -> str:
    """Decoded and resized images against the CPU's."""
    return _difference(
        *(torch.cat([i.cpu() for i in EvaluationLoader(index, OPTIONS, d)]) for d in (device, CPU))
    )


def training_pixels(**changes: Any) -> Check:
    """An epoch of pairs against the CPU's."""

    def check(device: torch.device, index: Index) -> str:
        options = dataclasses.replace(OPTIONS, **changes)
        loaders = (TrainingLoader(index, options, d, seed=0) for d in (device, CPU))
        epochs = (
            torch.cat([batch.images.cpu() for batch in loader.epoch(1, spectrum.uniform())])
            for loader in loaders
        )
        return _difference(*epochs)

    return check


def _difference(found: torch.Tensor, expected: torch.Tensor) -> str:
    off = np.abs(found.numpy().astype(np.int16) - expected.numpy())
    assert off.mean() < 2, f"pixels, 0…255, differ from the CPU's by {off.mean():.2f} in the mean"
    return (
        f"pixels, 0…255, differ from the CPU's by {off.mean():.3f} in the mean, "
        f"{np.quantile(off, 0.999):.0f} at the 99.9th percentile, {off.max()} at most"
    )


CHECKS: dict[str, Check] = {
    "torch": matrix_product,
    "decoders": decoders_here,
    **{f"training graph … {stage}": cut_after(stage) for stage in get_args(Stage)},
    "evaluation pixels": evaluation_pixels,
    "training pixels": training_pixels(),
    "training pixels, all JPEG engine": training_pixels(hw_decoder_load=1.0),
    "training pixels, no JPEG engine": training_pixels(hw_decoder_load=0.0),
}


def contact(device: Device = "auto", out: Path | None = None) -> None:
    """Checks one by one what training needs of a device; exit status 1 if something fails.

    Args:
        device: auto is the GPU if there is one.
        out: JSON file for what was found, written after each check.
    """
    if out:
        run_folder.make_parent(out)
    name, display, found = resolve_device(device).type, Display(), {}
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder, "people")
        synthetic.make(people, PEOPLE)
        while left := [check for check in CHECKS if check not in found]:
            for outcome in in_a_process(name, people, left):
                found[outcome["check"]] = outcome
                display.say("{state:9} {check}: {said} ({seconds:.1f} s)".format(**outcome))
                if out:
                    checks = {"checks": list(found.values())}
                    run_folder.write_result(out, environment() | checks)
    failed = [check for check, outcome in found.items() if outcome["state"] != "works"]
    display.say(f"{len(found) - len(failed)} of {len(found)} work")
    sys.exit(1 if failed else 0)


def in_a_process(device: str, people: Path, checks: list[str]) -> Iterator[dict[str, Any]]:
    """What came of the checks, one after another, as far as one process gets."""
    command = [sys.executable, "-m", "bench.contact", WORKER, device, str(people), *checks]
    # Unbuffered, so that what `select` sees is all there is.
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout
        for check in checks:
            start = time.perf_counter()
            spoke, _, _ = select.select([process.stdout], [], [], SECONDS)
            line = process.stdout.readline() if spoke else b""
            outcome = {"check": check, "seconds": time.perf_counter() - start}
            if line:
                yield (told := outcome | json.loads(line))
                if told["state"] == "failed":  # what it leaves behind must fail no other
                    process.kill()
                    return
                continue
            if not spoke:
                process.kill()
            end = f"the process ended with {process.wait()}" if spoke else f"for {SECONDS} s"
            yield outcome | {"state": "crashed" if spoke else "hung", "said": end}
            return


SECONDS = 60  # a check may take, with the start before the first
WORKER = "--in-this-process"


def work(device: torch.device, people: Path, checks: list[str]) -> None:
    """Makes the checks; prints what came of each as a line of JSON."""
    warnings.filterwarnings("ignore", "The external source node")  # that a cut leaves unused
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print comes in nobody's way
    index = read_training(dataclasses.replace(OPTIONS, root=people), people)
    for check in checks:
        try:
            outcome = {"state": "works", "said": CHECKS[check](device, index)}
        except Exception as error:  # whatever it is, it is what we came to hear
            outcome = {"state": "failed", "said": f"{type(error).__name__}: {error}"}
        print(json.dumps(outcome), file=lines, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        work(torch.device(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        tyro.cli(contact, prog="python -m bench.contact")
