"""cdp doctor, cdp runs."""

import sys
from pathlib import Path

from train.commands.help import cli


def doctor(args: list[str]) -> None:

    def parse(json: bool = False) -> None:
        """Shows what this machine offers, what is on or off, and why.

        States: ok; low (works, but may not be enough); off (not needed); missing (can be
        installed); failed (could not be checked; exit status 1).

        Args:
            json: Print JSON, to add to a bug report.
        """
        from train.doctor.doctor import doctor as examine

        if not examine(json):
            sys.exit(1)

    cli(parse, prog="cdp doctor", args=args)


def runs(args: list[str]) -> None:
    import tyro

    def parse(folder: tyro.conf.Positional[Path] = Path("runs"), json: bool = False) -> None:
        """Lists run folders, newest first, and how to resume those that are not finished.

        Args:
            folder: Folder that holds run folders, or one of them.
            json: Print JSON.
        """
        import dataclasses
        from json import dumps

        from train.reporting.listing import show
        from train.runs import find

        is_default = folder == Path("runs")
        found = [] if is_default and not folder.exists() else find(folder)
        if json:
            print(dumps([dataclasses.asdict(run) for run in found], indent=2, default=str))
        elif found:
            show(found, folder)
        else:
            print(f"no runs in {folder}; `cdp train demo` makes one")

    cli(parse, prog="cdp runs", args=args)
