"""The paper's methods as data: what each changes of CDP+DHSM, and the figures the paper gives it.

Figures are rank-1, rank-10, rank-20 and mAP in percent. A method without figures has none in the
paper.
"""

from dataclasses import dataclass, field
from typing import Any

FIGURES = ("rank1", "rank10", "rank20", "mAP")
Figures = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Method:
    """What a method is, how it differs from CDP+DHSM, and what the paper measured."""

    about: str
    changes: dict[str, Any]  # option → value
    paper: dict[str, Figures] = field(default_factory=dict)  # a key of SEARCHES → figures


# How the paper searched: (kind of data set, which mode of its protocol), in words.
SEARCHES = {
    "sysu": ("sysu", 0, "SYSU-MM01, all-search single-shot"),
    "regdb": ("regdb", 0, "RegDB, visible to thermal"),
    "regdb-thermal": ("regdb", 1, "RegDB, thermal to visible"),
}

FIXED: dict[str, Any] = {"dhsm.enabled": False}
ALONE: dict[str, Any] = {"data.spectra": (), "dhsm.enabled": False}  # originals alone


def _spectra(*names: str) -> dict[str, Any]:
    return {"data.spectra": names, "dhsm.enabled": False}


METHODS: dict[str, Method] = {
    # Table III
    "baseline-1": Method(
        "No counterparts, no PK sampling, cross-entropy only (Table III).",
        ALONE | {"data.sampling": "shuffle", "loss.triplet": False},
        {"sysu": (16.6, 56.1, 72.2, 18.6)},
    ),
    "baseline-2": Method(
        "No counterparts; PK sampling, cross-entropy only (Table III).",
        ALONE | {"loss.triplet": False},
        {"sysu": (25.3, 71.9, 84.5, 27.2)},
    ),
    "baseline-3": Method(
        "No counterparts; PK sampling, triplet loss only (Table III).",
        ALONE | {"loss.classification": False},
        {"sysu": (14.1, 59.3, 76.8, 19.3)},
    ),
    "baseline-4": Method(
        "No counterparts; PK sampling, both losses (Tables III-V): the all-spectrum structure of "
        "Fig. 7a, with the three-channel input of Fig. 5b.",
        ALONE,
        {"sysu": (29.1, 74.9, 87.7, 31.2)},
    ),
    # Tables I, II, IV
    "cdp-1": Method(
        "CDP without the triplet loss (Table IV).",
        FIXED | {"loss.triplet": False},
        {"sysu": (32.2, 80.2, 90.9, 33.3)},
    ),
    "cdp": Method(
        "CDP, every spectrum equally likely (Tables I, II, IV-VI): the cross-spectrum structure of "
        "Fig. 7b, with the channel expansion of Fig. 5c.",
        FIXED,
        {
            "sysu": (36.2, 81.0, 92.1, 37.5),
            "regdb": (63.8, 83.4, 90.0, 61.9),
            "regdb-thermal": (64.4, 84.5, 90.8, 61.5),
        },
    ),
    "cdp-dhsm": Method(
        "CDP with Dynamic Hard Spectrum Mining (Tables I, II).",
        {},
        {
            "sysu": (38.0, 82.3, 91.7, 38.4),
            "regdb": (65.0, 83.5, 89.6, 62.7),
            "regdb-thermal": (65.3, 84.5, 91.0, 62.1),
        },
    ),
    # Tables V, VI
    "cdp-2": Method(
        "CDP, gray counterparts only (Tables V, VI).",
        _spectra("X"),
        {"sysu": (33.2, 80.1, 90.9, 35.2)},
    ),
    "cdp-3": Method(
        "CDP, counterparts in red, green or blue (Table VI).",
        _spectra("R", "G", "B"),
        {"sysu": (34.9, 81.6, 92.0, 36.9)},
    ),
    "cdp-gray-r": Method(
        "CDP, counterparts in gray or red (Table V).",
        _spectra("R", "X"),
        {"sysu": (33.5, 81.5, 91.9, 35.7)},
    ),
    "cdp-gray-g": Method(
        "CDP, counterparts in gray or green (Table V).",
        _spectra("G", "X"),
        {"sysu": (33.9, 82.0, 92.4, 36.3)},
    ),
    "cdp-gray-b": Method(
        "CDP, counterparts in gray or blue (Table V).",
        _spectra("B", "X"),
        {"sysu": (35.2, 81.2, 91.7, 36.5)},
    ),
    "cdp-gray-gb": Method(
        "CDP, counterparts in gray, green or blue (Table V).",
        _spectra("G", "B", "X"),
        {"sysu": (34.8, 80.5, 91.6, 36.8)},
    ),
    "cdp-gray-rb": Method(
        "CDP, counterparts in gray, red or blue (Table V).",
        _spectra("R", "B", "X"),
        {"sysu": (35.8, 80.8, 91.4, 37.2)},
    ),
    "cdp-gray-rg": Method(
        "CDP, counterparts in gray, red or green (Table V).",
        _spectra("R", "G", "X"),
        {"sysu": (35.4, 82.4, 92.1, 37.0)},
    ),
    # Fig. 5, Fig. 7: the paper describes these without figures of its own.
    "zero-padding": Method(
        "Originals alone, zero-padded to two channels, gray and infrared (Fig. 5a).",
        ALONE | {"model.structure": "zero-padding-2"},
    ),
    "separate-spectrum": Method(
        "Originals alone, zero-padded to four channels, RGB and infrared (Fig. 7e).",
        ALONE | {"model.structure": "zero-padding-4"},
    ),
    "intermediate-spectrum": Method(
        "Originals alone, a first stage for each modality, the rest shared (Fig. 7d).",
        ALONE | {"model.structure": "two-stems"},
    ),
    # Section IV-D: "all these experiments end up with no convergence".
    "cdp-yuv": Method(
        "CDP, counterparts in Y, U or V; the paper's did not converge (IV-D).",
        _spectra("X", "U", "V"),
    ),
    "cdp-hsv": Method(
        "CDP, counterparts in hue, saturation or value; the paper's did not converge (IV-D).",
        _spectra("hue", "saturation", "value"),
    ),
    "cdp-rgb-yuv": Method(
        "CDP, counterparts in R, G, B, Y, U or V; the paper's did not converge (IV-D).",
        _spectra("R", "G", "B", "X", "U", "V"),
    ),
    "cdp-rgb-hsv": Method(
        "CDP, counterparts in R, G, B, gray, hue, saturation or value; the paper's did not "
        "converge (IV-D).",
        _spectra("R", "G", "B", "X", "hue", "saturation", "value"),
    ),
}

# The paper's other names for some of them.
ALIASES = {
    "all-spectrum": "baseline-4",
    "cross-spectrum": "cdp",
    "three-channel": "baseline-4",
    "channel-expansion": "cdp",
}
