"""RegDB: `{Visible,Thermal}/<id>/*.bmp`, `idx/{train,test}_{visible,thermal}_{1..10}.txt`.

Protocol (Ye et al., TPAMI 2021): ten random halves of the 412 people, each a training and a test of
its own; a line of a list is `Visible/285/male_back_v_05528_285.bmp 0`. Visible images search among
all thermal ones and the other way round; nothing is ignored, and CMC counts every image.
"""

from pathlib import Path

import numpy as np

from pipeline.datasets.lists import read_list
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial, make_index
from pipeline.datasets.rules import RULES
from pipeline.errors import InputError

NUM_TRIALS = 10
MODALITIES = {"visible": Modality.RGB, "thermal": Modality.IR}


def read_training(root: Path, trial: int) -> Index:
    """Reads a trial's training images; raises `InputError` naming a list's missing or bad line."""
    return read_part(root, "train", trial)


def read_protocol(root: Path, trial: int) -> Protocol:
    """Reads a trial's test images, searched in both directions; raises as `read_training` does."""
    index = read_part(root, "test", trial)
    visible, thermal = (np.flatnonzero(index.modality == m) for m in (Modality.RGB, Modality.IR))
    modes = (
        Mode("visible to thermal", (Trial(visible, thermal),)),
        Mode("thermal to visible", (Trial(thermal, visible),)),
    )
    protocol = Protocol(f"regdb trial {trial}", index, modes, RULES["regdb"])
    if not protocol.num_matches(modes[0].trials[0]).any():
        raise InputError(
            f"{root}/idx: test_visible_{trial}.txt and test_thermal_{trial}.txt share no identity; "
            "restore both from the same source"
        )
    return protocol


def read_part(root: Path, part: str, trial: int) -> Index:
    """The images of `part` (train, test) of a trial: the visible list, then the thermal one."""
    rows: list[tuple[str, int, int, Modality]] = []
    for camid, (name, modality) in enumerate(MODALITIES.items(), start=1):
        for path, _ in read_list(root, f"{part}_{name}_{trial}.txt"):
            # A list numbers its own people from 0; the folder's number is the person's in all.
            rows.append((path, pid_of(path, root), camid, modality))
    return make_index(root, rows)


def pid_of(path: str, root: Path) -> int:
    """The identity that a path's folder names, as 285 of `Visible/285/a.bmp`."""
    folder = Path(path).parent.name
    if not folder.isdecimal():
        raise InputError(
            f"{root}/idx: {path!r} lies in no numbered folder; expected as Visible/285/a.bmp"
        )
    return int(folder)
