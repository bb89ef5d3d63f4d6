"""What a trace says about idle time."""

import pytest

from bench.trace import Event, idle


def test_idle_time_is_time_without_a_kernel():
    """Two streams overlap from 5 to 10; the gap from 12 to 20 is during a wait for data."""
    events = [
        Event("kernel", "conv", "7", 0, 10),
        Event("user_annotation", "wait for data", "1", 11, 19),
        Event("kernel", "decode", "8", 5, 12),
        Event("gpu_memcpy", "copy", "7", 20, 24),
        Event("kernel", "add", "7", 25, 30),
        Event("cpu_op", "aten::add", "1", 0, 30),
    ]
    found = idle(sorted(events, key=lambda event: event.start))
    assert found["device"] == "GPU"
    assert found["busy"] == pytest.approx(21 / 30)
    assert found["idle_ms"] == pytest.approx(0.009)
    longest = found["gaps"][0]
    assert (longest["us"], longest["after"], longest["before"]) == (8, "decode", "copy")
    assert longest["host"] == {"wait for data": 7}
    assert idle([])["busy"] is None
