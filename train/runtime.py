"""Device, precision and step options that this machine supports."""

import dataclasses
import gc
import os
import shutil
import sys
import sysconfig
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.errors import InputError
from pipeline.options import DataOptions, num_cores, num_threads
from train.distributed import ALONE, World

Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a step is computed. Only rounding depends on these options, not the result."""

    compile: Switch = "auto"
    """Compile forward and backward pass, including normalisation (torch.compile, needs a C++
    compiler); auto: on a GPU."""

    cuda_graph: Switch = "auto"
    """Record the whole step, including the update, as a CUDA graph and replay it: one launch per
    step instead of a thousand; auto: on a GPU, unless in fp16 or under torchrun."""

    channels_last: Switch = "auto"
    """Store activations as N,H,W,C, the layout of the pixels and of tensor cores; auto: on."""

    fused_optimizer: Switch = "auto"
    """Update all weights in one kernel; auto: on a GPU."""


def resolve_device(name: str, world: World = ALONE) -> torch.device:
    """Returns the torch device for `auto`, `cuda` or `cpu`; `InputError` if there is no GPU.

    Each process of a world gets its own GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; pass --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if world.size == 1:
        return torch.device("cuda", torch.cuda.current_device())
    if world.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"--nproc-per-node {world.local_size}: there are only {torch.cuda.device_count()} GPUs;"
            " start one process per GPU, or pass --device cpu"
        )
    return torch.device("cuda", world.local_rank)


def set_up(device: torch.device) -> None:
    """Sets global options of torch for this device and drops state of earlier trainings.

    Shapes are the same in every step, so cuDNN benchmarks its algorithms. Without mixed precision,
    computes in float32 as on the CPU instead of TF32, cuDNN's default. Frees what an earlier
    training in this process compiled, recorded and cached.
    """
    if "torch._dynamo" in sys.modules:  # takes seconds to import
        torch.compiler.reset()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")


def share_threads(options: DataOptions, world: World) -> DataOptions:
    """Returns the options with this process's share of the machine's cores."""
    if world.local_size == 1:
        return options
    return dataclasses.replace(options, threads=max(1, num_threads(options) // world.local_size))


def resolve_precision(name: str, device: torch.device) -> str:
    """Resolves `auto` to bf16 on a GPU that supports it, else to off; keeps other names.

    Raises `InputError` for bf16 on a CPU, where torch computes some convolutions incorrectly.
    """
    if device.type != "cuda":
        if name == "bf16":
            raise InputError(
                "--precision bf16: torch computes some small convolutions incorrectly in bf16 on a "
                "CPU (bench/NOTES.md); leave it at auto, which is float32 on a CPU"
            )
        return "off" if name == "auto" else name
    if name != "auto":
        return name
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "off"


def resolve_step(
    options: StepOptions,
    device: torch.device,
    precision: str,
    fixed_shapes: bool = True,
    num_ranks: int = 1,
) -> StepOptions:
    """Resolves each `auto` to on or off; `InputError` if machine or network cannot do as asked.

    `fixed_shapes`: all shapes inside the network depend only on the batch size.
    """
    gpu = device.type == "cuda"
    for name in ("compile", "cuda_graph"):
        if getattr(options, name) == "on" and not fixed_shapes:
            raise InputError(
                f"--step.{name.replace('_', '-')} on: shapes inside this method's network depend "
                "on more than the batch size; leave it at auto"
            )
    if options.cuda_graph == "on" and not gpu:
        raise InputError("--step.cuda-graph on: there is no GPU here; leave it at auto")
    if options.compile == "on" and not gpu and precision == "bf16":
        raise InputError(
            "--step.compile on: torch 2.10 fails to compile a backward pass in bf16 for a CPU; "
            "pass --precision off as well, or leave compile at auto"
        )
    if options.compile == "on" and not _has_compiler():
        raise InputError(
            "--step.compile on: found no C++ compiler (g++, clang++ or $CXX) or, for a GPU, no "
            "Python.h; install them or leave it at auto"
        )
    if options.cuda_graph == "on" and num_ranks > 1:
        raise InputError("--step.cuda-graph on: not supported under torchrun; leave it at auto")
    auto = {
        "compile": gpu and fixed_shapes and _has_compiler(),
        "cuda_graph": gpu and fixed_shapes and precision != "fp16" and num_ranks == 1,
        "channels_last": True,
        "fused_optimizer": gpu,
    }
    chosen = {
        name: "on" if on else "off" for name, on in auto.items() if getattr(options, name) == "auto"
    }
    resolved = dataclasses.replace(options, **chosen)  # type: ignore[arg-type]
    if resolved.cuda_graph == "on" and precision == "fp16" and resolved.fused_optimizer == "off":
        raise InputError(
            "--step.cuda-graph on: in fp16 requires the fused optimizer; leave "
            "--step.fused-optimizer at auto"
        )
    return resolved


def _has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler and, for Triton on a GPU, Python's headers."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's
    header = Path(sysconfig.get_path("include", scheme), "Python.h")
    if torch.cuda.is_available() and not header.is_file():
        return False
    return find_compiler() is not None


def find_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile would call; None if there is none."""
    paths = map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))
    return next(filter(None, paths), None)


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """Switches to a new CUDA stream, as steps cannot be recorded on the default stream."""
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device, priority=-1)  # above the loader's kernels
    stream.wait_stream(torch.cuda.current_stream(device))  # wait for the weights
    return torch.cuda.stream(stream)


def describe(device: torch.device) -> str:
    """Describes in one line the hardware and where JPEGs are decoded."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, DALI decodes on the GPU (mixed)"
    cores = num_cores()
    return f"CPU ({cores} core{'s' if cores > 1 else ''}), DALI decodes on the CPU"
