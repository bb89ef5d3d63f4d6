"""A model of 1 to 64 GPUs: what each resource could feed or carry, and which runs out first.

Every rate is a range with a source; what nobody measured says so. An original is one of PK; with
its counterpart it is two of the images that the network sees.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path

GPUS = (1, 8, 16, 32, 64)
GPUS_A_NODE = 8
ORIGINALS = 64  # P 16 x K 4
WIDTH = 2048  # numbers of a feature
PIXELS = 256 * 128 * 3  # bytes of an original, resized
FLOAT = 4  # bytes
SUITE = Path(__file__).parent / "results" / "cpu-2-cores" / "all.json"


@dataclass(frozen=True, slots=True)
class Rate:
    """A range and where it comes from. A range of supply bounds the answer from both sides."""

    low: float
    high: float
    unit: str
    measured: bool
    source: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """How many GPUs train together, on what."""

    gpus: int
    originals: int  # of a GPU, a step
    classes: int


Range = tuple[float, float]


def suite_rates(file: Path = SUITE) -> dict[str, Rate]:
    """What `cdp bench all` measured on CPU cores."""
    suite = json.loads(file.read_text())
    sides = {c["bench"]: c["sides"] for c in suite["comparisons"]}
    where = "`cdp bench all`, `results/cpu-2-cores/all.json`: "

    def cores(bench: str, side: str, what: str) -> Rate:
        # CPU time of an image, and a pair is two.
        spent = sides[bench][side]["cpu_us"]
        most, least = (1e6 / (2 * spent[key]) for key in ("p5", "p95"))
        return Rate(least, most, "originals/s a core", True, where + what)

    size = suite["data"]["mean_file_bytes"]
    return {
        "cpu": cores("loader, cache", "streaming", "loader, streaming, 256x128, CPU time"),
        "read": cores("stages, pipeline, truncated", "… read", "stages, read, CPU time"),
        "file": Rate(size, size, "bytes a file", True, where + "synthetic crops, mean"),
    }


def parameters(classes: int) -> int:
    """Of ResNet-50 and its classifier."""
    return BACKBONE + (WIDTH + 1) * classes


BACKBONE = 23_508_032  # held against timm by a test

RATES = suite_rates() | {
    "step": Rate(
        2000,
        5350,
        "originals/s a GPU",
        False,
        "4,000 (eager AMP) to 10,700 (MLPerf record class) images/s at 256x128, scaled by area "
        "from published H100 figures at 224",
    ),
    "gpu_decode": Rate(
        9500,
        19000,
        "originals/s a GPU",
        False,
        "NVIDIA's gate for DALI on Hopper, 19,000 images/s with 70 CPU threads for one GPU; half "
        "of it as the low end, for a node of eight seldom has 560 threads",
    ),
    "cores": Rate(8, 24, "cores a GPU", False, "64 to 192 cores in a node of eight"),
    "pcie": Rate(20e9, 50e9, "bytes/s a GPU", False, "PCIe 4 x16 to 5 x16, less protocol"),
    "disk": Rate(2e9, 10e9, "bytes/s a node", False, "one to several NVMe drives, or a mount"),
    "opens": Rate(5e3, 100e3, "files/s a node", False, "a network file system to local NVMe, cold"),
    "nvlink": Rate(150e9, 360e9, "bytes/s a GPU", False, "NVLink 4 in a ring, 450e9 at most"),
    "plan": Rate(
        6.5e-8,
        1.6e-7,
        "s an image",
        True,
        "`python -m bench.scale`, 10 M images of 1 M people, one core; `NOTES.md`",
    ),
    "network": Rate(
        10e9, 340e9, "bytes/s a node", False, "100 Gb/s to eight times 400 Gb/s, less protocol"
    ),
}


def ring_bytes(size: float, gpus: int) -> float:
    """What each GPU sends in a ring all-reduce of `size` bytes."""
    return 2 * (gpus - 1) / gpus * size


def gather_bytes(cluster: Cluster) -> float:
    """Features received, float32, for a triplet over all ranks; no gradient is sent back."""
    return (cluster.gpus - 1) * cluster.originals * WIDTH * FLOAT


def supplies(rates: Mapping[str, Rate], cluster: Cluster) -> dict[str, Range]:
    """The originals/s of each GPU that each resource allows, (low, high).

    Communication counts as if it ran wholly behind the computation.
    """
    on_node = min(cluster.gpus, GPUS_A_NODE)
    # A ring leaves each node once, whatever the GPUs in it, and has the node's network for itself.
    links = ["nvlink"] if cluster.gpus <= GPUS_A_NODE else ["nvlink", "network"]
    link = [min(getattr(rates[name], end) for name in links) for end in ("low", "high")]

    def span(name: str, factor: float) -> Range:
        return rates[name].low * factor, rates[name].high * factor

    def of_cores(name: str) -> Range:
        low, high = span(name, 1)
        return low * rates["cores"].low, high * rates["cores"].high

    def carried(size: float) -> Range:
        steps = cluster.originals / size if size else inf
        return link[0] * steps, link[1] * steps

    gradients = FLOAT * parameters(cluster.classes)
    size = rates["file"].high
    return {
        "step": span("step", 1),
        "decode on the GPU": span("gpu_decode", 1),
        "whole pipeline on CPU cores": of_cores("cpu"),
        "reading files, CPU cores": of_cores("read"),
        "reading files, opens of a node": span("opens", 1 / on_node),
        "reading files, bytes of a node": span("disk", 1 / (on_node * size)),
        "PCIe, JPEG bytes": span("pcie", 1 / size),
        "PCIe, pixels (cache in host memory)": span("pcie", 1 / PIXELS),
        "PCIe, pairs (made on the CPU)": span("pcie", 1 / (2 * PIXELS)),
        "all-reduce of gradients": carried(ring_bytes(gradients, cluster.gpus)),
        "gather of features": carried(gather_bytes(cluster)),
    }


def efficiency(rates: Mapping[str, Rate], cluster: Cluster) -> Range:
    """Step time alone / step time with communication, nothing hidden behind computation.

    Low: a fast step on a slow link; high: a slow step on a fast link.
    """
    limits = supplies(rates, cluster)
    low, high = (
        1 / sum(1 / limits[name][end] for name in ("all-reduce of gradients", "gather of features"))
        if cluster.gpus > 1
        else inf
        for end in (0, 1)
    )
    slow, fast = limits["step"]
    return 1 / (1 + fast / low), 1 / (1 + slow / high)


def planning(rates: Mapping[str, Rate], cluster: Cluster) -> Range:
    """Time to plan an epoch / time to train it, whatever its length: every rank plans all of it."""
    plan, step = rates["plan"], rates["step"]
    return plan.low * step.low * cluster.gpus, plan.high * step.high * cluster.gpus


# What a run needs at once, by where its pixels come from.
WAYS = {
    "decode on the GPU": (
        "decode on the GPU",
        "reading files, CPU cores",
        "reading files, opens of a node",
        "reading files, bytes of a node",
        "PCIe, JPEG bytes",
    ),
    "pipeline on the CPU": (
        "whole pipeline on CPU cores",
        "reading files, opens of a node",
        "reading files, bytes of a node",
        "PCIe, pairs (made on the CPU)",
    ),
    "cache in host memory": ("PCIe, pixels (cache in host memory)",),
    "cache in GPU memory": (),
}
TRAINING = ("step", "all-reduce of gradients", "gather of features")


def first_limit(limits: Mapping[str, Range], way: str, end: int) -> tuple[str, float]:
    """What holds a fast step up, everything else at its low (0) or high (1) end: name, originals/s.

    The name is "step" where nothing does.
    """
    limits = {**limits, "step": (limits["step"][1],) * 2}
    names = (*TRAINING, *WAYS[way])
    name = min(names, key=lambda name: limits[name][end])
    return name, limits[name][end]
