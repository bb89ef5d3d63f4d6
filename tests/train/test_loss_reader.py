"""Losses on their way to the host: nothing is lost, and reading does not wait."""

import time

import pytest
import torch

from train.loss_reader import LossReader


def test_without_a_gpu_every_loss_is_read_at_once():
    losses = torch.zeros(6, 2)
    loss_reader = LossReader(losses)
    for step in range(1, 5):
        losses[step - 1] = torch.tensor([step, -step])
        assert loss_reader.read(step).tolist() == [[i, -i] for i in range(1, step + 1)]
    assert loss_reader.wait(4).tolist() == loss_reader.read(4).tolist()


@pytest.mark.gpu
def test_on_a_gpu_reading_does_not_wait_and_waiting_loses_nothing(gpu):
    losses = torch.zeros(60, 3, device=gpu)
    loss_reader = LossReader(losses)
    torch.cuda._sleep(1_000_000)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for step in range(1, 61):
        torch.cuda._sleep(20_000_000)  # about 10 ms
        losses[step - 1] = float(step)
        if step % 20 == 0:
            assert len(loss_reader.read(step)) < step
    assert time.perf_counter() - start < 0.2
    assert loss_reader.wait(60)[:, 0].tolist() == list(range(1, 61))
