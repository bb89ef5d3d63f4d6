"""`SCALING.md`: the model of `bench.cluster` as tables.

python -m bench.scaling > bench/SCALING.md
python -m bench.scaling --rates RATES.json     with rates that were measured on the spot

RATES.json: {"step": [4100, 4300, "cdp bench step, results/h200/all.json"], …}: [low, high, source]
for any name in `bench.cluster.RATES`, in its unit.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path

from bench.cluster import (
    FLOAT,
    GPUS,
    ORIGINALS,
    PIXELS,
    RATES,
    WAYS,
    Cluster,
    Range,
    Rate,
    efficiency,
    first_limit,
    gather_bytes,
    parameters,
    planning,
    ring_bytes,
    supplies,
)
from pipeline.errors import InputError


def read_rates(file: Path) -> dict[str, Rate]:
    """Rates measured elsewhere; raises `InputError` naming the entry that cannot serve."""
    try:
        given = json.loads(file.read_text())
        rows = {
            name: (float(low), float(high), str(source))
            for name, (low, high, source) in given.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"--rates {file}: {error}; expected {{name: [low, high, source]}} as JSON"
        ) from error
    for name, (low, high, _) in rows.items():
        if name not in RATES:
            raise InputError(f"--rates {file}: {name}: unknown; there are {', '.join(RATES)}")
        if not 0 < low <= high:
            raise InputError(f"--rates {file}: {name}: [{low}, {high}]: expected 0 < low <= high")
    return {
        name: Rate(low, high, RATES[name].unit, True, source)
        for name, (low, high, source) in rows.items()
    }


def number(value: float) -> str:
    """Three digits: 986, 15.4 k, 2.05 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}" if value < inf else "no limit"
    return f"{value:.3g}"


def span(values: Range, form: Callable[[float], str] = number) -> str:
    """As "low … high", or one figure where they are equal."""
    low, high = map(form, values)
    return low if low == high else f"{low} … {high}"


