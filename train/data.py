"""What the commands do with data sets: locate, make, check and pack them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pipeline.check import check as check_data_set
from pipeline.datasets import packing, synthetic
from pipeline.datasets.kinds import KINDS, original_kind, read_protocol
from pipeline.datasets.records import Protocol
from pipeline.errors import InputError, naming
from pipeline.options import DataOptions, KindName
from train.config import Config
from train.live.display import Display, counted


def locate(root: Path | None, display: Display) -> Path:
    """Returns `root`, or the embedded synthetic set, which is made under runs/ on first use."""
    if root is not None:
        return root
    options = synthetic.SyntheticOptions()
    recipe = json.dumps([synthetic.VERSION, asdict(options)])
    embedded = Path("runs", f"embedded-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}")
    if not synthetic.recipe(embedded):
        make(embedded, options, display)
    return embedded


def read_test(
    cfg: Config, root: Path, resume: bool = False, note: Callable[[str], None] = lambda text: None
) -> Protocol | None:
    """Returns the run's test protocol, or None without a test; `InputError` if it cannot be read.

    Passes remarks for the user to `note`.
    """
    if not cfg.test:
        return None
    try:
        return read_protocol(cfg.data, root, note)
    except InputError as error:
        if resume:
            raise
        raise InputError(f"{error}; or pass --no-test to train without a test") from error


def name_of_training(options: DataOptions, root: Path) -> str:
    """Returns the name of the data that a run without a test saw, in the form of protocol names."""
    kind = original_kind(root, options.kind)
    return f"{kind} trial {options.trial}" if KINDS[kind].num_trials > 1 else kind


def make(root: Path, options: synthetic.SyntheticOptions, display: Display) -> None:
    """Writes a synthetic set, with a progress bar."""
    display.say(f"writing synthetic RGB-infrared people to {root}")
    with display.progress("images") as progress, naming(root):
        num_images = synthetic.make(root, options, on_progress=progress)
    display.say(f"{num_images} images")


def pack(
    root: Path, out: Path, kind: KindName, shard_mib: int, stand_in: bool, display: Display
) -> None:
    """Writes the data set as tar shards, with a progress bar."""
    with display.progress("images") as progress:
        done = packing.pack(root, out, kind, shard_mib, stand_in, progress)
    display.say(
        f"{done.num_images} images of {root} ({done.kind}), {done.num_bytes / 2**20:.1f} MiB in "
        f"{done.num_shards} shards: {out}"
    )
    for view, reason in done.left_out.items():
        display.say(f"note      without {view}: {reason}")


def check(root: Path, kind: KindName, display: Display) -> None:
    """Shows what a data set holds; raises `InputError` if it has faults."""
    with display.progress("images") as progress:
        kind, found = check_data_set(root, kind, progress)
    display.say(f"{root}: {KINDS[kind].layout}")
    display.say(f"opened {len(found.files)} images")
    display.findings(found)
    if found.faults:
        raise InputError(
            f"{root}: {counted(len(found.faults), 'fault')} ({', '.join(found.by_kind())}); "
            "fix and check again"
        )
    display.say("no faults")
