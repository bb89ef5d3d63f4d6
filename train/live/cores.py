"""How much of this process's cores other programs take, from the counters of Linux's scheduler."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.options import num_cores

NANOSECONDS = 1e-9
SHORTEST = 0.5  # seconds of all cores together; less says little
MUCH = 0.25  # share of the cores; own threads that outnumber them lose a few percent


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds up to now, summed over the process's living threads."""

    at: float  # on the wall clock
    ran: float
    waited: float  # ready to run, but no core was free


def usage() -> Usage:
    """Reads the counters; without them (other systems than Linux) nothing ever waits."""
    ran = waited = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has just ended
            on_core, in_queue, _ = map(int, file.read_text().split())
            ran, waited = ran + on_core, waited + in_queue
    return Usage(time.perf_counter(), ran * NANOSECONDS, waited * NANOSECONDS)


def share_taken(before: Usage, after: Usage, num_cores: int) -> float:
    """Returns the share of the cores' time, 0…1, that threads waited for and others had.

    Of less than `SHORTEST`, as for an epoch that was resumed after its last step, returns 0.

    A process whose own threads wait for each other keeps its cores busy, and has lost none of them.
    """
    available = (after.at - before.at) * num_cores
    if available < SHORTEST:
        return 0.0
    unused = available - (after.ran - before.ran)
    return min(1.0, max(0.0, min(after.waited - before.waited, unused)) / available)


def advice(taken: float, epoch: int, on_cpu: bool, run_dir: Path) -> str:
    """Returns one line that says what was taken in `epoch`, and what helps."""
    cores = num_cores()
    of_cores = "its only CPU core" if cores == 1 else f"its {cores} CPU cores"
    told = f"in epoch {epoch}, this run lost {100 * taken:.0f} % of {of_cores} to other programs"
    if not on_cpu:
        return f"{told}; stop them if the GPU waits for data"
    if torch.get_num_threads() == 1:
        return f"{told}; stop them, or expect training to take longer"
    threads = max(1, int(cores * (1 - taken)))
    return (
        f"{told}, which slows it down even more, because torch's threads wait for each other; "
        "stop them, or resume with fewer threads: "
        f"OMP_NUM_THREADS={threads} cdp train --resume {run_dir}"
    )
