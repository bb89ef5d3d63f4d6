"""RegDB: `{Visible,Thermal}/<id>/*.bmp`, `idx/{train,test}_{visible,thermal}_{1..10}.txt`.

Protocol (Ye et al., TPAMI 2021): ten random splits of the 412 people into equal halves for training
and test; a line of a list is `Visible/285/male_back_v_05528_285.bmp 0`. Visible images search among
all thermal ones and vice versa; nothing is ignored, and CMC counts every image.

Each trial lists every image, for training or test, so folders and lists can be compared.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from pipeline.datasets.findings import Findings
from pipeline.datasets.layout import Kind
from pipeline.datasets.lists import (
    find_leaks,
    find_missing_files,
    find_missing_modality,
    list_folders,
    list_images,
    number_of,
    read_list,
)
from pipeline.datasets.records import Index, Modality, Mode, Protocol, Trial, make_index
from pipeline.datasets.rules import RULES
from pipeline.options import DataOptions
from pipeline.options import Trial as TrialNumber

NUM_TRIALS = 10
MODALITIES = {"visible": Modality.RGB, "thermal": Modality.IR}
PARTS = ("train", "test")
FOLDERS = {"visible": "Visible", "thermal": "Thermal"}
COUNTS = {"identities": 412, "visible images": 4120, "thermal images": 4120}
NUM_LISTED = 2060  # images of 206 identities


def read_training(root: Path, options: DataOptions, found: Findings) -> Index:
    """Reads a trial's training images."""
    assert options.trial != "all"
    index = read_part(root, "train", options.trial, found)
    if found.has_only("missing file"):
        where = f"{root / list_of('train', '*', options.trial)}, identity {{}}"
        find_missing_modality(found, index, where, is_fault=options.sampling == "balanced")
        test = read_part(root, "test", options.trial, Findings(root))  # if it is there
        _find_unlisted(root, options.trial, (index, test), index.pids.tolist(), found)
    return index


def read_protocol(root: Path, options: DataOptions, found: Findings) -> Protocol | None:
    """Reads a trial's test images, which are searched in both directions."""
    assert options.trial != "all"
    trial = options.trial
    files = [root / list_of("test", name, trial) for name in MODALITIES]
    if not any(file.exists() for file in files) and _has_lists(root, "train", trial):
        text = (
            "missing, and so is the thermal list: enough to train on, but not to test; restore both"
        )
        found.fault("no test", files[0], text)
        return None
    index = read_part(root, "test", trial, found)
    where = f"{root / list_of('test', '*', trial)}, identity {{}}"
    training_faults = Findings(root)  # faults in the training lists do not matter for the test
    training = read_part(root, "train", trial, training_faults)
    if found.has_only("missing file"):
        find_missing_modality(found, index, where, is_fault=True)
        find_leaks(found, training.pids.tolist(), index.pids.tolist(), where)
        people = None if training_faults.has_only("missing file") else index.pids.tolist()
        _find_unlisted(root, trial, (training, index), people, found)
    if found.faults:
        return None
    visible, thermal = (np.flatnonzero(index.modality == m) for m in (Modality.RGB, Modality.IR))
    modes = (
        Mode("visible to thermal", (Trial(visible, thermal),)),
        Mode("thermal to visible", (Trial(thermal, visible),)),
    )
    return Protocol(f"regdb trial {trial}", index, modes, RULES["regdb"])


