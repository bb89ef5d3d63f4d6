"""The head of a report: what was run, its figures, its configuration, and how to repeat it."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train import run_folder
from train.config import Config
from train.environment import environment
from train.evaluation.options import disclosed
from train.metrics import FIGURES
from train.reporting.page import Markup, Section, element, facts, folded, joined, table, with_code

PAGE = Path("report", "index.html")  # in a run folder
TILES = (("rank1", "rank-1"), ("mAP", "mAP"), ("mINP", "mINP"))


def header(run_dir: Path, cfg: Config, training: str, notes: Sequence[str]) -> Markup:
    """The run's name, what it was, and what the reader must know."""
    mining = f"DHSM, α = {cfg.method.dhsm.alpha:g}" if cfg.method.dhsm.enabled else "no DHSM"
    what = (
        ("data set", f"{cfg.data.kind}, {cfg.data.root}"),
        ("network", f"{cfg.method.model.backbone}, weights {cfg.method.model.weights}"),
        (
            "batches",
            f"P {cfg.data.p} × K {cfg.data.k} pairs of {cfg.data.height_px} × "
            f"{cfg.data.width_px} px, {mining}",
        ),
        ("training", f"{training}, {cfg.device}, mixed precision {cfg.precision}"),
    )
    return joined(
        [
            element("h1", run_dir.resolve().name),
            facts(what),
            *(element("p", with_code(note), class_="note") for note in notes),
        ]
    )


def figures_section(result: dict[str, Any], made_by: str, file: str = "") -> Section:
    """Every mode's figures, the first mode's main ones large; `file` is that of another test."""
    made_with = "".join(f", {words}" for words in disclosed(result))
    trials = result["num_trials"]
    over = f"; ± is the standard deviation over {trials} trials" if trials > 1 else ""
    lead = (
        f"{result['protocol']}, in percent, by {result['distance']} distance{made_with}{over}. "
        f"{made_by} Chance is the rank-1 of a random order."
    )
    tiles = [
        element(
            "div",
            element("dt", name),
            element("dd", *_figure(result, key)),
        )
        for key, name in TILES
    ]
    chance = element("div", element("dt", "chance"), element("dd", f"{result['chance_rank1']:.1f}"))
    rows = [
        (
            joined(
                [
                    mode["protocol"],
                    element("small", f"{mode['num_query']} queries × {mode['num_gallery']} images"),
                ]
            ),
            *(joined(_figure(mode, name)) for name in FIGURES),
            f"{mode['chance_rank1']:.1f}",
        )
        for mode in result["modes"]
    ]
    head = ("mode", *(name.replace("rank", "rank-") for name in FIGURES), "chance")
    more = joined([element("dl", *tiles, chance, class_="tiles"), table("Figures", head, rows)])
    name = f"figures-{Path(file).stem}" if file else "figures"
    return Section(name, f"Figures{made_with}", lead, more=more)


def other_tests(run_dir: Path) -> list[Section]:
    """The figures of each test that was no plain one, which say what they are."""
    sections = []
    for name, result in run_folder.other_results(run_dir).items():
        of = f"Of {result['checkpoint']}, as" if "checkpoint" in result else "As"
        remarks = [f" {result[key]}." for key in ("remark", "collapse") if key in result]
        made_by = f"{of} {name} holds them.{''.join(remarks)}"
        sections.append(figures_section(result, made_by, name))
    return sections


def trials_section(folders: Sequence[Path], out: Path) -> Section:
    """The trainings of a run of several, each with its main figures and its own report."""
    rows = []
    for folder in folders:
        result = run_folder.read_result(folder)
        figures = [f"{result[key]:.1f}" if result and key in result else "–" for key, _ in TILES]
        page = folder / PAGE
        link = (
            element("a", "report", href=Path(os.path.relpath(page, out)).as_posix())
            if page.is_file()
            else element("code", f"cdp report {shlex.quote(str(folder))}")
        )
        rows.append((folder.name, *figures, link))
    return Section(
        "trials",
        "Trials",
        "Each trial is a training of its own, with a report of its own.",
        more=table("Trials", ("trial", *(name for _, name in TILES), "its report"), rows),
    )


def configuration(run_dir: Path, hardware: str) -> Section:
    """Options, versions, and the commands to repeat."""
    written = json.loads((run_dir / run_folder.CONFIG).read_text())
    options = table("Configuration", ("option", "value"), _flat(written))
    now = environment()
    versions = {name: version for name, version in now["packages"].items() if version}
    machine = {
        "python": now["python"],
        **versions,
        "cpu": f"{now['cpu']}, {now['num_cores']} cores",
    }
    gpu = {f"GPU {key}": str(value) for key, value in (now["gpu"] or {}).items()}
    path = shlex.quote(str(run_dir))
    more = joined(
        [
            folded("Every option of the run (config.json)", options, id="options"),
            folded(
                "What made this report",
                facts({"date": now["date"], "device": hardware, **machine, **gpu}.items()),
                id="versions",
            ),
            element("pre", element("code", f"cdp eval {path}\ncdp report {path}")),
        ]
    )
    lead = "The commands test the run again, and write this page again."
    return Section("configuration", "Configuration", lead, more=more)


def _figure(result: dict[str, Any], name: str) -> list[str]:
    """A figure and, if there are trials, its deviation."""
    value = f"{result[name]:.1f}"
    if result["num_trials"] == 1:
        return [value]
    return [value, element("small", f"± {result['std'][name]:.1f}")]


def _flat(options: dict[str, Any], prefix: str = "") -> list[tuple[str, Markup]]:
    """(name as the command line has it, value) of nested options."""
    rows: list[tuple[str, Markup]] = []
    for name, value in options.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, element("code", json.dumps(value))))
    return rows
