"""Checks of the machine: GPUs, cores, memory, disk. Heavy imports wait until a check runs."""

import os
import shutil
from pathlib import Path

from pipeline import MAX_QUEUES, QUEUES
from train.doctor.check import Check

GIB = 2**30
LOW_MEMORY = 2 * GIB  # `cdp train demo` peaks at 1.1 GiB
LOW_SHM = GIB // 4  # containers get 64 MiB unless they ask for more
LOW_DISK = 2 * GIB  # a ResNet-50 run keeps two checkpoints of 0.3 GiB, and briefly a third


def gpus() -> list[Check]:
    """Each GPU that torch sees and their queues, or why it sees none."""
    import torch

    from train.environment import nvidia_smi

    driver = nvidia_smi()["driver_version"]
    if torch.cuda.is_available():
        found = [_gpu(i, driver) for i in range(torch.cuda.device_count())]
        return [*found, queues(os.environ[QUEUES])]
    if torch.version.cuda is None:
        why = "this torch is built without CUDA; training runs on the CPU"
        return [Check("GPU", "none", "missing" if driver else "off", why)]
    if driver is None:
        why = "torch sees none, nvidia-smi does not run; training runs on the CPU"
        return [Check("GPU", "none", "off", why)]
    why = (
        f"driver {driver} is installed, but torch sees no GPU: is CUDA_VISIBLE_DEVICES set, or the "
        f"driver too old for CUDA {torch.version.cuda}?"
    )
    return [Check("GPU", "none", "missing", why)]


def _gpu(i: int, driver: str | None) -> Check:
    import torch

    free, total = torch.cuda.mem_get_info(i)
    value = f"{torch.cuda.get_device_name(i)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    return Check(f"GPU {i}", value, why=f"driver {driver or 'unknown: nvidia-smi does not run'}")


def queues(number: str) -> Check:
    """The number of hardware queues that a GPU has for the streams of this process."""
    if number == MAX_QUEUES:
        return Check("hardware queues", number)
    why = f"{QUEUES}={number}: the GPU may wait for data; unset it, or set it to {MAX_QUEUES}"
    return Check("hardware queues", number, "low", why)


def cores() -> list[Check]:
    """The cores this process may use, and the threads that follow from them."""
    import torch

    from pipeline.options import DataOptions, num_cores, num_threads
    from train.environment import cpu_model

    allowed, present = num_cores(), os.cpu_count()
    threads = num_threads(DataOptions())
    value = f"{allowed} of {present} cores, {cpu_model()}"
    why = f"threads: DALI {threads}, torch {torch.get_num_threads()}"
    quota = _quota()
    if quota is not None and quota < allowed:
        why += (
            f"; but the container may use the time of {quota:.1f} cores only: pass "
            f"--data.threads {max(1, int(quota))}"
        )
        return [Check("CPU", value, "low", why)]
    return [Check("CPU", value, why=why)]


def _quota() -> float | None:
    """How many cores' time the control group (container) may use; None: no limit is known."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such group, or "max"
        return None


def memory() -> list[Check]:
    """Free host memory, and what the pixel cache may take of it."""
    import torch

    from pipeline.cache import AUTO_SHARE, free_bytes
    from pipeline.options import DataOptions

    options = DataOptions()
    free = free_bytes(torch.device("cpu"))["host"]
    num_images = int(AUTO_SHARE["host"] * free) // (options.height_px * options.width_px * 3)
    why = (
        f"--data.cache auto keeps up to {num_images:,} images of "
        f"{options.height_px}x{options.width_px} in it"
    )
    if free < LOW_MEMORY:
        return [
            Check("memory", f"{free / GIB:.1f} GiB free", "low", f"end what else uses it; {why}")
        ]
    return [Check("memory", f"{free / GIB:.1f} GiB free", why=why)]


def shared_memory() -> list[Check]:
    """Room in /dev/shm, through which processes on several GPUs and DataLoader workers talk."""
    free = shutil.disk_usage("/dev/shm").free
    value = f"{free / GIB:.1f} GiB free"
    if free < LOW_SHM:
        why = "torchrun and `cdp bench peers` may need more: docker run --shm-size 1g"
        return [Check("/dev/shm", value, "low", why)]
    return [Check("/dev/shm", value)]


def disk() -> list[Check]:
    """Room for run folders."""
    runs = Path("runs").absolute()
    folder = next(f for f in (runs, *runs.parents) if f.exists())
    free = shutil.disk_usage(folder).free
    value = f"{free / GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        why = "runs/ cannot be written here; change folder, or pass --run-dir"
        return [Check("disk", value, "missing", why)]
    if free < LOW_DISK:
        why = "a ResNet-50 run takes 1 GiB; make room, or pass --run-dir"
        return [Check("disk", value, "low", why)]
    return [Check("disk", value)]