def survey(root: Path, options: DataOptions, found: Findings) -> None:
    """Checks the forty lists and their images; reports trials without any list once."""
    trials = range(1, NUM_TRIALS + 1)
    listed = [t for t in trials if any(_has_lists(root, part, t) for part in PARTS)]
    pids: dict[Modality, set[int]] = {modality: set() for modality in Modality}
    for trial in listed or [1]:
        of_trial = replace(options, trial=cast(TrialNumber, trial))
        training, test = Findings(root), Findings(root)
        read_training(root, of_trial, training)
        read_protocol(root, of_trial, test)
        found.merge(training)
        found.merge(test)
        for part in PARTS:
            index = read_part(root, part, trial, Findings(root))
            found.add_images(index)
            for name, modality in MODALITIES.items():
                mask = index.modality == modality
                pids[modality] |= set(index.pids[mask].tolist())
                if 0 < mask.sum() != NUM_LISTED:
                    what = f"images of {part}_{name}_{trial}.txt"
                    found.counts[what] = (int(mask.sum()), NUM_LISTED)
    _report_once(root, [t for t in trials if t not in listed], bool(listed), found)
    numbers = {"identities": len(pids[Modality.RGB] | pids[Modality.IR])}
    for name, folder in FOLDERS.items():
        numbers[f"{name} images"] = sum(file.startswith(f"{folder}/") for file in found.files)
    found.count(numbers, COUNTS)


def _report_once(root: Path, unlisted: list[int], some_listed: bool, found: Findings) -> None:
    """Records one warning for all trials without lists, one fault for those without test lists."""
    if unlisted and some_listed:
        text = f"has no lists for trial {', '.join(map(str, unlisted))}: these cannot be trained"
        found.warn("missing list", root / "idx", text)
    untested = [fault for fault in found.faults if fault.kind == "no test"]
    if len(untested) > 1:
        found.faults = [fault for fault in found.faults if fault.kind != "no test"]
        text = (
            f"has no test lists for {len(untested)} trials: enough to train on, but not to test; "
            "restore them"
        )
        found.fault("no test", root / "idx", text)


def list_of(part: str, name: str, trial: int) -> str:
    """Returns the path of the list for `part` (train, test) and `name` (visible, thermal)."""
    return f"idx/{part}_{name}_{trial}.txt"


def read_part(root: Path, part: str, trial: int, found: Findings) -> Index:
    """Reads a trial's images of `part` (train, test): the visible list, then the thermal one."""
    rows: list[tuple[str, int, int, Modality]] = []
    for camid, (name, modality) in enumerate(MODALITIES.items(), start=1):
        file = list_of(part, name, trial)
        (other,) = set(FOLDERS.values()) - {FOLDERS[name]}
        for number, path, _ in read_list(root, os.path.basename(file), found):
            # Each list numbers its people from 0; the folder's number is the same in all lists.
            folders = path.split("/")[:-1]
            pid = number_of(folders[-1]) if folders else None
            where = f"{root / file}, line {number}"
            if pid is None:
                text = f"{path!r} has no numbered folder; expected e.g. {FOLDERS[name]}/285/a.bmp"
                found.fault("bad list", where, text)
            elif other in folders:
                text = f"{path} is not a {name} image; restore the list"
                found.fault("other modality", where, text)
            else:
                rows.append((path, pid, camid, modality))
    index = make_index(root, rows)
    find_missing_files(found, index, [list_of(part, name, trial) for name in MODALITIES])
    return index


def _has_lists(root: Path, part: str, trial: int) -> bool:
    return any((root / list_of(part, name, trial)).exists() for name in MODALITIES)


def _find_unlisted(
    root: Path, trial: int, indices: tuple[Index, ...], people: list[int] | None, found: Findings
) -> None:
    """Records images that no index has, in the folders of these people (None: of all)."""
    listed = {name for index in indices for name in index.names()}
    pids = None if people is None else set(people)
    prefix = os.path.join(os.path.abspath(root), "")
    for folder in FOLDERS.values():
        for name in list_folders(root, folder):
            if pids is not None and number_of(name) not in pids:
                continue
            for path in list_images(root, f"{folder}/{name}", found):
                if prefix + path not in listed:
                    text = f"is in no list of trial {trial}; remove it, or restore the lists"
                    found.fault("extra file", root / path, text)


KIND = Kind(
    "RegDB: Visible, Thermal, idx/{train,test}_{visible,thermal}_{1…10}.txt",
    ("Visible", "Thermal", "idx"),
    read_training,
    read_protocol,
    survey,
    num_trials=NUM_TRIALS,
)
