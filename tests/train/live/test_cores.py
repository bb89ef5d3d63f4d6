import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.options import num_cores
from train.live.cores import MUCH, Usage, advice, share_taken, usage


@pytest.mark.parametrize(
    ("ran", "waited", "cores", "expected"),
    [
        (20.0, 0.0, 2, 0.0),  # alone, both cores busy
        (20.0, 15.0, 2, 0.0),  # alone, more threads than cores
        (10.0, 0.0, 2, 0.0),  # alone, one thread
        (10.0, 10.0, 2, 0.5),  # another program has one of the two cores
        (10.0, 1.0, 2, 0.05),  # one thread, which a short job displaced
        (5.0, 15.0, 1, 0.5),  # three threads on half a core
        (0.0, 0.0, 2, 0.0),  # asleep
    ],
)
def test_share_of_the_cores_that_others_took_in_ten_seconds(
    ran: float, waited: float, cores: int, expected: float
) -> None:
    before, after = Usage(100.0, 7.0, 3.0), Usage(110.0, 7.0 + ran, 3.0 + waited)
    assert share_taken(before, after, cores) == pytest.approx(expected)


def test_a_moment_says_nothing_about_others() -> None:
    assert share_taken(Usage(100.0, 7.0, 3.0), Usage(100.2, 7.0, 3.4), 2) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_second_program_on_the_same_core_takes_a_part_of_it() -> None:
    before_test = os.sched_getaffinity(0)
    core = min(before_test)
    os.sched_setaffinity(0, {core})
    # A session of its own would get a scheduling group of its own, as another user's program has.
    busy = [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: 0"]
    others = [subprocess.Popen(busy) for _ in range(3)]
    try:
        time.sleep(0.2)  # until they run
        before, end = usage(), time.perf_counter() + 0.6
        while time.perf_counter() < end:
            pass
        assert num_cores() == 1
        assert share_taken(before, usage(), 1) > MUCH
    finally:
        for other in others:
            other.kill()
            other.wait()
        os.sched_setaffinity(0, before_test)


def test_advice_names_the_threads_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    text = advice(0.5, 3, True, Path("runs/demo"))
    left = max(1, num_cores() // 2)
    of_cores = "its only CPU core" if num_cores() == 1 else f"its {num_cores()} CPU cores"
    assert text.startswith(f"in epoch 3, this run lost 50 % of {of_cores} to other programs, which")
    assert f"OMP_NUM_THREADS={left} cdp train --resume runs/demo" in text
    assert "OMP" not in advice(0.5, 3, False, Path("runs/demo"))
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert "OMP" not in advice(0.5, 3, True, Path("runs/demo"))
