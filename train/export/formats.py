"""The export formats: how each is written, and how another program would open it."""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.network import ReidNetwork
from pipeline.errors import InputError
from train.config import to_method
from train.export.network import FORMAT, Inputs, Retrieval, without_classifier
from train.methods import finding
from train.methods.base import without_weights

FormatName = Literal["safetensors", "onnx", "torchscript"]
Run = Callable[[Inputs], Tensor]
About = dict[str, Any]
ABOUT = "about"  # the one metadata entry of every format: JSON


@dataclass(frozen=True, slots=True)
class Format:
    """A file format."""

    suffix: str
    needs: tuple[str, ...]  # packages from the dependency group `export`
    write: Callable[[Retrieval, Inputs, About, Path], None]  # takes example inputs
    open: Callable[[Path], tuple[Run, About]]


def check_packages(name: FormatName) -> None:
    """Raises `InputError` if packages that the format needs are not installed."""
    missing = [package for package in FORMATS[name].needs if find_spec(package) is None]
    if missing:
        raise InputError(f"--format {name}: needs {', '.join(missing)}; uv sync --group export")


def load(file: Path | str, method: Path | None = None) -> tuple[ReidNetwork, About]:
    """Loads a .safetensors file; returns its network, in eval mode, and its metadata.

    The network's `embed` takes uint8 pixels [n, 3, H, W] and returns float32 features [n, d]. A run
    trained with your own method file needs that file as `method`. Raises `InputError` if the file
    was not written by `cdp export`.

        >>> network, about = load("model.safetensors")
    """
    if method:
        finding.own(method)
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {}).get(ABOUT, "{}"))
        tensors = safetensors.torch.load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: is not an intact .safetensors file ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{file}: is not a {FORMAT!r} file; write one with cdp export")
    try:
        height, width = about["inputs"]["images"]["shape"][2:]
        of_method, num_classes = about["method"], about["num_classes"] + 0
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: its metadata does not describe a network ({error!r}); export the run again"
        ) from error
    method_used = without_weights(to_method(of_method, str(file)))
    network = without_classifier(method_used.network(num_classes, (height, width)))
    network.load_state_dict(tensors)
    return network.eval(), about


def _write_safetensors(retrieval: Retrieval, example: Inputs, about: About, file: Path) -> None:
    tensors = {name: t.contiguous() for name, t in retrieval.network.state_dict().items()}
    # A single entry: safetensors writes several in random order, so equal runs would differ.
    content = safetensors.torch.save(tensors, metadata={ABOUT: json.dumps(about)})
    file.write_bytes(content)


def _open_safetensors(file: Path) -> tuple[Run, About]:
    network, about = load(file)
    return lambda inputs: network.embed(*inputs), about


def _write_onnx(retrieval: Retrieval, example: Inputs, about: About, file: Path) -> None:
    import onnx

    n = torch.export.Dim("n")
    with _quiet("torch.onnx"):
        program = torch.onnx.export(
            retrieval,
            example,
            dynamo=True,
            input_names=retrieval.names,
            output_names=["features"],
            dynamic_shapes=tuple({0: n} for _ in example),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # Remove the exporter's stack traces, which contain paths of this machine.
    graph = model.graph
    for parts in (graph.node, graph.value_info, graph.input, graph.output, graph.initializer):
        for part in parts:
            del part.metadata_props[:]
    del graph.metadata_props[:]
    onnx.helper.set_model_props(model, {ABOUT: json.dumps(about)})
    onnx.save_model(model, file)


def _open_onnx(file: Path) -> tuple[Run, About]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    about = json.loads(session.get_modelmeta().custom_metadata_map[ABOUT])

    def run(inputs: Inputs) -> Tensor:
        arrays = {name: t.numpy() for name, t in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(["features"], arrays)[0])

    return run, about


def _write_torchscript(retrieval: Retrieval, example: Inputs, about: About, file: Path) -> None:
    saved = io.BytesIO()
    with _quiet("torch.jit"), torch.no_grad():
        traced = torch.jit.trace(retrieval, example, check_trace=False)  # parity.py checks it
        torch.jit.save(traced, saved, _extra_files={ABOUT: json.dumps(about)})
    # Leave out the debug records, which contain paths of this machine.
    with zipfile.ZipFile(saved) as original, zipfile.ZipFile(file, "w") as kept:
        for entry in original.infolist():
            if not entry.filename.endswith((".debug_pkl", "traced_inputs.pkl")):
                kept.writestr(entry, original.read(entry))


def _open_torchscript(file: Path) -> tuple[Run, About]:
    extra = {ABOUT: ""}
    with _quiet("torch.jit"):
        module = torch.jit.load(file, map_location="cpu", _extra_files=extra)
    return lambda inputs: module(*inputs), json.loads(extra[ABOUT])


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Hides deprecation warnings and an exporter's remarks about its own code."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


FORMATS: dict[FormatName, Format] = {
    "safetensors": Format(".safetensors", (), _write_safetensors, _open_safetensors),
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx),
    "torchscript": Format(".pt", (), _write_torchscript, _open_torchscript),
}
