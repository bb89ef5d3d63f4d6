"""The paper's rows: how each differs from CDP+DHSM, and the figures that the paper reports.

Figures are rank-1, rank-10, rank-20 and mAP in percent. Rows without figures have none in the
paper.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from model.options import StructureName
from train.config import Config, with_data, with_method
from train.methods import d2rl

FIGURES = ("rank1", "rank10", "rank20", "mAP")
Figures = tuple[float, float, float, float]
Setting = Callable[[Config], Config]


@dataclass(frozen=True, slots=True)
class Row:
    """What a row is, how it differs from CDP+DHSM, and what the paper measured."""

    about: str
    setting: Setting
    paper: dict[str, Figures] = field(default_factory=dict)  # a key of SEARCHES → figures
    first_stage: str | None = None  # the row that is its first stage


# The paper's searches: (kind of data set, mode of its protocol, description).
SEARCHES = {
    "sysu": ("sysu", 0, "SYSU-MM01, all-search single-shot"),
    "regdb": ("regdb", 0, "RegDB, visible to thermal"),
    "regdb-thermal": ("regdb", 1, "RegDB, thermal to visible"),
}


def as_it_is(config: Config) -> Config:
    """Changes nothing: CDP+DHSM itself."""
    return config


def options(part: str, **changes: Any) -> Setting:
    """Changes options of a part of the method: model, augmentation, loss, dhsm or optimizer."""

    def setting(config: Config) -> Config:
        changed = dataclasses.replace(getattr(config.method, part), **changes)
        return with_method(config, **{part: changed})

    return setting


def fixed(config: Config) -> Config:
    """Switches DHSM off: all spectra are equally likely."""
    return options("dhsm", enabled=False, start=())(config)


def dynamic(config: Config) -> Config:
    """Switches DHSM on, as the paper describes it."""
    return options("dhsm", enabled=True, prefer="hard", start=())(config)


def spectra(*names: str) -> Setting:
    """Makes counterparts in these spectra, all equally likely; none: originals only."""
    return lambda config: with_data(fixed(config), spectra=names)


def structure(name: StructureName) -> Setting:
    """Uses originals only, in another structure of Fig. 7."""
    return all_of(alone, options("model", structure=name))


def generated(config: Config) -> Config:
    """Uses originals only, and D2RL's translator and stages with the options of the method."""
    own = {f.name: getattr(config.method, f.name) for f in dataclasses.fields(config.method)}
    method = d2rl.D2rl(**own, translator=d2rl.fitting(config))
    epochs = max(config.epochs, len(method.stages))
    changed = dataclasses.replace(config, method=method, epochs=epochs)
    return options("model", structure=d2rl.STRUCTURE)(changed)


def shuffled(config: Config) -> Config:
    """Draws batches of images regardless of identity, instead of P x K."""
    return with_data(config, sampling="shuffle")


def all_of(*settings: Setting) -> Setting:
    """Applies several settings in order."""
    return lambda config: reduce(lambda changed, setting: setting(changed), settings, config)


alone = spectra()


