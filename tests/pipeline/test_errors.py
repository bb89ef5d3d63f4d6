"""Errors of the machine: memory that is full, whatever the library, and files."""

import errno

import pytest
import torch

import cdp
from pipeline.datasets.records import Index
from pipeline.errors import is_out_of_memory
from pipeline.loader import EvaluationLoader
from pipeline.options import DataOptions

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
    RuntimeError("Critical error in pipeline:\n… CUDA allocation failed\nCurrent pipeline object"),
    RuntimeError("Can't allocate 4096 bytes on device 0."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_out_of_memory_is_one_line_and_status_1(error, capsys, monkeypatch):
    def raising(args):
        raise error

    assert is_out_of_memory(error)
    with pytest.raises(SystemExit) as ended:
        cdp.guarded(raising, [])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "memory is full" in line
    assert "lower --data.p" in line


def test_other_errors_are_unchanged():
    def raising(args):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        cdp.guarded(raising, [])


def test_a_file_that_cannot_be_written_is_one_line_and_status_1(capsys):
    def on_a_full_disk(args):
        raise OSError(errno.ENOSPC, "No space left on device", "x.png")

    with pytest.raises(SystemExit) as ended:
        cdp.guarded(on_a_full_disk, [])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "cdp: x.png: No space left on device\n"


def test_no_image_is_blamed_when_memory_is_full(people, monkeypatch):
    """The decoder's own message, raised where DALI raises it."""
    from pipeline.datasets.kinds import read_training

    options = DataOptions(root=people, threads=1, eval_batch=4)
    index: Index = read_training(options, people)
    loader = EvaluationLoader(index, options, torch.device("cpu"))

    def full(*args, **kwargs):
        raise RuntimeError("CUDA allocation failed")

    monkeypatch.setattr(loader._pipeline, "run", full)
    with pytest.raises(RuntimeError, match="CUDA allocation failed"):
        list(loader)
