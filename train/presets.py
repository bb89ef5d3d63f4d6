"""Named configurations: command, hardware, time and expected result beside each.

The paper's methods (methods.py) are presets on SYSU-MM01, and, as `regdb-…`, on RegDB.
"""

from dataclasses import dataclass

from model.options import ModelOptions
from pipeline.options import DataOptions
from train.config import Config, OptimizerOptions, changed
from train.methods import ALIASES, FIGURES, METHODS, SEARCHES


@dataclass(frozen=True, slots=True)
class Preset:
    """A configuration and what to expect of it."""

    about: str
    config: Config


PRESETS: dict[str, Preset] = {
    "demo": Preset(
        """CDP+DHSM on the embedded synthetic people, small enough for two CPU cores.

Command: cdp train demo. Hardware: two CPU cores; time: under 4 minutes, no download, no GPU.
Expected: rank-1 some 4 times chance. It trains from scratch, which is why, unlike the paper's, its
network has a BNNeck, compares by cosine and keeps its learning rate longer.""",
        Config(
            data=DataOptions(height_px=64, width_px=32, p=8, k=4),
            model=ModelOptions(backbone="resnet10t", weights="none", bnneck=True),
            optimizer=OptimizerOptions(milestones=(0.7, 0.9)),
            epochs=12,
            distance="cosine",
        ),
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
        """CDP+DHSM on LLCM, which is younger than the paper: its setting for SYSU-MM01.

Command: cdp train llcm --data.root LLCM. Hardware: one GPU; time: not measured.
No published result of CDP to compare with.""",
        Config(data=DataOptions(kind="llcm"), epochs=100),
    ),
    "table": Preset(
        """CDP+DHSM on any images, listed in a CSV of path,pid,camid,modality,split[,role].

Command: cdp train table --data.root people.csv. Hardware: one GPU; time: not measured.
Tested by Market-1501's rule: images of one pid and camera do not count.""",
        Config(data=DataOptions(kind="table"), epochs=100),
    ),
}

BASES = tuple(PRESETS)

COMMANDS = {
    "sysu": "cdp train {name} --data.root SYSU-MM01",
    "regdb": "cdp train {name} --data.root RegDB --trial all",
}


def _of_paper(name: str, method: str, base: str) -> Preset:
    """A method of the paper on the data set of a base preset."""
    paper = METHODS[method].paper
    results = [
        f"The paper's result on {words}: "
        + ", ".join(f"{f} {x}" for f, x in zip(FIGURES, paper[search], strict=True))
        for search, (kind, _, words) in SEARCHES.items()
        if kind == base and search in paper
    ]
    about = (
        METHODS[method].about,
        f"Command: {COMMANDS[base].format(name=name)}. Hardware: one GPU; time: not measured.",
        *[f"{result}." for result in results or ["The paper gives no figures of it"]],
    )
    return Preset("\n\n".join(about), changed(PRESETS[base].config, METHODS[method].changes))


PRESETS |= {name: _of_paper(name, name, "sysu") for name in METHODS}
PRESETS |= {name: _of_paper(name, method, "sysu") for name, method in ALIASES.items()}
PRESETS |= {
    f"regdb-{name}": _of_paper(f"regdb-{name}", name, "regdb") for name in ("baseline-4", "cdp")
}
