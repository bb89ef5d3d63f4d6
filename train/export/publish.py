"""Exports a run: writes a file, opens it as another program would, and compares it with the run.

The file gets its final name only if it reproduces the trained network's features.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from model.network import ReidNetwork
from pipeline.datasets.kinds import read_protocol
from pipeline.datasets.records import Modality
from pipeline.errors import InputError
from pipeline.loader import EvaluationLoader
from pipeline.options import image_size
from train import checkpoint, run_folder
from train.config import Config
from train.data import locate
from train.export.formats import FORMATS, About, FormatName, check_packages
from train.export.network import Inputs, Retrieval, describe, random_images
from train.export.parity import TOLERANCE, Parity, ParityError, compare
from train.live.display import Display

EXAMPLE = 2  # number of images to trace the network with
BATCHES = (1, 7)  # batch sizes to compare, different from EXAMPLE


def export_run(
    run_dir: Path,
    format_name: FormatName,
    display: Display,
    out: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Exports the newest checkpoint's retrieval network; returns the file.

    Raises `InputError` if the folder is not a run or has no checkpoint, packages are missing or the
    file exists, and `ParityError` if the exported file does not reproduce the run's features.
    """
    cfg = run_folder.read_config(run_dir)
    if cfg.data.trial == "all":
        raise InputError(f"{run_dir}: holds ten runs; export one, such as {run_dir}/trial-01")
    file = out or run_dir / "export" / f"model{FORMATS[format_name].suffix}"
    check_packages(format_name)
    run_folder.check_new(file, overwrite)
    weights = checkpoint.latest(run_dir)
    network = checkpoint.load(weights, cfg.method, image_size(cfg.data))
    retrieval = Retrieval(network)
    about = describe(retrieval, cfg, run_dir, weights, format_name)
    images, infrared, description = _images(cfg, sum(BATCHES), display)
    parts = zip(images.split(BATCHES), infrared.split(BATCHES), strict=True)
    batches = [retrieval.inputs(*part) for part in parts]
    display.say(f"weights   {weights}")
    run_folder.make_parent(file)
    parity = publish(
        format_name,
        retrieval,
        retrieval.inputs(random_images(EXAMPLE, cfg), torch.arange(EXAMPLE) % 2 == 1),
        about,
        network,
        batches,
        file,
    )
    display.say(
        f"parity    {description} in batches of {' and '.join(map(str, BATCHES))}, CPU, float32: "
        f"largest difference {parity.absolute:.2g}, {parity.relative:.2g} of a feature's length "
        f"(tolerance {TOLERANCE:.0e})"
    )
    display.say(f"exported  {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return file


def publish(
    format_name: FormatName,
    retrieval: Retrieval,
    example: Inputs,
    about: About,
    trained: ReidNetwork,
    batches: Sequence[Inputs],
    file: Path,
) -> Parity:
    """Writes `file` if it reproduces the features of `trained`; raises `ParityError` otherwise."""
    kind = FORMATS[format_name]
    trained.eval()
    with run_folder.replacing(file) as temporary:
        kind.write(retrieval, example, about, temporary)
        run, read_back = kind.open(temporary)
        assert read_back == about
        parity = compare(run, lambda inputs: trained.embed(*inputs), batches)
        if not parity.holds:
            raise ParityError(
                f"{file}: not written: its features differ from the trained network's by up to "
                f"{parity.relative:.2g} of their length ({parity.absolute:.2g}), more than "
                f"{TOLERANCE:.0e}; try another --format"
            )
    return parity


def _images(
    cfg: Config, num_images: int, display: Display
) -> tuple[UInt8[Tensor, "n 3 h w"], Bool[Tensor, " n"], str]:
    """Returns test images of the run, else random pixels; which are infrared; a description."""
    try:
        index = read_protocol(cfg.data, locate(cfg.data.root, display)).index
        some = index.take(np.linspace(0, len(index) - 1, num_images).astype(np.int64))
        loader = EvaluationLoader(some, cfg.data, torch.device("cpu"))
        infrared = torch.from_numpy(some.modality == Modality.IR)
        return torch.cat(list(loader)), infrared, f"{num_images} test images"
    except InputError as error:
        display.say(f"note      no test images ({error})")
        infrared = torch.arange(num_images) % 2 == 1
        return random_images(num_images, cfg), infrared, f"{num_images} images of random pixels"
