"""Runs a built graph to the end of its source, and leaves it clean whatever happens."""

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

from pipeline.datasets.records import Index
from pipeline.errors import BadImageError, is_out_of_memory
from pipeline.guard import why_undecodable
from pipeline.options import DataOptions
from pipeline.reader import Reader
from pipeline.source import EvaluationSource

FARTHEST_AHEAD = 32  # batches that a host may be ahead of its GPU: 400 MB of the paper's


@runtime_checkable
class Source(Protocol):
    """What feeds a graph: knows the rows of the batches that DALI took and nobody received."""

    index: Index
    read: Reader
    in_flight: deque[Int64[ndarray, " n"]]

    def stop(self) -> None:
        """Ends after the batches already in flight."""

    def skip(self, error: BadImageError) -> bool:
        """Takes another image for a bad one and stops; False: the run must end."""

    def go_back(self) -> None:
        """After `skip`: goes on with the first batch in flight."""


def device_id(device: torch.device) -> int | None:
    """DALI's name of a device: the GPU's number, None for the CPU."""
    return (device.index or 0) if device.type == "cuda" else None


def run(
    pipeline: Any, source: Source, device: torch.device
) -> Iterator[tuple[Int64[ndarray, " n"], list[Tensor]]]:
    """Yields each batch's rows and outputs, as torch tensors without a copy; else as `run_raw`."""
    batches = run_raw(pipeline, source, device)
    try:
        for rows, outputs in batches:
            yield rows, [torch.from_dlpack(output.as_tensor()) for output in outputs]
    finally:
        batches.close()


def run_raw(
    pipeline: Any, source: Source, device: torch.device
) -> Generator[tuple[Int64[ndarray, " n"], tuple[Any, ...]], None, None]:
    """Yields each batch's rows and outputs as DALI has them; cleans up when abandoned half-way.

    On a GPU, what the caller queues on its current stream before it asks for the next batch finds
    this one whole. Raises `InputError` naming the first file in flight that cannot be decoded.
    """
    # DALI makes the caller's stream wait for a batch, but reuses its memory as soon as it is
    # dropped, also while that stream is behind; so it is kept until the stream has passed.
    unread: deque[tuple[torch.cuda.Event, Any]] = deque()
    stream = None
    try:
        while True:
            stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
            try:
                outputs = pipeline.run(stream)
            except StopIteration:
                break
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                blamed = _blame(source, error, device)
                if not (isinstance(blamed, BadImageError) and source.skip(blamed)):
                    raise blamed from error
                _drain(pipeline)
                source.go_back()
                continue
            yield source.in_flight.popleft(), outputs
            if stream:
                unread.append((stream.record_event(), outputs))
                if len(unread) > FARTHEST_AHEAD:
                    unread[0][0].synchronize()
                while unread and unread[0][0].query():
                    unread.popleft()
    finally:
        source.stop()
        if stream:
            with suppress(RuntimeError):  # of a GPU that has failed; what it said came before
                stream.synchronize()
        _drain(pipeline)


def _drain(pipeline: Any) -> None:
    """Takes what is in flight, good or bad, so that the next epoch starts with its own batches."""
    for _ in range(pipeline.prefetch_queue_depth + 2):  # a broken pipeline raises for ever
        try:
            pipeline.run()
        except StopIteration:
            break
        except RuntimeError:
            continue
        except AttributeError:  # the garbage collector finalised the pipeline first: nothing to do
            return
    pipeline.reset()


def _blame(source: Source, error: RuntimeError, device: torch.device) -> Exception:
    """The error to raise for a failed run, naming the file.

    Whether a file is bad must not depend on its neighbours, so the decoder itself is asked, file by
    file; only if it reads all of the batch that failed, PIL is. No file is blamed for a GPU that
    has failed.
    """
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            return RuntimeError(f"DALI failed, and so has the GPU: {error}")
    if source.in_flight:
        found = _first_undecodable(source, np.unique(source.in_flight[0]), device)
        if found:
            row, words = found
            flaw = why_undecodable(source.index.image(row))
            text = flaw.text if flaw else f"the decoder cannot read it ({words})"
            return BadImageError(source.index.path(row), row, text)
    for rows in source.in_flight:
        for row in np.unique(rows):
            flaw = why_undecodable(source.index.image(row))
            if flaw:
                return BadImageError(source.index.path(row), int(row), flaw.text)
    return RuntimeError(f"DALI failed, and every image of the batch is readable: {error}")


def _first_undecodable(
    source: Source, rows: Int64[ndarray, " n"], device: torch.device
) -> tuple[int, str] | None:
    """The first row that DALI cannot decode by itself, and what it says of it."""
    from pipeline.graph import evaluation_graph

    alone = EvaluationSource(source.index, batch=1, range_16bit=source.read.range_16bit)
    alone.begin(rows)
    packed = alone.read.gives_bytes
    pipeline = evaluation_graph(
        alone, DataOptions(), device_id(device), threads=1, batch_size=1, packed=packed
    )
    for row in rows:
        try:
            pipeline.run()
        except BadImageError as error:
            return error.row, error.reason
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return int(row), _words(error)
    return None


def _words(error: RuntimeError) -> str:
    """What DALI's message says, in a line, without the names of operators and code."""
    said = str(error).rpartition("encountered:")[2].partition("Current pipeline object")[0]
    return " ".join(said.split())[:200]
