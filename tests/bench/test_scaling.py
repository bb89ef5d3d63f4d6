"""The model of many GPUs, by hand; the page is its output; measuring a large index."""

import dataclasses
import json
from math import inf
from pathlib import Path

import pytest

import bench
from bench import scale
from bench.cluster import (
    RATES,
    Cluster,
    Rate,
    efficiency,
    first_limit,
    gather_bytes,
    parameters,
    planning,
    ring_bytes,
    supplies,
)
from bench.scaling import FOLLOWS, number, read_rates, report
from model.network import Network
from model.options import ModelOptions
from pipeline.errors import InputError


def exactly(**values: float) -> dict[str, Rate]:
    """Rates without a range."""
    return {
        name: dataclasses.replace(rate, low=values.get(name, 1e30), high=values.get(name, 1e30))
        for name, rate in RATES.items()
    }


def test_parameters_are_the_networks():
    network = Network(ModelOptions(weights="none"), 7)
    assert sum(p.numel() for p in network.parameters()) == parameters(7)


def test_bytes_by_hand():
    assert ring_bytes(100, 1) == 0
    assert ring_bytes(100, 2) == 100
    assert ring_bytes(100, 8) == 175
    assert gather_bytes(Cluster(1, 64, 395)) == 0
    assert gather_bytes(Cluster(3, 10, 395)) == 2 * 10 * 2048 * 4


def test_supplies_by_hand():
    rates = exactly(file=1000, opens=800, disk=4e6, pcie=98304 * 50, cpu=100, cores=6)
    one, node, two = (supplies(rates, Cluster(n, 64, 395)) for n in (1, 8, 16))
    assert one["reading files, opens of a node"] == (800, 800)
    assert node["reading files, opens of a node"] == two["reading files, opens of a node"]
    assert node["reading files, opens of a node"] == (100, 100)
    assert node["reading files, bytes of a node"] == (500, 500)
    assert one["PCIe, pixels (cache in host memory)"] == (50, 50)
    assert one["PCIe, pairs (made on the CPU)"] == (25, 25)
    assert one["whole pipeline on CPU cores"] == (600, 600)


def test_all_reduce_by_hand():
    # Two GPUs send all gradients once each: at one set of gradients a second, a step a second.
    gradients = 4 * parameters(395)
    rates = exactly(nvlink=gradients, step=64)
    pair = Cluster(2, 64, 395)
    assert supplies(rates, Cluster(1, 64, 395))["all-reduce of gradients"][0] == inf
    assert supplies(rates, pair)["all-reduce of gradients"] == pytest.approx((64, 64))
    # The step takes as long; the features' bytes are a hundredth of the gradients'.
    assert efficiency(rates, pair) == pytest.approx((0.5, 0.5), rel=0.01)
    # Between nodes the slower of the two links counts.
    wide = Cluster(16, 64, 395)
    fast, slow = (
        supplies(exactly(nvlink=gradients, network=speed), wide)["all-reduce of gradients"][0]
        for speed in (1e30, gradients / 10)
    )
    assert (fast, slow) == pytest.approx((64 / 1.875, 6.4 / 1.875))


def test_the_first_limit_is_what_a_fast_step_meets():
    rates = exactly(step=1000, gpu_decode=900, opens=8 * 500, file=1)
    limits = supplies(rates, Cluster(8, 64, 395))
    assert first_limit(limits, "decode on the GPU", 0) == ("reading files, opens of a node", 500)
    assert first_limit(limits, "cache in GPU memory", 0) == ("step", 1000)


def test_planning_is_a_share_of_the_epoch():
    # 1e6 images: planned in 1 s, trained by 10 GPUs in 100 s.
    assert planning(exactly(plan=1e-6, step=1000), Cluster(10, 64, 395)) == pytest.approx(
        (0.01,) * 2
    )


def test_the_page_is_the_programs_output():
    page = Path(bench.__file__).with_name("SCALING.md").read_text()
    assert page == report(RATES) + FOLLOWS, "python -m bench.scaling > bench/SCALING.md"
    assert page.count("**assumed**") == sum(not rate.measured for rate in RATES.values())


def test_rates_measured_elsewhere_replace_assumed_ones(tmp_path):
    file = tmp_path / "r.json"
    file.write_text(json.dumps({"step": [4100, 4300, "here"]}))
    given = read_rates(file)
    assert given["step"] == Rate(4100, 4300, "originals/s a GPU", True, "here")
    assert "| step | 4.1 k … 4.3 k | originals/s a GPU | measured | here |" in report(RATES | given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stepp": [1, 2, ""]}', "stepp: unknown; there are cpu,"),
        ('{"step": [2, 1, ""]}', r"step: \[2.0, 1.0\]: expected 0 < low <= high"),
        ('{"step": 3}', r"expected \{name: \[low, high, source\]\} as JSON"),
        ("[", r"expected \{name: \[low, high, source\]\} as JSON"),
    ],
)
def test_rates_that_cannot_serve_are_named(tmp_path, text, message):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_rates(file)


def test_numbers_have_three_digits():
    some = {
        986.4: "986",
        15420.0: "15.4 k",
        2.05e6: "2.05 M",
        3e10: "30 G",
        inf: "no limit",
    }
    assert [number(value) for value in some] == list(some.values())


def test_every_part_of_a_large_index_is_measured(monkeypatch):
    monkeypatch.setattr(scale, "BATCHES", 5)
    rows = scale.measure(scale.synthetic(8000, 500), 50)
    assert all(row["seconds"] > 0 for row in rows)
    parts = scale.table(rows).splitlines()
    assert len(parts) == len(rows) + 1
    assert parts[-1].startswith("DHSM, a step, 50 classes")
