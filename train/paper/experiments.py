"""The paper's tables as experiments: each row is trained once per seed, in its own run folder.

Tables share the runs of common rows, and finished runs are never repeated, so an interrupted
experiment continues where it stopped. A method whose first stage is another row continues that
row's finished run, which gives what training both stages gives, bit for bit on a CPU.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets import synthetic
from pipeline.datasets.kinds import kind_of, original_kind
from pipeline.errors import InputError
from pipeline.options import KindName
from train import run_folder
from train.config import Config, flat, with_data
from train.data import locate
from train.distributed import find_world
from train.divergence import DivergedError
from train.live.display import Display
from train.loop import train
from train.paper import tables
from train.paper.contents import EXPERIMENTS, Experiment, row
from train.paper.rows import SEARCHES
from train.paper.tables import Row
from train.runs import describe
from train.stages import lengths
from train.trials import continue_trials, resume, train_trials

QUICK: dict[str, Any] = {"epochs": 2, "eval_every": 0, "checkpoint_every": 0}


@dataclass(frozen=True, slots=True)
class Run:
    """One training of a row."""

    label: str
    method: str
    cfg: Config
    folder: Path
    first_stage: "Run | None" = None  # of the row that is its first stage, on the same seed

    @property
    def is_finished(self) -> bool:
        """Whether the run has a result, of its last epoch."""
        return describe(self.folder).state == "finished"

    @property
    def is_done(self) -> bool:
        """Whether the run is finished, or it or one of its trials had to stop."""
        return describe(self.folder).state in ("finished", "diverged", "collapsed")

    def outcome(self, mode: int) -> dict[str, Any] | None:
        """Returns the result in one mode, with seed and training seconds; None if it diverged.

        The seconds are those of all its stages, also of one that another row's run trained.
        The figures of collapsed features are chance, and would look like the row's own in a table.
        """
        if not self.is_finished:
            return None
        folders = [f.parent for f in self.folder.rglob(run_folder.METRICS)]
        events = [event for folder in folders for event in run_folder.read_metrics(folder)]
        epochs = [event for event in events if event["event"] == "epoch"]
        seconds = sum(event["seconds"] + event.get("finish_seconds", 0) for event in epochs)
        result = run_folder.read_result(self.folder)
        assert result, "the file exists"
        if "collapse" in result:
            return None
        return result["modes"][mode] | {"seed": self.cfg.seed, "seconds": seconds}


def run_experiment(
    name: str,
    base: Config,
    seeds: int,
    out: Path | None,
    quick: bool,
    display: Display,
    only: tuple[str, ...] = (),
) -> None:
    """Trains the experiment's missing rows and writes its tables and picture to `out`.

    `base` is CDP+DHSM on the given data; each row modifies it. `only` names the rows to train; an
    empty one means all. Raises `InputError` if a run folder in `out` was made with other options,
    and, after all other rows, if a row cannot be trained.
    """
    if find_world().size > 1:
        raise InputError(
            "cdp experiment: not supported under torchrun; train its rows as presets instead"
        )
    if not base.test:
        raise InputError("cdp experiment: needs test figures for its tables; leave --no-test out")
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: must be at least 1")
    experiment = _only(EXPERIMENTS[name], only)
    root = locate(base.data.root, display).absolute()
    kind = kind_of(root, base.data.kind)
    base = with_data(dataclasses.replace(base, **(QUICK if quick else {})), root=root, kind=kind)
    out = out or Path("runs", f"experiments{'-quick' if quick else ''}-{root.name}")
    runs = list(_runs(experiment, base, seeds, out))
    for run in runs:
        _check_same(run)
    refused: dict[str, str] = {}  # rows that cannot be trained like this, and why
    for i, run in enumerate(runs, start=1):
        heading = f"[{i}/{len(runs)}] {run.label}, seed {run.cfg.seed}"
        if run.is_done:
            display.say(f"{heading}: done, {run.folder}")
            continue
        if run.label in refused:
            continue
        display.say(f"\n{heading}: {row(run.method).about}")
        try:
            _train(run, display)
        except DivergedError as error:
            display.say(f"{heading}: did not converge; {error}")
        except InputError as error:
            refused[run.label] = str(error)
            display.say(f"{heading}: left out; {error}")
    searches = _searches(experiment, root, kind)
    tables.write(
        out / "-".join((name, *only)),
        experiment.title + (" (quick: figures mean nothing)" if quick else ""),
        synthetic.title(root) or root.name,
        _published_for(searches),
        _rows(experiment, runs, searches),
        display,
    )
    if refused:
        reason = next(iter(refused.values()))
        raise InputError(f"cdp experiment: the table lacks {', '.join(refused)}: {reason}")


def _only(experiment: Experiment, only: tuple[str, ...]) -> Experiment:
    """Returns the experiment with only the rows of these names; of none: with all."""
    known = [method for _, method in experiment.rows]
    for method in only:
        if method not in known:
            raise InputError(f"--rows {method}: no such row here; there are {', '.join(known)}")
    rows_left = tuple(pair for pair in experiment.rows if not only or pair[1] in only)
    return dataclasses.replace(experiment, rows=rows_left)


def _searches(experiment: Experiment, root: Path, kind: KindName) -> list[str]:
    """Returns the searches of this data set; for others than the paper's, the experiment's own.

    The latter's published figures are then shown in columns of their own.
    """
    of_data = None if synthetic.recipe(root) else original_kind(root, kind)
    found = [search for search, (of_kind, _, _) in SEARCHES.items() if of_kind == of_data]
    return found or [experiment.published]


def _published_for(searches: list[str]) -> str:
    """Returns what the paper's figures are for: a search, or the data set of several."""
    words = SEARCHES[searches[0]][2]
    return words if len(searches) == 1 else words.partition(", ")[0]


