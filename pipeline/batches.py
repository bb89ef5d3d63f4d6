"""Runs a graph until its source ends, and always leaves it ready for the next epoch."""

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

MAX_AHEAD = 32  # batches that the host may run ahead of its GPU: 400 MB at the paper's size


@runtime_checkable
class Source(Protocol):
    """Feeds a graph; `in_flight` has the rows of batches DALI has taken but nobody received."""

    index: Index
    read: Reader
    in_flight: deque[Int64[ndarray, " n"]]

    def stop(self) -> None:
        """Ends after the batches already in flight."""

    def skip(self, error: BadImageError) -> bool:
        """Replaces a bad image and stops; returns False if the run must end instead."""

    def rewind(self) -> None:
        """After `skip`: continues from the first batch in flight."""


def device_id(device: torch.device) -> int | None:
    """Returns DALI's id of a device: the GPU's number, None for the CPU."""
    return (device.index or 0) if device.type == "cuda" else None


def run(
    pipeline: Any, source: Source, device: torch.device
) -> Iterator[tuple[Int64[ndarray, " n"], list[Tensor]]]:
    """Like `run_raw`, but yields the outputs as torch tensors, without copying them."""
    batches = run_raw(pipeline, source, device)
    try:
        for rows, outputs in batches:
            yield rows, [torch.from_dlpack(output.as_tensor()) for output in outputs]
    finally:
        batches.close()


def run_raw(
    pipeline: Any, source: Source, device: torch.device
) -> Generator[tuple[Int64[ndarray, " n"], tuple[Any, ...]], None, None]:
    """Yields each batch's rows and DALI outputs; cleans up even if the caller stops early.

    On a GPU a batch stays valid for all work that is queued on the current stream before the next
    batch is requested. Raises `InputError` naming the first file in flight that cannot be decoded.
    """
    # DALI makes the caller's stream wait for a batch, but reuses its memory as soon as we drop it,
    # even if that stream has yet to read it; so we keep it until the stream has.
    unfinished: deque[tuple[torch.cuda.Event, Any]] = deque()
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
                cause = _blame(source, error, device)
                if not (isinstance(cause, BadImageError) and source.skip(cause)):
                    raise cause from error
                _drain(pipeline)
                source.rewind()
                continue
            yield source.in_flight.popleft(), outputs
            if stream:
                unfinished.append((stream.record_event(), outputs))
                if len(unfinished) > MAX_AHEAD:
                    unfinished[0][0].synchronize()
                while unfinished and unfinished[0][0].query():
                    unfinished.popleft()
    finally:
        source.stop()
        if stream:
            with suppress(RuntimeError):  # the GPU has failed, and has raised before
                stream.synchronize()
        _drain(pipeline)


def _drain(pipeline: Any) -> None:
    """Discards the batches in flight, so that the next epoch starts with its own."""
    for _ in range(pipeline.prefetch_queue_depth + 2):  # a broken pipeline raises forever
        try:
            pipeline.run()
        except StopIteration:
            break
        except RuntimeError:
            continue
        except AttributeError:  # the garbage collector got to the pipeline first
            return
    pipeline.reset()


def _blame(source: Source, error: RuntimeError, device: torch.device) -> Exception:
    """Returns the error to raise for a failed run, naming the bad file.

    Whether a file is bad must not depend on its neighbours, so DALI decodes each file of the failed
    batch alone; only if it can read them all is PIL asked. If the GPU itself has failed, no file is
    blamed.
    """
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            return RuntimeError(f"DALI failed, and so has the GPU: {error}")
    if source.in_flight:
        found = _first_undecodable(source, np.unique(source.in_flight[0]), device)
        if found:
            row, message = found
            flaw = why_undecodable(source.index.image(row))
            text = flaw.text if flaw else f"the decoder cannot read it ({message})"
            return BadImageError(source.index.path(row), row, text)
    for rows in source.in_flight:
        for row in np.unique(rows):
            flaw = why_undecodable(source.index.image(row))
            if flaw:
                return BadImageError(source.index.path(row), int(row), flaw.text)
    return RuntimeError(f"DALI failed, although every image of the batch is readable: {error}")


def _first_undecodable(
    source: Source, rows: Int64[ndarray, " n"], device: torch.device
) -> tuple[int, str] | None:
    """Returns the first row that DALI cannot decode on its own, and DALI's message."""
    from pipeline.graph import evaluation_graph

    single = EvaluationSource(source.index, batch=1, range_16bit=source.read.range_16bit)
    single.begin(rows)
    packed = single.read.gives_bytes
    pipeline = evaluation_graph(
        single, DataOptions(), device_id(device), threads=1, batch_size=1, packed=packed
    )
    for row in rows:
        try:
            pipeline.run()
        except BadImageError as error:
            return error.row, error.reason
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return int(row), _message(error)
    return None


def _message(error: RuntimeError) -> str:
    """Returns DALI's message on one line, without the names of operators and source files."""
    message = str(error).rpartition("encountered:")[2].partition("Current pipeline object")[0]
    return " ".join(message.split())[:200]
