"""Named configurations, each with its command, hardware, time and expected result.

A preset is CDP+DHSM in a data set's setting. For other methods, which work with any data set, see
`find_preset`.
"""

import dataclasses
import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from model.options import LossOptions, ModelOptions
from pipeline.datasets.kinds import KINDS, kind_of, original_kind
from pipeline.errors import InputError
from pipeline.options import DataOptions, KindName
from train.config import Config, with_data, with_method
from train.methods import finding
from train.methods.base import Method
from train.optimizer import OptimizerOptions
from train.paper.rows import ALIASES, FIGURES, ROWS, SEARCHES, Setting, as_it_is


@dataclass(frozen=True, slots=True)
class Preset:
    """A configuration and what to expect from it."""

    about: str
    config: Config


SMALL = Config(
    data=DataOptions(height_px=64, width_px=32, p=8, k=4),
    method=Method(
        model=ModelOptions(backbone="test_resnet", weights="none", bnneck=True),
        optimizer=OptimizerOptions(milestones=(0.7, 0.9)),
    ),
    epochs=12,
    distance="cosine",
)

PRESETS: dict[str, Preset] = {
    "demo": Preset(
        """CDP+DHSM on the embedded synthetic people, small enough for two CPU cores.

Command: cdp train demo. Hardware: two CPU cores; time: under 4 minutes, no download, no GPU.
Expected: rank-1 about 8 times chance. It is preset small with AGW's triplet loss, which learns more
in a short training, and four more epochs.""",
        with_method(
            dataclasses.replace(SMALL, epochs=16), loss=LossOptions(triplet_kind="weighted")
        ),
    ),
    "small": Preset(
        """CDP+DHSM with the paper's losses on the embedded people; where experiments start.

Command: cdp train small. Hardware: two CPU cores; time: under 4 minutes, no download, no GPU.
Expected: rank-1 about 6 times chance. Because it trains from scratch, its network, unlike the
paper's, is tiny, has a BNNeck, compares by cosine, and keeps its learning rate longer.""",
        SMALL,
    ),
    "sysu": Preset(
        """CDP+DHSM on SYSU-MM01 as the paper trains it: ResNet-50, 256x128, P 16, K 4, 200 epochs.

Command: cdp train sysu --data.root SYSU-MM01. Hardware: one GPU; time: not measured.
The paper's result, all-search single-shot: R1 38.0, R10 82.3, R20 91.7, mAP 38.4.""",
        Config(data=DataOptions(kind="sysu")),
    ),
    "regdb": Preset(
        """CDP+DHSM on RegDB as the paper trains it: ResNet-50, 256x128, P 16, K 4, 100 epochs.

Command: cdp train regdb --data.root RegDB --trial all. Hardware: one GPU; time: not measured.
The paper's result: visible to thermal R1 65.0, mAP 62.7; thermal to visible R1 65.3, mAP 62.1.""",
        Config(data=DataOptions(kind="regdb"), epochs=100),
    ),
    "llcm": Preset(
        """CDP+DHSM on LLCM, newer than the paper, with the paper's setting for SYSU-MM01.

Command: cdp train llcm --data.root LLCM. Hardware: one GPU; time: not measured.
There is no published result of CDP to compare with.""",
        Config(data=DataOptions(kind="llcm"), epochs=100),
    ),
    "table": Preset(
        """CDP+DHSM on any images, listed in a CSV of path,pid,camid,modality,split[,role].

Command: cdp train table --data.root people.csv. Hardware: one GPU; time: not measured.
Tested by Market-1501's rule: gallery images with the query's pid and camera are ignored.""",
        Config(data=DataOptions(kind="table"), epochs=100),
    ),
}


def preset_groups() -> dict[str, list[str]]:
    """Returns all names that `cdp train` accepts, by what they are."""
    rows = [*ROWS, *ALIASES]
    return {"presets": [*PRESETS], "rows of the paper's tables": rows, "methods": finding.names()}


def find_preset(name: str, root: Path | None = None, kind: str | None = None) -> Preset:
    """Returns the preset of this name, or a method (a name or a file) in a data set's setting.

    The preset of the data set in `root`, or of SYSU-MM01 without one, provides a method's epochs
    and other options. Raises `InputError` for an unknown name, or if `root` holds no data set.
    """
    if name in PRESETS:
        return PRESETS[name]
    known: KindName = kind if kind in KINDS else "auto"
    data_set = original_kind(root, kind_of(root, known)) if root else "sysu"
    base = with_data(PRESETS[data_set].config, kind="auto")
    if name.endswith(".py"):
        return _of_module(finding.own(Path(name)), base)
    if name in ROWS or name in ALIASES:
        return _of_paper(name, data_set, base)
    if name in finding.names():
        return _of_module(finding.named(name), base)
    others = [other for group in preset_groups().values() for other in group]
    near = "".join(f" (did you mean {other}?)" for other in get_close_matches(name, others, 1))
    raise InputError(
        f"train: no preset {name!r}{near}; there are {', '.join(PRESETS)}, the paper's rows and "
        "other methods (`cdp train` lists them all), or pass the path of your own method file, "
        "ending in .py"
    )


def _of_module(module: ModuleType, base: Config) -> Preset:
    """Returns a method file's METHOD in its setting, if it has one."""
    setting: Setting = getattr(module, "setting", as_it_is)
    config = setting(dataclasses.replace(base, method=module.METHOD))
    return Preset(inspect.cleandoc(module.__doc__ or ""), config)


def _of_paper(name: str, data_set: str, base: Config) -> Preset:
    """Returns a row of the paper with the figures published for it."""
    row = ROWS[ALIASES.get(name, name)]
    results = [
        f"The paper's result on {words}: "
        + ", ".join(f"{f} {x}" for f, x in zip(FIGURES, row.paper[search], strict=True))
        for search, (kind, _, words) in SEARCHES.items()
        if kind == data_set and search in row.paper
    ]
    about = (
        row.about,
        f"Command: cdp train {name} --data.root DIR. Hardware: one GPU; time: not measured.",
        *[f"{result}." for result in results or ["The paper gives no figures for it"]],
    )
    return Preset("\n\n".join(about), row.setting(base))
