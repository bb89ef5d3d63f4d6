"""Calls the command line in this process; options for small runs."""

import sys
from pathlib import Path

import cdp

SMALL = [
    *("--precision", "off", "--model.backbone", "test_resnet"),  # timm's smallest
    *("--data.height-px", "32", "--data.width-px", "16", "--data.p", "6", "--epochs", "2"),
    *("--checkpoint-every", "1", "--device", "cpu"),
]


def call(*args: str | Path) -> int:
    """Runs the command line in this process; returns its exit status."""
    argv, sys.argv = sys.argv, ["cdp", *map(str, args)]
    try:
        cdp.main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        sys.argv = argv
    return 0


def refused(capsys, *args: str | Path) -> str:
    """Returns the line on stderr of a call that must exit with status 2."""
    capsys.readouterr()
    assert call(*args) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]
