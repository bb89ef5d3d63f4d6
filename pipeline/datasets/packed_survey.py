"""What a packed data set holds: its files against their checksums, its index against the tars."""

import os
import tarfile
from functools import partial
from pathlib import Path

from pipeline.datasets.findings import Survey
from pipeline.datasets.members import member_name
from pipeline.datasets.packed import ABOUT, MEND, About, check_sizes, read_about, read_index
from pipeline.datasets.packing import sha256
from pipeline.datasets.records import Index, Modality
from pipeline.datasets.survey import attempt, find_leaks, find_missing_modality

Found = dict[tuple[str, str], tuple[int, int]]  # (shard, name): offset and length, by the headers


def survey_packed(root: Path) -> Survey:
    """Every file's checksum, every tar header, and the people of each view."""
    survey = Survey(root)
    about = read_about(root)
    for name, expected in about["files"].items():
        alone = partial(check_sizes, root, {"files": {name: expected}})
        attempt(survey, "damaged pack", alone)
        if not survey.faults and sha256(root / name) != expected["sha256"]:
            survey.fault("damaged pack", name, f"is not what {ABOUT} says (SHA-256); {MEND}")
    if survey.faults:
        return survey  # what it says of itself means nothing
    found: Found = {}
    for name in about["shards"]:
        with tarfile.open(root / name, "r:") as shard:
            found |= {(name, m.name): (m.offset_data, m.size) for m in shard}
    views = [view for view in _views(about) if view not in about["left_out"]]
    indices = {view: read_index(root, about, view) for view in views}
    for view, index in indices.items():
        _compare(survey, view, index, found)
    _count(survey, about, indices)
    return survey


def _views(about: About) -> list[str]:
    """The views by name; those of one trial follow each other."""
    names = {name.split("/")[1] for name in about["files"] if name.startswith("index/")}
    return sorted(names | set(about["left_out"]))


def _compare(survey: Survey, view: str, index: Index, found: Found) -> None:
    """Notes rows of which the tar headers tell otherwise, and images to look at."""
    members = index.members
    assert members
    for row, path in enumerate(index.paths):
        key = members.files[members.shard[row]].name, member_name(os.fsdecode(bytes(path)))
        name = ":".join(key)
        if found.get(key) != (members.offset[row], members.length[row]):
            text = f"{view}: the index tells of another place than the tar file; {MEND}"
            survey.fault("bad index", name, text)
            continue
        survey.files.add(name)
        survey.contents[name] = members.content(row)


def _count(survey: Survey, about: About, indices: dict[str, Index]) -> None:
    """Images of each view, people of one modality, and those in training and test."""
    for view, index in indices.items():
        rgb = int((index.modality == Modality.RGB).sum())
        found = {f"RGB images, {view}": rgb, f"infrared images, {view}": len(index) - rgb}
        survey.count(found, {})
        if not view.startswith("test"):
            find_missing_modality(survey, index, index.pids.tolist(), f"{view}: identity {{}}")
            test = indices.get(view.replace(view.partition("-")[0], "test", 1))
            if test is not None:
                parts = {"train": index.pids.tolist(), "test": test.pids.tolist()}
                find_leaks(survey, parts, f"{view}: ")
    survey.count({"images": len(survey.files)}, {"images": about["num_images"]})
