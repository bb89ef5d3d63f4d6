"""What a measurement depends on: hardware, driver, clocks, versions, date."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.options import num_cores

PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "numpy", "pillow", "timm", "spdl-io")
NVIDIA_SMI = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


def environment() -> dict[str, Any]:
    """Returns hardware, driver, clocks and versions as JSON values."""
    import torch  # here, so that the versions can be read where torch is broken

    about: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "num_cores": num_cores(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "gpu": None,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        about["gpu"] = {
            "name": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
            **nvidia_smi(),
        }
    return about


def cpu_model() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return next(names, platform.processor())


def version(package: str) -> str | None:
    """Of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def nvidia_smi() -> dict[str, str | None]:
    """Returns driver version and clocks from nvidia-smi; all None if it fails."""
    try:
        line = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(NVIDIA_SMI)}", "--format=csv,noheader", "-i=0"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        return dict(zip(NVIDIA_SMI, (value.strip() for value in line.split(",")), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError):
        return dict.fromkeys(NVIDIA_SMI)
