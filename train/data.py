"""Finds the data set of a run; makes the embedded one when none is named."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from pipeline.datasets import synthetic
from train.reporting.display import Display


def locate(root: Path | None, display: Display) -> Path:
    """`root`, or the embedded synthetic set, made under runs/ on first use."""
    if root is not None:
        return root
    options = synthetic.SyntheticOptions()
    recipe = json.dumps([synthetic.VERSION, asdict(options)])
    embedded = Path("runs", f"embedded-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}")
    if not (embedded / "synthetic.json").is_file():
        make(embedded, options, display)
    return embedded


def make(root: Path, options: synthetic.SyntheticOptions, display: Display) -> None:
    """Writes a synthetic set, with a progress bar."""
    display.say(f"writing synthetic RGB-infrared people to {root}")
    with display.progress("images") as progress:
        num_images = synthetic.make(root, options, on_progress=progress)
    display.say(f"{num_images} images")
