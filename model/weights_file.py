"""A file with weights: its tensors, read without running code that it may hold."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

Tensors = dict[str, Tensor]

# Where training programs put a network's tensors in what they save, the first that is there.
NESTS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "student")
BACKBONE = "backbone."  # before a backbone's tensors in our networks
STEMS = "enter."  # before those of stems, which may be all there is of a backbone
CHECKPOINT = "network."  # before a network's tensors in a run's checkpoint


class WeightsError(ValueError):
    """Why a file's tensors are not the network's."""


def read(file: Path) -> tuple[Tensors, str]:
    """The tensors of a .safetensors or .pth file, and where they come from, in words.

    Raises `WeightsError` if the file is damaged, or holds more than tensors in nested dicts.
    """
    try:
        if file.suffix == ".safetensors":
            return _of_network(safetensors.torch.load_file(file)), str(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of formats that are refused below
            content = torch.load(file, map_location="cpu", weights_only=True)
        tensors, path = _innermost(content)
        others = [p for p, n in _sizes(content) if p != path and 2 * n > len(tensors)]
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise WeightsError(_why_unreadable(error)) from error
    return tensors, f"{file}; {one_of_several(path, others)}" if others else str(file)


def one_of_several(taken: str, others: list[str]) -> str:
    """Says which of a file's networks is taken, by what stands before their tensors' names."""
    taken, *others = (name.strip(".") or "the one without a prefix" for name in (taken, *others))
    return f"of the networks in the file {taken} is taken, not {', '.join(others)}"


def _of_network(tensors: Tensors) -> Tensors:
    """Of a run's checkpoint the network, without the state of its training; others as they are."""
    parts = tuple(CHECKPOINT + part for part in (BACKBONE, STEMS))
    if not any(name.startswith(parts) for name in tensors):
        return tensors
    inside = {name: tensor for name, tensor in tensors.items() if name.startswith(CHECKPOINT)}
    return {name.removeprefix(CHECKPOINT): tensor for name, tensor in inside.items()}


def _innermost(content: Any) -> tuple[Tensors, str]:
    """The first network's tensors in nested dicts, and the keys that lead to them."""
    path: list[str] = []
    for _ in range(len(NESTS)):
        if not isinstance(content, Mapping):
            break
        nest = next((k for k in NESTS if isinstance(content.get(k), Mapping)), None)
        if nest is None:
            tensors = {str(name): t for name, t in content.items() if isinstance(t, Tensor)}
            return tensors, ".".join(path)
        path.append(nest)
        content = content[nest]
    raise WeightsError("it holds no state_dict")


def _sizes(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Of every dict in nested dicts the keys that lead to it, and its number of tensors."""
    if isinstance(content, Mapping):
        yield ".".join(path), sum(isinstance(value, Tensor) for value in content.values())
        for key, inner in content.items():
            yield from _sizes(inner, (*path, str(key)))


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    if "Unsupported global" in text:
        return (
            "it holds Python objects beside tensors, which could run code; save the network's "
            "state_dict() alone"
        )
    if "TorchScript" in text:
        return "it is a TorchScript program; export the run as safetensors"
    if isinstance(error, OSError | SafetensorError):
        return text.splitlines()[0][:200]
    return "it is no file that torch.save wrote"
