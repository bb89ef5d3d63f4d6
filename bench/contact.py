"""`python -m bench.contact`: checks that a new machine can do what training needs.

Tries a training step first, then DALI's graph cut off after each stage, so that the first failing
check names the operator. If a check crashes its process, the others continue in a new one. Exit
status: 0 if batches and steps work, 3 if batches fail, 4 if the step fails.
"""

import argparse
import ctypes.util
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
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # torch or DALI may fail to load, which a check must report
    from pipeline.datasets.records import Index
    from pipeline.graph import Stage

NO_BATCHES, NO_STEP = 3, 4
PEOPLE: dict[str, Any] = {"num_train": 88, "num_val": 2, "num_test": 1, "images_per_camera": 1}
OPTIONS: dict[str, Any] = {"p": 8, "k": 4, "cache": "none", "threads": 4}
NUM_STEPS = 8
STAGES: tuple["Stage", ...] = ("read", "decode", "resize", "flip", "counterpart", "stack")


def matrix_product(device: str, people: Path) -> str:
    """Multiplies matrices with torch, in bf16."""
    import torch

    a, b = (torch.randn(512, 512, device=device, dtype=torch.bfloat16) for _ in range(2))
    off = ((a @ b).float() - a.float() @ b.float()).abs().max().item()
    assert off < 1, f"a product is off by {off}"
    card = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    return f"torch {torch.__version__} on {card}"


def training_step(device: str, people: Path) -> str:
    """Runs a few steps on resident pixels, compiled and recorded on a GPU; reports the options."""
    import torch

    from bench.measure import synchronize
    from bench.step import make_step, resident_batch
    from bench.suite import make_session
    from train import runtime
    from train.live.display import Display

    torch_device = runtime.resolve_device(device)
    runtime.set_up(torch_device)
    preset = "sysu" if device == "cuda" else "demo"
    session = make_session(preset, people, torch_device, Display(quiet=True))
    with runtime.own_stream(torch_device):
        step, batch = make_step(session), resident_batch(session, session.config.data.p)
        ms = []
        for _ in range(NUM_STEPS):
            start = time.perf_counter()
            losses = step(batch)
            synchronize()
            ms.append(1000 * (time.perf_counter() - start))
    used = dataclasses.asdict(step.options)
    options = ", ".join(f"{name} {value}" for name, value in used.items())
    assert torch.isfinite(losses).all(), f"losses {losses.tolist()} ({options})"
    slow = [name for name in ("compile", "cuda_graph") if device == "cuda" and used[name] != "on"]
    assert not slow, f"{' and '.join(slow)} off: is there a C++ compiler, and Python.h? ({options})"
    return (
        f"{NUM_STEPS} steps of {session.images} images, the first took {ms[0] / 1000:.1f} s, the "
        f"last {ms[-1]:.1f} ms; precision {session.precision}, {options}"
    )


def video_library(device: str, people: Path) -> str:
    """Looks for the driver library that the JPEG engine probably needs; never fails."""
    return ctypes.util.find_library("nvcuvid") or "not found: there may be no JPEG engine"


def decoders(device: str, people: Path) -> str:
    """Lists which of DALI's decoders can decode these files here."""
    import torch

    from pipeline.batches import device_id
    from pipeline.decoders import decoders

    can = decoders(_index(people).path(0), device_id(torch.device(device)))
    assert any(can.values()), "none decodes a file"
    return ", ".join(f"{name} {'yes' if works else 'no'}" for name, works in can.items())


def cut_after(stage: "Stage") -> "Run":
    """Returns a check that runs the training graph up to a stage and reports its output."""

    def check(device: str, people: Path) -> str:
        import torch

        from pipeline import spectrum
        from pipeline.batches import device_id, run_raw
        from pipeline.graph import training_graph
        from pipeline.options import DataOptions
        from pipeline.source import TrainingSource

        torch_device, options = torch.device(device), DataOptions(**OPTIONS)
        gpu = device_id(torch_device)
        source = TrainingSource(_index(people), options, seed=0)
        graph = training_graph(source, options, gpu, options.threads, last=stage)
        source.begin(1, spectrum.uniform())
        batches = run_raw(graph, source, torch_device)
        _, (output, *_) = next(batches)
        if device == "cuda":
            torch.cuda.synchronize()
        description = f"{type(output).__name__} of {output[0].shape()}, {output.dtype}"
        batches.close()
        return description

    return check


