"""Which rows each table and figure of the paper consists of, and what a row's name stands for."""

from dataclasses import dataclass

from train.paper import rows
from train.paper.controls import CONTROLS
from train.paper.recipe import PARTS, of_method


@dataclass(frozen=True, slots=True)
class Experiment:
    """A table or figure: its title and rows as (label, name for `row`)."""

    title: str
    rows: tuple[tuple[str, str], ...]
    published: str = "sysu"  # the search (of SEARCHES) whose figures stand beside other data's


EXPERIMENTS = {
    "table1": Experiment(
        "Table I: other methods",
        (
            ("One-stream", "wu-one-stream"),
            ("Two-stream", "wu-two-stream"),
            ("Zero-padding", "wu-zero-padding"),
            ("TONE", "tone"),
            ("HCML", "hcml"),
            ("BDTR", "bdtr"),
            ("cmGAN", "cmgan"),
            ("D2RL", "d2rl"),
            ("D-HSME", "d-hsme"),
            ("CDP", "cdp"),
            ("CDP+DHSM", "cdp-dhsm"),
        ),
    ),
    "table2": Experiment(
        "Table II: other methods",
        (
            ("Zero-padding", "wu-zero-padding"),
            ("TONE", "tone"),
            ("HCML", "hcml"),
            ("BDTR", "bdtr"),
            ("D2RL", "d2rl"),
            ("HSME", "hsme"),
            ("D-HSME", "d-hsme"),
            ("CDP", "cdp"),
            ("CDP+DHSM", "cdp-dhsm"),
        ),
        published="regdb",
    ),
    "table3": Experiment(
        "Table III: PK sampling and losses",
        tuple((name, name) for name in ("baseline-1", "baseline-2", "baseline-3", "baseline-4")),
    ),
    "table4": Experiment(
        "Table IV: dual-subspace pairing",
        (("baseline-4", "baseline-4"), ("CDP-1", "cdp-1"), ("CDP", "cdp")),
    ),
    "table5": Experiment(
        "Table V and Fig. 8: spectra to draw from",
        (
            ("none", "baseline-4"),
            ("gray", "cdp-2"),
            ("gray R", "cdp-gray-r"),
            ("gray G", "cdp-gray-g"),
            ("gray B", "cdp-gray-b"),
            ("gray G B", "cdp-gray-gb"),
            ("gray R B", "cdp-gray-rb"),
            ("gray R G", "cdp-gray-rg"),
            ("gray R G B", "cdp"),
        ),
    ),
    "table6": Experiment(
        "Table VI: cross-spectrum image generation",
        (("CDP-2", "cdp-2"), ("CDP-3", "cdp-3"), ("CDP", "cdp")),
    ),
    "structures": Experiment(
        "Fig. 7: structures",
        (
            ("all-spectrum", "baseline-4"),
            ("cross-spectrum", "cdp"),
            ("generated-spectrum", "generated-spectrum"),
            ("intermediate-spectrum", "intermediate-spectrum"),
            ("separate-spectrum", "separate-spectrum"),
        ),
    ),
    "inputs": Experiment(
        "Fig. 5: input types",
        (
            ("zero-padding, two channels", "zero-padding"),
            ("three channels", "baseline-4"),
            ("channel expansion", "cdp"),
        ),
    ),
    "colors": Experiment(
        "Section IV-D: other color spaces",
        (
            ("CDP", "cdp"),
            ("YUV", "cdp-yuv"),
            ("HSV", "cdp-hsv"),
            ("RGB and YUV", "cdp-rgb-yuv"),
            ("RGB, gray and HSV", "cdp-rgb-hsv"),
        ),
    ),
    "dhsm": Experiment(
        "Tables I and II: Dynamic Hard Spectrum Mining",
        (("CDP", "cdp"), ("CDP+DHSM", "cdp-dhsm")),
    ),
    "science": Experiment(
        "All-spectrum, cross-spectrum, dynamic sampling and its controls",
        (
            ("baseline-4", "baseline-4"),
            ("CDP", "cdp"),
            ("CDP+DHSM", "cdp-dhsm"),
            ("P̂ fixed at DHSM's end", "dhsm-end"),
            ("easy spectra", "dhsm-easy"),
            ("α = 0.5", "dhsm-alpha-0.5"),
            ("α = 0.9", "dhsm-alpha-0.9"),
        ),
    ),
    "recipe": Experiment(
        "The field's recipe, one part at a time, and whole methods",
        (
            ("CDP+DHSM", "cdp-dhsm"),
            *((f"+ {part}", part) for part in PARTS),
            *((name, name) for name in ("agw", "caj", "cdp-strong")),
        ),
    ),
}


def row(name: str) -> rows.Row:
    """Returns a row of the paper, a control, a part of the recipe, or a method, by name."""
    known = rows.ROWS | CONTROLS | PARTS
    return known[name] if name in known else of_method(name)