def _runs(experiment: Experiment, base: Config, seeds: int, out: Path) -> Iterator[Run]:
    """Yields the runs of all rows, seed by seed."""
    for seed in range(base.seed, base.seed + seeds):
        for label, method in experiment.rows:
            first = row(method).first_stage
            first_run = _run(first, first, base, seed, out) if first else None
            yield _run(label, method, base, seed, out, first_run)


def _run(
    label: str, method: str, base: Config, seed: int, out: Path, first_stage: Run | None = None
) -> Run:
    cfg = dataclasses.replace(row(method).setting(base), seed=seed)
    return Run(label, method, cfg, out / f"{method}-seed-{seed}", first_stage)


def _rows(experiment: Experiment, runs: list[Run], searches: list[str]) -> list[Row]:
    """Returns the experiment's rows, once per search (a key of `SEARCHES`)."""
    every = (pair for table in EXPERIMENTS.values() for pair in table.rows)
    found, labels = [], {method: label for label, method in every}
    for i, search in enumerate(searches):
        _, mode, words = SEARCHES[search]
        for label, method in experiment.rows:
            of_row = [run for run in runs if run.label == label]
            outcomes = [run.outcome(mode) for run in of_row]
            untrained = sum(not run.is_done for run in of_row)
            suffix = f", {words.partition(', ')[2]}" if i else ""
            first = labels.get(row(method).first_stage or "", row(method).first_stage)
            paper = row(method).paper.get(search)
            of_search = words if len(searches) > 1 else ""
            found.append(Row(label + suffix, paper, outcomes, first, untrained, of_search))
    return found


def _check_same(run: Run) -> None:
    """Raises `InputError` if the folder holds a run with other options."""
    difference = _difference(run)
    if difference:
        raise InputError(
            f"{run.folder}: was made with {difference} is requested now; choose another --out, or "
            "remove that folder"
        )


def _difference(run: Run) -> str:
    """In what the run in its folder, if any, differs from what is wanted; empty: in nothing."""
    if not (run.folder / run_folder.CONFIG).is_file():
        return ""
    saved = run_folder.read_config(run.folder)
    # Ignore options that a run resolves by itself.
    own = {name: getattr(saved, name) for name in ("step", "device", "precision")}
    wanted = with_data(dataclasses.replace(run.cfg, **own), cache=saved.data.cache)
    made_with = flat(saved)
    for name, value in flat(wanted).items():
        if made_with[name] != value:
            return f"--{name} {made_with[name]}, but {value}"
    return ""


def first_stage_of(run: Run) -> Path | None:
    """The folder of a finished run that did what the run's own first stage would do, if any."""
    first = run.first_stage
    if not first or not first.is_finished or _difference(first):
        return None
    ignored = {"epochs"} if run.cfg.eval_every else {"epochs", "distance"}
    options, own = flat(first.cfg), flat(run.cfg)
    if any(own[name] != value for name, value in options.items() if name not in ignored):
        return None
    length = lengths(run.cfg.method.stages, run.cfg.epochs)[0]
    return first.folder if length == first.cfg.epochs else None


def _train(run: Run, display: Display) -> None:
    first, is_begun = first_stage_of(run), (run.folder / run_folder.CONFIG).is_file()
    if run.cfg.data.trial == "all":
        if is_begun:
            continue_trials(run.folder, display, first_stage=first)
        else:
            train_trials(run.cfg, run.folder, display, first_stage=first)
    elif is_begun:
        resume(run.folder, display)
    else:
        train(run.cfg, run.folder, display, first_stage=first)
