"""`python -m bench.summary OUT`: summarises the files of `gpu_day.sh` in OUT/summary.md; prints it.

Needs only Python's standard library, and works with any subset of the files.
"""

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

QUANTILES = ("median", "p95", "p99")
LAST_LINES = 10  # of a failed job's log
STACK = "Current thread"  # first line of the stack printed at a signal, innermost call first
OUTCOME = re.compile(r"^(?:\[gw\d+\]|\S+::).*? (PASSED|FAILED|SKIPPED|ERROR)\b", re.M)
NOT_PASSED = re.compile(r"^(?:FAILED|ERROR) \S+::.*$", re.M)  # in pytest's own summary


def summarize(out: Path) -> str:
    """Returns the day as Markdown; omits sections without files, reports broken files in a line."""
    sections: tuple[Callable[[Path], str], ...]
    sections = (head, jobs, failures, checks, epochs, steps, gaps, gpu, tests, targets)
    parts = []
    for section in sections:
        try:
            parts.append(section(out))
        except FileNotFoundError:
            continue  # the job has not run
        except (OSError, ValueError, KeyError, TypeError) as error:
            parts.append(f"{section.__name__}: unreadable ({type(error).__name__}: {error})")
    return "\n\n".join(part for part in parts if part) + "\n"


def head(out: Path) -> str:
    """Describes the machine, from the first part that measured anything."""
    lines = ["# GPU day"]
    if (out / "device").read_text().strip() == "cpu":
        lines.append(
            "**A rehearsal without a GPU: small, quick, and its figures are meaningless.**"
        )
    about = next((part for part in measured(out) if "packages" in part), None)
    if about:
        versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
        card = about["gpu"]
        name = f"{card['name']}, driver {card['driver_version']}; " if card else ""
        lines.append(
            f"{about['date']}; {name}{about['num_cores']} cores of {about['cpu']}; Python "
            f"{about['python']}, {versions}"
        )
    return "\n\n".join(lines)


def measured(out: Path) -> list[dict[str, Any]]:
    """Returns the results of `cdp bench`, oldest first."""
    files = sorted(out.glob("*.json"), key=lambda file: file.stat().st_mtime)
    return [json.loads(file.read_text()) for file in files]


def jobs(out: Path) -> str:
    """Lists the jobs, how they ended and how long they took."""
    return table(("job", "state", "s"), records(out))


def records(out: Path) -> list[list[str]]:
    """Returns (name, state, seconds) of each job so far."""
    return [line.split("\t") for line in (out / "jobs.tsv").read_text().splitlines()]


def failures(out: Path) -> str:
    """Shows the last log lines of failed jobs, or the stack of jobs that were stopped."""
    parts = []
    for name, state, _ in records(out):
        log = out / f"{name}.log"
        if state != "done" and log.is_file():
            lines = log.read_text(errors="replace").strip().splitlines()
            lines = [line for line in lines if "[nvimgcodec]" not in line]
            stacks = [i for i, line in enumerate(lines) if line.startswith(STACK)]
            first = stacks[0] if stacks else max(0, len(lines) - LAST_LINES)
            shown = "\n".join(f"    {line[:300]}" for line in lines[first : first + LAST_LINES])
            parts.append(f"{name} {state}:\n\n{shown}")
    return "\n\n".join(parts)


def checks(out: Path) -> str:
    """Lists the outcomes of first contact (bench/contact.py)."""
    found = json.loads((out / "contact.json").read_text())["checks"]
    rows = [(c["check"], c["state"], f"{c['seconds']:.1f}", c["said"][:300]) for c in found]
    return table(("check", "", "s", ""), rows)


def epochs(out: Path) -> str:
    """Lists the epochs of the real run."""
    lines = (out / "train" / "metrics.jsonl").read_text().splitlines()
    rows = [
        (
            epoch["epoch"],
            f"{epoch['images_per_second']:.0f}",
            f"{100 * epoch['data_wait']:.2f}",
            f"{epoch['loss']:.3f}",
        )
        for epoch in map(json.loads, lines)
        if epoch["event"] == "epoch"
    ]
    return table(("epoch", "images/s", "data wait, %", "loss"), rows)


def steps(out: Path) -> str:
    """Shows how long a step of the real run takes."""
    of = json.loads((out / "end-to-end.json").read_text()).get("step_ms", {})
    rows = [(name, *(f"{ms[q]:.2f}" for q in QUANTILES)) for name, ms in of.items()]
    return table(("a step, ms", *QUANTILES), rows) if rows else ""


def gaps(out: Path) -> str:
    """Lists when the device was idle in the trace, and what the host did meanwhile."""
    found = json.loads((out / "trace" / "idle.json").read_text())
    if found["busy"] is None:
        return "Trace: nothing ran on the device."
    rows = [
        (
            f"{gap['us']:.0f}",
            gap["after"][:60],
            gap["before"][:60],
            ", ".join(f"{name} {us:.0f}" for name, us in gap["host"].items()),
        )
        for gap in found["gaps"][:5]
    ]
    busy = f"{found['device']}: busy {100 * found['busy']:.2f} % of {found['window_ms']:.1f} ms, "
    about = f"{found['steps']} steps, CUDA graph {found['cuda_graph']}"
    return busy + about + "\n\n" + table(("idle, µs", "after", "before", "host, µs"), rows)


def gpu(out: Path) -> str:
    """Summarises the driver's readings, taken every few seconds."""
    with (out / "gpu.csv").open() as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    columns = {name: numbers(row[name] for row in rows) for name in (rows[0] if rows else ())}
    seen = [
        (name, f"{sum(values) / len(values):.0f}", f"{max(values):.0f}")
        for name, values in columns.items()
        if values
    ]
    return table(("GPU", "mean", "highest"), seen) if seen else ""


def numbers(texts: Iterable[str | None]) -> list[float]:
    """Returns the texts that are numbers; a driver reports [N/A] for unknown values."""
    return [float(text) for text in texts if text and re.fullmatch(r"[\d.]+", text)]


def tests(out: Path) -> str:
    """Counts pytest's outcomes in its logs, which also covers runs that were cut short."""
    lines = []
    for name in ("clock", "runs", "tests"):
        log = out / f"{name}.log"
        if log.is_file():
            text = log.read_text(errors="replace")
            counts = Counter(OUTCOME.findall(text))
            outcomes = ", ".join(f"{n} {what.lower()}" for what, n in sorted(counts.items()))
            lines.append(f"pytest, {name}: {outcomes or 'no outcome'}")
            lines += [f"- {line[:300]}" for line in islice(NOT_PASSED.findall(text), 20)]
    return "\n".join(lines)


def targets(out: Path) -> str:
    """Lists all targets with their measurements, or as not measured."""
    whole: dict[str, dict[str, Any]] = {}
    for part in measured(out):
        for name, row in part.get("ratios", {}).items():
            if row["measured"] is not None or name not in whole:
                whole[name] = row
    rows = []
    for row in whole.values():
        samples = row["samples"] or []
        figure = f"{row['measured']:.3g}" if samples else "not measured"
        if len(samples) > 1:
            figure += f" ({min(samples):.3g} … {max(samples):.3g})"
        if row["met"] is False:
            figure = f"**missed: {figure}**"
        rows.append((row["text"], row["goal"], figure, f"`cdp bench {row['part']}`"))
    columns = ("target", "goal", "measured (lowest … highest round)", "command")
    return table(columns, rows) if rows else "Targets: nothing was measured."


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Formats a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    text = summarize(folder)
    new = folder / "summary.md.new"
    new.write_text(text)
    new.replace(folder / "summary.md")
    print(text, end="")
