"""Shared fixtures: small data sets on disk, and skipping of GPU tests."""

import fcntl
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests import signatures

if TYPE_CHECKING:  # keeps the process that only distributes tests fast to start
    import torch

    from pipeline.datasets.records import Index

# Test processes that compete for cores are slower than one process, so divide the cores.
worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1").removeprefix("gw"))
if worker >= 0:
    cores = sorted(os.sched_getaffinity(0))
    share = cores[worker :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])] or cores
    os.sched_setaffinity(0, share)
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(len(share))
    threadpool_limits(len(share))  # NumPy's BLAS has counted the cores before

signatures.install("pipeline", "model", "train")
gc.disable()  # until all is imported: nothing of that is garbage, and looking takes seconds


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set with one image per person and camera; tests must not change it."""
    return _people(tmp_path_factory, images_per_camera=1)


@pytest.fixture(scope="session")
def more_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `people`, but with two images per person and camera; tests must not change it."""
    return _people(tmp_path_factory, images_per_camera=2)


def _people(tmp_path_factory: pytest.TempPathFactory, images_per_camera: int) -> Path:
    from pipeline.datasets import synthetic

    base = tmp_path_factory.getbasetemp()
    shared = base if worker < 0 else base.parent  # all test processes use one
    root = shared / f"{images_per_camera}-per-camera" / "people"
    root.parent.mkdir(exist_ok=True)
    options = synthetic.SyntheticOptions(
        num_train=10, num_val=2, num_test=6, images_per_camera=images_per_camera
    )
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            synthetic.make(root, options, workers=1)
    return root


@pytest.fixture
def hangups() -> Iterator[None]:
    """Lets SIGHUP arrive even if pytest was started by nohup, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def gpu() -> "torch.device":
    """The GPU, for tests with the marker."""
    import torch

    from train.runtime import set_up

    device = torch.device("cuda")
    set_up(device)
    return device


@pytest.fixture(autouse=True)
def _without_a_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the GPU from tests without the marker, so that they run on the CPU everywhere."""
    import torch

    if torch.cuda.is_available() and not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `cdp report` skip drawing charts, which takes a second; for tests of its words."""
    monkeypatch.setattr("train.reporting.report.png", lambda chart: b"")
    monkeypatch.setattr("train.reporting.page.svg", lambda chart: "")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Disables shape checks, which torch.compile cannot trace."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def golden() -> Iterator[Path]:
    """SYSU-MM01's official folder structure with empty files; tests must not change it."""
    from tests import trees

    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # 45,863 files
    with TemporaryDirectory(dir=in_memory) as folder:
        yield trees.sysu_mm01(Path(folder, "SYSU-MM01"))


def make_index(counts: list[tuple[int, int]], root: Path = Path("/none")) -> "Index":
    """An index without files: identity i has counts[i] = (RGB images, infrared images)."""
    from pipeline.datasets.records import Index

    pids, modality = [], []
    for pid, (num_rgb, num_ir) in enumerate(counts):
        pids += [10 * pid + 3] * (num_rgb + num_ir)
        modality += [0] * num_rgb + [1] * num_ir
    n = len(pids)
    paths = np.array([f"{i}.jpg".encode() for i in range(n)], np.bytes_)
    codes = np.array(modality, np.uint8)
    return Index(root, paths, np.array(pids, np.int64), np.where(codes == 1, 3, 1), codes)
