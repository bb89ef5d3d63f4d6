"""Time spent waiting for data: the host's without a GPU, else the GPU's own."""

import time

import pytest
import torch

from train.live.clock import Clock

CPU = torch.device("cpu")


def batches(count: int, seconds: float):
    for _ in range(count):
        time.sleep(seconds)
        yield None


def test_only_waits_are_added_up():
    clock = Clock(CPU, seconds=10.0, waited=1.0)
    for _ in clock.time_waits(batches(4, 0.05)):
        time.sleep(0.02)
    assert 1.2 <= clock.waited < 1.3
    assert clock.waited == clock.waited
    assert 10.28 <= clock.seconds() < 10.5
    assert clock.wait_share() == pytest.approx(clock.waited / 10.3, rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize(("work_ms", "waits"), [(40, False), (1, True)])
def test_a_gpu_waits_only_when_it_has_nothing_to_do(work_ms, waits, gpu):
    """The host takes 10 ms for a batch; whether the GPU waits depends on its own work."""
    torch.cuda._sleep(1_000_000_000)  # until its clock rate is high
    torch.cuda.synchronize()
    start = time.perf_counter()
    torch.cuda._sleep(20_000_000)
    torch.cuda.synchronize()
    cycles_a_ms = 20_000_000 / (1000 * (time.perf_counter() - start))
    clock = Clock(gpu)
    for _ in clock.time_waits(batches(20, 0.01)):
        torch.cuda._sleep(int(work_ms * cycles_a_ms))
    torch.cuda.synchronize()
    assert (clock.wait_share() > 0.5) == waits
    assert waits or clock.wait_share() < 0.2


@pytest.mark.gpu
def test_reading_the_wait_share_does_not_wait_for_the_gpu(gpu):
    clock = Clock(gpu)
    for _ in clock.time_waits(batches(20, 0.0)):
        torch.cuda._sleep(40_000_000)  # about 20 ms
    start = time.perf_counter()
    clock.wait_share()
    assert time.perf_counter() - start < 0.05
    torch.cuda.synchronize()