ROWS: dict[str, Row] = {
    # Table III
    "baseline-1": Row(
        "No counterparts, no PK sampling, cross-entropy only (Table III).",
        all_of(alone, shuffled, options("loss", triplet=False)),
        {"sysu": (16.6, 56.1, 72.2, 18.6)},
    ),
    "baseline-2": Row(
        "No counterparts; PK sampling, cross-entropy only (Table III).",
        all_of(alone, options("loss", triplet=False)),
        {"sysu": (25.3, 71.9, 84.5, 27.2)},
    ),
    "baseline-3": Row(
        "No counterparts; PK sampling, triplet loss only (Table III).",
        all_of(alone, options("loss", classification=False)),
        {"sysu": (14.1, 59.3, 76.8, 19.3)},
    ),
    "baseline-4": Row(
        "No counterparts; PK sampling, both losses (Tables III-V): the all-spectrum structure of "
        "Fig. 7a, with the three-channel input of Fig. 5b.",
        alone,
        {"sysu": (29.1, 74.9, 87.7, 31.2)},
    ),
    # Tables I, II, IV
    "cdp-1": Row(
        "CDP without the triplet loss (Table IV).",
        all_of(fixed, options("loss", triplet=False)),
        {"sysu": (32.2, 80.2, 90.9, 33.3)},
    ),
    "cdp": Row(
        "CDP, every spectrum equally likely (Tables I, II, IV-VI): the cross-spectrum structure of "
        "Fig. 7b, with the channel expansion of Fig. 5c.",
        fixed,
        {
            "sysu": (36.2, 81.0, 92.1, 37.5),
            "regdb": (63.8, 83.4, 90.0, 61.9),
            "regdb-thermal": (64.4, 84.5, 90.8, 61.5),
        },
    ),
    "cdp-dhsm": Row(
        "CDP with Dynamic Hard Spectrum Mining (Tables I, II).",
        dynamic,
        {
            "sysu": (38.0, 82.3, 91.7, 38.4),
            "regdb": (65.0, 83.5, 89.6, 62.7),
            "regdb-thermal": (65.3, 84.5, 91.0, 62.1),
        },
    ),
    # Tables V, VI
    "cdp-2": Row(
        "CDP, gray counterparts only (Tables V, VI).",
        spectra("X"),
        {"sysu": (33.2, 80.1, 90.9, 35.2)},
    ),
    "cdp-3": Row(
        "CDP, counterparts in red, green or blue (Table VI).",
        spectra("R", "G", "B"),
        {"sysu": (34.9, 81.6, 92.0, 36.9)},
    ),
    "cdp-gray-r": Row(
        "CDP, counterparts in gray or red (Table V).",
        spectra("R", "X"),
        {"sysu": (33.5, 81.5, 91.9, 35.7)},
    ),
    "cdp-gray-g": Row(
        "CDP, counterparts in gray or green (Table V).",
        spectra("G", "X"),
        {"sysu": (33.9, 82.0, 92.4, 36.3)},
    ),
    "cdp-gray-b": Row(
        "CDP, counterparts in gray or blue (Table V).",
        spectra("B", "X"),
        {"sysu": (35.2, 81.2, 91.7, 36.5)},
    ),
    "cdp-gray-gb": Row(
        "CDP, counterparts in gray, green or blue (Table V).",
        spectra("G", "B", "X"),
        {"sysu": (34.8, 80.5, 91.6, 36.8)},
    ),
    "cdp-gray-rb": Row(
        "CDP, counterparts in gray, red or blue (Table V).",
        spectra("R", "B", "X"),
        {"sysu": (35.8, 80.8, 91.4, 37.2)},
    ),
    "cdp-gray-rg": Row(
        "CDP, counterparts in gray, red or green (Table V).",
        spectra("R", "G", "X"),
        {"sysu": (35.4, 82.4, 92.1, 37.0)},
    ),
    # Fig. 5, Fig. 7: the paper describes these without figures of its own.
    "zero-padding": Row(
        "Originals alone, zero-padded to two channels, gray and infrared (Fig. 5a).",
        structure("zero-padding-2"),
    ),
    "generated-spectrum": Row(
        "Originals alone in four channels, RGB and infrared; D2RL's translator makes those that an "
        "image lacks (Fig. 7c).",
        all_of(alone, generated),
    ),
    "separate-spectrum": Row(
        "Originals alone, zero-padded to four channels, RGB and infrared (Fig. 7e).",
        structure("zero-padding-4"),
    ),
    "intermediate-spectrum": Row(
        "Originals alone, a first stage for each modality, the rest shared (Fig. 7d).",
        structure("two-stems"),
    ),
    # Section IV-D: "all these experiments end up with no convergence".
    "cdp-yuv": Row(
        "CDP, counterparts in Y, U or V; the paper's did not converge (IV-D).",
        spectra("X", "U", "V"),
    ),
    "cdp-hsv": Row(
        "CDP, counterparts in hue, saturation or value; the paper's did not converge (IV-D).",
        spectra("hue", "saturation", "value"),
    ),
    "cdp-rgb-yuv": Row(
        "CDP, counterparts in R, G, B, Y, U or V; the paper's did not converge (IV-D).",
        spectra("R", "G", "B", "X", "U", "V"),
    ),
    "cdp-rgb-hsv": Row(
        "CDP, counterparts in R, G, B, gray, hue, saturation or value; the paper's did not "
        "converge (IV-D).",
        spectra("R", "G", "B", "X", "hue", "saturation", "value"),
    ),
}

# The paper's other names for some of them.
ALIASES = {
    "all-spectrum": "baseline-4",
    "cross-spectrum": "cdp",
    "three-channel": "baseline-4",
    "channel-expansion": "cdp",
}
