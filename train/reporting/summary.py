"""A report's header, figures, configuration and commands to repeat it."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.options import unit
from train import run_folder
from train.config import Config
from train.environment import environment
from train.evaluation.options import disclosed, on_equal_trials
from train.metrics import FIGURES
from train.reporting.page import Markup, Section, element, facts, folded, joined, table, with_code

PAGE = Path("report", "index.html")  # in a run folder
TILES = (("rank1", "rank-1"), ("mAP", "mAP"), ("mINP", "mINP"))


def header(run_dir: Path, cfg: Config, method: str, training: str, notes: Sequence[str]) -> Markup:
    """Returns the run's name, its main options and the notes."""
    mining = f"DHSM, α = {cfg.method.dhsm.alpha:g}" if cfg.method.dhsm.enabled else "no DHSM"
    options = (
        ("method", method),
        ("data set", f"{cfg.data.kind}, {cfg.data.root}"),
        ("network", f"{cfg.method.model.backbone}, weights {cfg.method.model.weights}"),
        (
            "batches",
            f"P {cfg.data.p} × K {cfg.data.k} {unit(cfg.data)} of {cfg.data.height_px} × "
            f"{cfg.data.width_px} px, {mining}",
        ),
        ("training", f"{training}, {cfg.device}, mixed precision {cfg.precision}"),
    )
    return joined(
        [
            element("h1", run_dir.resolve().name),
            facts(options),
            *(element("p", with_code(note), class_="note") for note in notes),
        ]
    )


def figures_section(result: dict[str, Any], source: str, file: str = "") -> Section:
    """Returns every mode's figures, with the first mode's main ones large.

    `file` names the result file of a test with other options.
    """
    made_with = "".join(f", {words}" for words in disclosed(result))
    trials = result["num_trials"]
    over = f"; ± is the standard deviation over {trials} trials" if trials > 1 else ""
    lead = (
        f"{result['protocol']}, in percent, by {result['distance']} distance{made_with}{over}. "
        f"{source} Chance is the rank-1 of a random order."
    )
    if equal := on_equal_trials(result):
        lead += f" {equal[0].upper()}{equal[1:]}."
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
    """Returns the figures of each test with other options, with those options."""
    sections = []
    for name, result in run_folder.other_results(run_dir).items():
        checkpoint = f", {result['checkpoint']}" if "checkpoint" in result else ""
        found = [result[key] for key in run_folder.REMARKS if key in result]
        remarks = "".join(f" {remark}." for remark in found)
        sections.append(figures_section(result, f"From {name}{checkpoint}.{remarks}", name))
    return sections


def trials_section(folders: Sequence[Path], out: Path) -> Section:
    """Returns a table of trials with their main figures and links to their reports."""
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
        "Each trial is a separate training with its own report.",
        more=table("Trials", ("trial", *(name for _, name in TILES), "report"), rows),
    )


def configuration(run_dir: Path, hardware: str) -> Section:
    """Returns options, versions, and the commands to repeat the test and the report."""
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
    lead = "The commands below repeat the test and write this page again."
    return Section("configuration", "Configuration", lead, more=more)


def _figure(result: dict[str, Any], name: str) -> list[str]:
    """Returns a figure and, with several trials, its deviation."""
    value = f"{result[name]:.1f}"
    if result["num_trials"] == 1:
        return [value]
    return [value, element("small", f"± {result['std'][name]:.1f}")]


def _flat(options: dict[str, Any], prefix: str = "") -> list[tuple[str, Markup]]:
    """Returns (command-line name, value) of nested options."""
    rows: list[tuple[str, Markup]] = []
    for name, value in options.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, element("code", json.dumps(value))))
    return rows
