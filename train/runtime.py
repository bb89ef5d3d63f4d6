"""What this process runs on: device and precision."""

import os
from pathlib import Path

import torch

from pipeline.errors import InputError


def resolve_device(name: str) -> torch.device:
    """The torch device for `auto`, `cuda` or `cpu`; `InputError` if there is no GPU to use."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; pass --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` as bf16 where the hardware computes in it, else off; other names as they are."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16"
    # Without the instructions torch emulates bf16, slower than float32.
    return "bf16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "off"


def describe(device: torch.device) -> str:
    """One line for people: the hardware, and where JPEGs are decoded."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, DALI decodes on the GPU (mixed)"
    return f"CPU ({len(os.sched_getaffinity(0))} cores), DALI decodes on the CPU"
