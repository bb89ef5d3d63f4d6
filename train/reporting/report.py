"""`cdp report`: a report on a run as one self-contained page, and its charts as PNG files."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from train import checkpoint, run_folder, runs, runtime, schedule
from train.config import Config
from train.evaluation.trained import TestedRun, embed_test, open_run
from train.live.display import Display
from train.reporting import curves, summary, tested, translated
from train.reporting.drawing import Chart, png
from train.reporting.page import Markup, Section, page
from train.trials import TRIALS, folder_of


def report(
    run_dir: Path,
    display: Display,
    out: Path | None = None,
    device_name: str = "auto",
    data_root: Path | None = None,
    seed: int = 0,
) -> Path:
    """Writes a report on a run, finished or not, to `out` or RUN_DIR/report; returns its page.

    Without a checkpoint or the test images, leaves out what needs them and says so. `seed` chooses
    the people and queries to show. Raises `InputError` if `run_dir` is not a run, `out` cannot be
    written, or a requested device or `data_root` cannot be used.
    """
    cfg = run_folder.read_config(run_dir)
    device = runtime.resolve_device(device_name)
    file = (out or (run_dir / summary.PAGE).parent) / summary.PAGE.name
    run_folder.make_parent(file)
    hardware = runtime.describe(device)
    many = cfg.data.trial == "all"
    state = runs.describe(run_dir)
    if many:
        training, notes, sections = _of_trials(run_dir, cfg, state, file.parent)
    else:
        training, notes, sections = _of_run(cfg, state, display, device_name, data_root, seed)
    for note in notes:
        display.say(f"note      {note}")
    sections.append(summary.configuration(run_dir, hardware))
    charts = [chart for section in sections for chart in section.charts]
    with display.progress("charts") as progress:
        for done, chart in enumerate(charts, start=1):
            run_folder.write(file.with_name(f"{chart.name}.png"), png(chart))
            progress(done, len(charts))
    head = summary.header(run_dir, cfg, state.method or "", training, notes)
    html = page(f"{run_dir.resolve().name}: report", head, sections)
    run_folder.write(file, html.encode(errors="backslashreplace"))
    display.say(f"report    {file}")
    return file


def _of_run(
    cfg: Config,
    state: runs.Run,
    display: Display,
    device_name: str,
    data_root: Path | None,
    seed: int,
) -> tuple[str, list[str], list[Section]]:
    """Returns a summary of the training, notes (such as what is missing), and the sections."""
    run_dir = state.folder
    records = run_folder.read_metrics(run_dir)
    epochs = [record for record in records if record["event"] == "epoch"]
    evaluations = [record for record in records if record["event"] == "eval"]
    training = f"{state.epochs_done} of {cfg.epochs} epochs"
    if epochs:
        training += f" in {curves.duration(sum(record['seconds'] for record in epochs))}"
    result = run_folder.read_result(run_dir)
    notes = _notes(cfg, state, result)
    result = None if result and "modes" not in result else result
    run, missing = _embed(run_dir, display, data_root, device_name)
    if missing:
        notes.append(f"Without pictures of the test: {missing}.")
    elif result is None and cfg.test and _lacks_only_a_test(state):
        notes.append(f"There is no result.json: `cdp eval {shlex.quote(str(run_dir))}` writes it.")

    source = ""
    retrieval: list[Chart | None] = [curves.accuracy(evaluations)]
    numbers = Markup()
    if run:
        display.say(f"ranking   {len(run.features)} test images")
        found, cmc = tested.ranked(run, cfg.distance)
        chart, numbers = tested.cmc_chart(cmc)
        retrieval.append(chart)
        if result is None:
            result, source = found, f"From the newest checkpoint, {run.trained.weights.name}."
        elif _differ(result, found):
            notes.append(
                f"result.json says {_in_short(result)}; the pictures show "
                f"{run.trained.weights.name} on {run.protocol.index.origin}: {_in_short(found)}."
            )
    notes += [result[name] for name in run_folder.REMARKS if result and name in result]

    sections = [summary.figures_section(result, source)] if result else []
    sections += summary.other_tests(run_dir)
    shown = tuple(chart for chart in retrieval if chart)
    if shown:
        sections.append(Section("retrieval", "Retrieval", "", shown, numbers))
    if epochs:
        sections += [curves.losses(epochs), curves.spectra(epochs, cfg.method.dhsm)]
    if run:
        sections += _pictures(run, cfg, display, seed)
    if epochs:
        sections.append(curves.speed(epochs))
    return training, notes, sections


def _notes(cfg: Config, state: runs.Run, result: dict[str, Any] | None) -> list[str]:
    """Returns what a reader must know about the training and the age of `result`."""
    notes = []
    if not cfg.test or (result and "modes" not in result):
        notes.append("The run was trained without a test (--no-test).")
    if cfg.history:
        words = schedule.disclosure(cfg, cfg.epochs).get("training")
        notes.append(f"The run was {words}.")
        if result and "modes" in result and result.get("training") != words:
            notes.append("result.json dates from before the number of epochs was changed.")
    if state.state != "finished" and not _lacks_only_a_test(state):
        notes.append(_said(state))
    return notes


def _lacks_only_a_test(state: runs.Run) -> bool:
    """Whether every epoch has been trained, and only the test is missing."""
    return state.state == "interrupted" and state.epochs_done == state.epochs


def _said(state: runs.Run) -> str:
    if state.state == "running":
        return "The training is still running."
    return f"State: {state.state}; {state.note}."


def _pictures(run: TestedRun, cfg: Config, display: Display, seed: int) -> list[Section]:
    makers: tuple[Callable[..., Section], ...] = (
        tested.distance_section,
        tested.plane_section,
        tested.search_section,
        *([translated.translated_section] if translated.translates(run) else []),
    )
    sections = []
    with display.progress("pictures") as progress:
        for done, make in enumerate(makers, start=1):
            sections.append(make(run, cfg.distance, seed))
            progress(done, len(makers))
    return sections


def _of_trials(
    run_dir: Path, cfg: Config, state: runs.Run, out: Path
) -> tuple[str, list[str], list[Section]]:
    """Like `_of_run`, for a run of several trainings."""
    folders = [folder_of(run_dir, n) for n in TRIALS]
    result = run_folder.read_result(run_dir)
    notes = []
    if result and "modes" not in result:
        notes.append("The run was trained without a test (--no-test).")
        result = None
    if state.state != "finished":
        notes.append(_said(state))
    if result and "training" in result:
        notes.append(f"The trainings were {result['training']}.")
    notes += [result[name] for name in run_folder.REMARKS if result and name in result]
    sections = [summary.figures_section(result, "")] if result else []
    sections += summary.other_tests(run_dir)
    sections.append(summary.trials_section(folders, out))
    return f"{len(folders)} trainings of {cfg.epochs} epochs", notes, sections


def _embed(
    run_dir: Path, display: Display, data_root: Path | None, device_name: str
) -> tuple[TestedRun | None, str]:
    """Embeds the test images with the newest checkpoint, or returns why it cannot."""
    if not checkpoint.found(run_dir):
        return None, "the run folder holds no checkpoint"
    root = run_folder.read_config(run_dir).data.root
    if data_root is None and root is not None and not root.exists():
        fix = f"`cdp report {run_dir} --data-root DIR` sets its new location"
        return None, f"the data set is not at {root} any more; {fix}"
    try:
        run = open_run(run_dir, display, data_root, device_name=device_name)
        return embed_test(run, display), ""
    except InputError as error:
        if data_root is not None:
            raise
        return None, str(error)


def _differ(result: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether the figures are of other weights or another test, not just rounded differently."""
    names = ("rank1", "mAP")
    return result["protocol"] != found["protocol"] or not np.allclose(
        [result[name] for name in names], [found[name] for name in names], atol=0.5
    )


def _in_short(result: dict[str, Any]) -> str:
    return f"rank-1 {result['rank1']:.1f}, mAP {result['mAP']:.1f} ({result['protocol']})"
