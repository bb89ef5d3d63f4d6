"""The whole of `cdp doctor`: every check, as a table for people or as JSON for bug reports."""

import dataclasses
import json
import os
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import QUEUES
from train.doctor import hardware, software
from train.doctor.check import Check, Part, examine
from train.live.terminal import spelled

PARTS: dict[str, Part] = {
    "cdp-reid": software.program,
    "GPU": hardware.gpus,
    "CPU": hardware.cores,
    "memory": hardware.memory,
    "/dev/shm": hardware.shared_memory,
    "disk": hardware.disk,
    "torch": software.torch_,
    "DALI": software.dali,
    "libraries": software.libraries,
    "decoders": software.decoders,
    "C++ compiler": software.compiler,
    "step": software.step,
    "groups": software.groups,
    "pretrained": software.pretrained,
}
STYLES = {"ok": "green", "low": "yellow", "off": "dim", "missing": "yellow", "failed": "bold red"}
# What changes how torch, DALI and timm behave.
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CXX", "TORCH_HOME", "HF_HOME", "HF_HUB_OFFLINE"),
    *("LD_LIBRARY_PATH", "PYTHONPATH", "RANK", "WORLD_SIZE", QUEUES),
)


def doctor(as_json: bool) -> bool:
    """Prints every check; returns whether all parts could be looked at."""
    checks = examine(PARTS)
    if as_json:
        print(json.dumps(_report(checks), indent=2))
    else:
        _show(checks)
    return all(check.state != "failed" for check in checks)


def _report(checks: list[Check]) -> dict[str, Any]:
    """The checks, and beside them the environment that results of `cdp bench` hold, too."""
    from pipeline.errors import in_one_line

    try:
        from train.environment import environment

        about = environment()
    except Exception as error:  # a check says more about it
        about = {"error": in_one_line(error)}
    return {
        "checks": [dataclasses.asdict(check) for check in checks],
        "environment": about,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _show(checks: list[Check]) -> None:
    console = Console()

    def cell(text: str, style: str = "") -> Text:
        return Text(spelled(text, console.encoding), style)

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fits 80 columns
    table.add_column("", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("why, or what to do", overflow="fold")
    for check in checks:
        state = cell(check.state, STYLES[check.state])
        table.add_row(cell(check.name), state, cell(check.value), cell(check.why))
    console.print(table)
    failed = [check.name for check in checks if check.state == "failed"]
    if failed:
        console.print(cell(f"failed: {', '.join(failed)}; add `cdp doctor --json` to a bug report"))
