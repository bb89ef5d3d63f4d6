"""A method file of the user's own, which commands on its runs are told of anew."""

import hashlib
from pathlib import Path


def take(method: Path | None, run_dir: Path, to_train: bool = False) -> None:
    """Runs the method file, if one is named; says so if it is not what the run was trained with.

    Raises `InputError` as `finding.own` does, and for a changed file if it is to train the run.
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
                f"{method}: has changed since the run began, so this would be two methods; go on "
                f"with a copy of {kept}, or train a new run"
            )
        Display().note(
            f"{method} has changed since the run was trained; {kept} is what it was then"
        )