def percent(value: float) -> str:
    """Of a fraction, with two digits, or three."""
    return f"{100 * value:.{2 if value < 0.1 else 3}g} %"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(rates: Mapping[str, Rate]) -> str:
    """`SCALING.md`."""
    weak = {n: Cluster(n, ORIGINALS, CLASSES) for n in GPUS}
    limits = {n: supplies(rates, cluster) for n, cluster in weak.items()}
    names = list(next(iter(limits.values())))
    counts = [f"{n} GPU{'s' * (n > 1)}" for n in GPUS]
    supply = [[name, *(span(limits[n][name]) for n in GPUS)] for name in names]
    first = [
        [
            f"{way}, {('slow', 'fast')[end]} end",
            *(
                f"{name}, {number(rate)}"
                for name, rate in (first_limit(limits[n], way, end) for n in GPUS)
            ),
        ]
        for way in WAYS
        for end in (0, 1)
    ]
    batches = (
        (f"{ORIGINALS} originals a GPU", dict.fromkeys(GPUS, ORIGINALS)),
        (f"{ORIGINALS} originals in all", {n: ORIGINALS // n for n in GPUS}),
    )
    exposed = [
        [label, *(span(efficiency(rates, Cluster(n, each[n], CLASSES)), percent) for n in GPUS)]
        for label, each in batches
    ]
    heads = [
        [
            f"{classes:,}",
            number(FLOAT * parameters(classes)),
            *(
                span(supplies(rates, Cluster(n, ORIGINALS, classes))["all-reduce of gradients"])
                for n in GPUS[1:]
            ),
        ]
        for classes in (CLASSES, 10_000, 100_000, 1_000_000)
    ]
    sources = [
        [
            name,
            span((rate.low, rate.high), lambda v: f"{v:.2g}" if v < 1 else number(v)),
            rate.unit,
            "measured" if rate.measured else "**assumed**",
            rate.source,
        ]
        for name, rate in rates.items()
    ]
    return TEXT.format(
        sources=markdown(["rate", "range", "unit", "", "source"], sources),
        supply=markdown(["originals/s a GPU", *counts], supply),
        first=markdown(["pixels from", *counts], first),
        exposed=markdown(["batch", *counts], exposed),
        heads=markdown(["classes", "gradient bytes", *counts[1:]], heads),
        planning=markdown(
            ["", *counts],
            [["planning / training", *(span(planning(rates, weak[n]), percent) for n in GPUS)]],
        ),
        parameters=f"{parameters(CLASSES):,}",
        gradients=number(FLOAT * parameters(CLASSES)),
        sent=number(ring_bytes(FLOAT * parameters(CLASSES), 64)),
        gathered=number(gather_bytes(weak[64])),
        pixels=f"{PIXELS:,}",
        classes=CLASSES,
        originals=ORIGINALS,
    )


CLASSES = 395  # SYSU-MM01, train and val

TEXT = """# A model of scaling to 64 GPUs

Output of `python -m bench.scaling`; `--rates FILE.json` puts measured rates in place of assumed
ones. **No figure here was measured on a GPU, or on more than one machine.** Where a row rests on an
assumed rate, so does its answer: read it as what to measure first, not as a forecast.

## Rates

{sources}

Bytes are counted: an original is {pixels} bytes of pixels, 256 x 128 x 3, and its pair twice
that; ResNet-50 with {classes} classes has {parameters} parameters, whose float32 gradients are
{gradients} bytes; in a ring all-reduce each of n GPUs sends 2(n-1)/n of them ({sent} of 64). The
triplet over all ranks gathers float32 features of 2,048 numbers; each rank has the whole loss, and
the gradient of its own features, so none is sent back ({gathered} bytes a GPU of 64). Nodes have
eight GPUs. An original is decoded once for its pair (measured: 0.50 decodes an emitted image).

## What each resource allows

{originals} originals a GPU and step, SYSU-MM01's {classes} classes; communication counts as if
wholly hidden behind computation. What ends below the step's range holds the GPU up.

{supply}

## What runs out first

For a GPU as fast as the step's range ends, everything else at the slow and at the fast end of its
range; "step" means that the GPU is never held up.

{first}

## Communication that is not hidden

Step time alone, as a share of step time and communication one after the other. {originals}
originals a GPU want `--data.p` to grow with the GPUs; {originals} originals in all are the paper's
batch, cut into equal parts.

{exposed}

## Many identities

The classifier grows with the identities, and its gradients with it. Originals/s a GPU that the
all-reduce allows:

{heads}

## Planning

Every rank plans the whole epoch and trains only its share of it, so the share of time that goes
into planning grows with the GPUs, whatever the number of images:

{planning}
"""

FOLLOWS = """
## What follows

- In a node with decoding on the GPUs, opening files is what may hold the GPUs up: eight fast ones
  ask for 43,000 files a second. A cold network file system does not give them; the page cache,
  packed shards, or the pixel cache do. One core reads 8,400 to 14,000 warm files a second
  (measured).
- With the whole pipeline on the CPU a fast GPU asks for five to seven cores as fast as the measured
  one; eight are enough.
- PCIe is far from a limit in every way of loading, even for pairs made on the CPU.
- From two nodes on, with 100 Gb/s a node, the all-reduce is the first bottleneck behind a loader
  that keeps up, whether it is hidden behind computation or not; with 400 Gb/s and more for each
  GPU it stays hidden. bf16 gradients would halve it, larger batches hide it. Latency, which small
  batches feel, is not in the model.
- The paper's batch cut into equal parts loses half of the speed by 64 GPUs even on the fastest
  links, and nearly all of it on slow ones: use more originals.
- The gathered features are a small part of the traffic. Their distances grow with the square of
  the GPUs: of 64, 4,096 x 4,096, 69 GFLOP in float32 a step if each rank computes all of them.
- At 10,000 identities the classifier is half of the gradients. At 1 M it is all of them, and 33 GB
  of weights, gradients and Adam's state on each GPU: it has to be split over them, or sampled.
- From some 32 GPUs on the next epoch should be planned while the running one trains.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=Path)
    options = parser.parse_args()
    try:
        given = read_rates(options.rates) if options.rates else {}
    except InputError as error:
        parser.error(str(error))
    print(report(RATES | given) + ("" if given else FOLLOWS), end="")


if __name__ == "__main__":
    main()
