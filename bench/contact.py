"""`python -m bench.contact`: does this machine do what training needs? The first thing to ask it.

A training step comes first, then DALI's graph, cut off after each stage, so that the first check
that fails names the operator. A check that ends its process does not end the others: they go on in
a new one. Exit status: 0 if batches and steps can be made, 3 if no batches, 4 if no step.
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

if TYPE_CHECKING:  # torch or DALI may not load here, which is for a check to say
    from pipeline.datasets.records import Index
    from pipeline.graph import Stage

NO_BATCHES, NO_STEP = 3, 4
PEOPLE = {"num_train": 88, "num_val": 2, "num_test": 1, "images_per_camera": 1}
OPTIONS: dict[str, Any] = {"p": 8, "k": 4, "cache": "none", "threads": 4}
NUM_STEPS = 8
STAGES: tuple["Stage", ...] = ("read", "decode", "resize", "flip", "counterpart", "stack")


def matrix_product(device: str, people: Path) -> str:
    """torch itself, in bf16."""
    import torch

    a, b = (torch.randn(512, 512, device=device, dtype=torch.bfloat16) for _ in range(2))
    off = ((a @ b).float() - a.float() @ b.float()).abs().max().item()
    assert off < 1, f"a product is off by {off}"
    card = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    return f"torch {torch.__version__} on {card}"


def training_step(device: str, people: Path) -> str:
    """A few steps on resident pixels, compiled and recorded on a GPU; the options they had."""
    import torch

    from bench.measure import synchronize
    from bench.step import make_step, resident_batch
    from bench.suite import make_session
    from train import runtime
    from train.live.display import Display

    on = runtime.resolve_device(device)
    runtime.set_up(on)
    session = make_session("sysu" if device == "cuda" else "demo", people, on, Display(quiet=True))
    with runtime.own_stream(on):
        step, batch = make_step(session), resident_batch(session, session.config.data.p)
        ms = []
        for _ in range(NUM_STEPS):
            start = time.perf_counter()
            losses = step(batch)
            synchronize()
            ms.append(1000 * (time.perf_counter() - start))
    how = dataclasses.asdict(step.options)
    options = ", ".join(f"{name} {value}" for name, value in how.items())
    assert torch.isfinite(losses).all(), f"losses {losses.tolist()} ({options})"
    slow = [name for name in ("compile", "cuda_graph") if device == "cuda" and how[name] != "on"]
    assert not slow, f"{' and '.join(slow)} off: is there a C++ compiler, and Python.h? ({options})"
    return (
        f"{NUM_STEPS} steps of {session.images} images, the first took {ms[0] / 1000:.1f} s, the "
        f"last {ms[-1]:.1f} ms; precision {session.precision}, {options}"
    )


def video_library(device: str, people: Path) -> str:
    """The driver's library that the JPEG engine is believed to need; tells, never fails."""
    return ctypes.util.find_library("nvcuvid") or "not found: there may be no JPEG engine"


def decoders(device: str, people: Path) -> str:
    """Which of DALI's decoders can decode these files here."""
    import torch

    from pipeline.batches import device_id
    from pipeline.decoders import decoders

    can = decoders(_index(people).path(0), device_id(torch.device(device)))
    assert any(can.values()), "none decodes a file"
    return ", ".join(f"{name} {'yes' if works else 'no'}" for name, works in can.items())


def cut_after(stage: "Stage") -> "Run":
    """The training graph up to a stage; says what comes out."""

    def check(device: str, people: Path) -> str:
        import torch

        from pipeline import spectrum
        from pipeline.batches import device_id, run_raw
        from pipeline.graph import training_graph
        from pipeline.options import DataOptions
        from pipeline.source import TrainingSource

        on, options = torch.device(device), DataOptions(**OPTIONS)
        source = TrainingSource(_index(people), options, seed=0)
        graph = training_graph(source, options, device_id(on), options.threads, last=stage)
        source.begin(1, spectrum.uniform())
        batches = run_raw(graph, source, on)
        _, (made, *_) = next(batches)
        if device == "cuda":
            torch.cuda.synchronize()
        said = f"{type(made).__name__} of {made[0].shape()}, {made.dtype}"
        batches.close()
        return said

    return check


def pixels(device: str, people: Path) -> str:
    """An epoch of pairs against the CPU's."""
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


Run = Callable[[str, Path], str]  # (device, data set) → what was seen; raises if it does not work


class Check(NamedTuple):
    """One thing to try, if what it builds on works; `seconds` it may take, imports included."""

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
    """Makes the checks one by one, writing and saying what came of each; the exit status."""
    from pipeline.datasets import synthetic

    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        people = Path(folder, "people")
        synthetic.make(people, synthetic.SyntheticOptions(**PEOPLE))
        while left := [name for name in CHECKS if name not in found]:
            for outcome in in_a_process(device, people, left, found):
                found[outcome["check"]] = outcome
                print("{state:9} {check}: {said} ({seconds:.1f} s)".format(**outcome), flush=True)
                out.write_text(json.dumps({"checks": list(found.values())}, indent=2) + "\n")
    if found["training step"]["state"] != "works":
        return NO_STEP
    return 0 if found[CUTS[-1]]["state"] == "works" else NO_BATCHES


def in_a_process(
    device: str, people: Path, checks: list[str], found: dict[str, Outcome]
) -> Iterator[Outcome]:
    """What came of the checks, one after another, as far as one process gets."""
    command = [sys.executable, "-m", "bench.contact", WORKER, device, str(people)]
    # Unbuffered, so that what `select` sees is all there is.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stdout
        for name in checks:
            after = CHECKS[name].after
            if after and found[after]["state"] != "works":
                said = f"needs {after}"
                yield {"check": name, "seconds": 0.0, "state": "left out", "said": said}
                continue
            start = time.perf_counter()
            with suppress(BrokenPipeError):  # it has ended, which the next line finds
                process.stdin.write(f"{name}\n".encode())
            spoke, _, _ = select.select([process.stdout], [], [], CHECKS[name].seconds)
            line = process.stdout.readline() if spoke else b""
            outcome = {"check": name, "seconds": time.perf_counter() - start}
            if line:
                yield (told := outcome | json.loads(line))
                if told["state"] == "failed":  # what it leaves behind must fail no other
                    process.kill()
                    return
                continue
            if not spoke:
                process.kill()
            end = f"the process ended with {process.wait()}" if spoke else "never ended"
            yield outcome | {"state": "crashed" if spoke else "hung", "said": end}
            return
        process.stdin.close()


WORKER = "--in-this-process"


def work(device: str, people: Path) -> None:
    """Makes the checks that stdin names; prints what came of each as a line of JSON."""
    warnings.filterwarnings("ignore", "The external source node")  # that a cut leaves unused
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print comes in nobody's way
    for name in iter(sys.stdin.readline, ""):
        try:
            outcome = {"state": "works", "said": CHECKS[name.strip()].run(device, people)}
        except Exception as error:  # whatever it is, it is what we came to hear
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