def pixels(device: str, people: Path) -> str:
    """Compares an epoch of pairs with the CPU's."""
    import torch

    from pipeline import spectrum
    from pipeline.loader import TrainingLoader
    from pipeline.options import DataOptions

    found, expected = (
        torch.cat([batch.images.cpu() for batch in loader.epoch(1, spectrum.uniform())])
        for name in (device, "cpu")
        for loader in [
            TrainingLoader(_index(people), DataOptions(**OPTIONS), torch.device(name), 0)
        ]
    )
    off = (found.short() - expected.short()).abs().float()
    share = (off > 8).float().mean().item()
    assert off.mean() < 2, f"pixels, 0…255, differ from the CPU's by {off.mean():.2f} in the mean"
    return f"differ from the CPU's by {off.mean():.3f} of 255 in the mean, {share:.2%} by over 8"


def _index(people: Path) -> "Index":
    from pipeline.datasets.kinds import read_training
    from pipeline.options import DataOptions

    return read_training(DataOptions(root=people), people)


Run = Callable[[str, Path], str]  # (device, data set) → what was seen; raises if it fails


class Check(NamedTuple):
    """A check, run if `after` works; may take `seconds`, including imports."""

    run: Run
    after: str | None = None
    seconds: float = 40


CUTS = [f"graph … {stage}" for stage in STAGES]
CHECKS = {
    "torch": Check(matrix_product, None, 120),
    "training step": Check(training_step, "torch", 120),
    "video library": Check(video_library),
    **{
        cut: Check(cut_after(stage), before)
        for cut, stage, before in zip(CUTS, STAGES, [None, *CUTS], strict=False)
    },
    "decoders": Check(decoders, CUTS[0]),
    "pixels": Check(pixels, CUTS[-1]),
}

Outcome = dict[str, Any]  # check, state, said, seconds


def contact(device: str, out: Path) -> int:
    """Runs all checks, prints and writes each outcome; returns the exit status."""
    from pipeline.datasets import synthetic

    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder, "people")
        synthetic.make(people, synthetic.SyntheticOptions(**PEOPLE))
        while remaining := [name for name in CHECKS if name not in found]:
            for outcome in in_a_process(device, people, remaining, found):
                found[outcome["check"]] = outcome
                print("{state:9} {check}: {said} ({seconds:.1f} s)".format(**outcome), flush=True)
                out.write_text(json.dumps({"checks": list(found.values())}, indent=2) + "\n")
    if found["training step"]["state"] != "works":
        return NO_STEP
    return 0 if found[CUTS[-1]]["state"] == "works" else NO_BATCHES


def in_a_process(
    device: str, people: Path, checks: list[str], found: dict[str, Outcome]
) -> Iterator[Outcome]:
    """Yields the checks' outcomes in order, as far as one process gets."""
    command = [sys.executable, "-m", "bench.contact", WORKER, device, str(people)]
    # Unbuffered, so that `select` sees all output.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stdout
        for name in checks:
            after = CHECKS[name].after
            if after and found[after]["state"] != "works":
                reason = f"needs {after}"
                yield {"check": name, "seconds": 0.0, "state": "left out", "said": reason}
                continue
            start = time.perf_counter()
            with suppress(BrokenPipeError):  # the process has ended; select returns at once
                process.stdin.write(f"{name}\n".encode())
            answered, _, _ = select.select([process.stdout], [], [], CHECKS[name].seconds)
            line = process.stdout.readline() if answered else b""
            outcome = {"check": name, "seconds": time.perf_counter() - start}
            if line:
                yield (outcome := outcome | json.loads(line))
                if outcome["state"] == "failed":  # its remains must not fail other checks
                    process.kill()
                    return
                continue
            if not answered:
                process.kill()
            end = f"the process ended with {process.wait()}" if answered else "never ended"
            yield outcome | {"state": "crashed" if answered else "hung", "said": end}
            return
        process.stdin.close()


WORKER = "--in-this-process"


def work(device: str, people: Path) -> None:
    """Runs the checks named on stdin; prints each outcome as a line of JSON."""
    warnings.filterwarnings("ignore", "The external source node")  # unused in a cut graph
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # send what libraries print to stderr
    for name in iter(sys.stdin.readline, ""):
        try:
            outcome = {"state": "works", "said": CHECKS[name.strip()].run(device, people)}
        except Exception as error:  # any failure is an outcome to report
            outcome = {"state": "failed", "said": f"{type(error).__name__}: {error}"}
        print(json.dumps(outcome), file=lines, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [WORKER]:
        work(sys.argv[2], Path(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
        parser.add_argument("--out", type=Path, required=True, help="JSON file")
        options = parser.parse_args()
        sys.exit(contact(options.device, options.out))
