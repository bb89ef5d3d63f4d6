"""The user's own method file, which every command on one of its runs must name."""

import hashlib
from pathlib import Path


def load_method(method: Path | None, run_dir: Path, to_train: bool = False) -> None:
    """Imports the method file, if given; warns if it has changed since the run was trained.

    Raises `InputError` as `finding.own` does; with `to_train` also for a changed file.
    """
    from pipeline.errors import InputError
    from train import run_folder
    from train.live.display import Display
    from train.methods import finding

    if method is None:
        return
    module = finding.own(method)
    kept = run_dir / run_folder.METHOD
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() != module.SHA256:
        if to_train:
            raise InputError(
                f"{method}: has changed since the run began, so it would mix two methods; resume "
                f"with a copy of {kept}, or train a new run"
            )
        Display().note(
            f"{method} has changed since the run was trained; {kept} is the version used then"
        )
