"""cdp report."""

from pathlib import Path


def report(args: list[str]) -> None:
    from importlib.util import find_spec

    import tyro

    from pipeline.errors import InputError
    from train.config import Device

    def parse(
        run_dir: tyro.conf.Positional[Path],
        out: Path | None = None,
        data_root: Path | None = None,
        device: Device = "auto",
        seed: int = 0,
    ) -> None:
        """Writes how a run went as one HTML page that opens offline, and its charts as PNG files.

        Args:
            run_dir: Folder that `cdp train` wrote; the run need not have finished.
            out: Folder to write to; default RUN_DIR/report.
            data_root: Where the data set is now, if not where it was.
            device: auto is the GPU if there is one.
            seed: Draws the people and queries that are shown.
        """
        if not (find_spec("matplotlib") and find_spec("sklearn")):
            raise InputError(
                "cdp report: needs matplotlib and scikit-learn; uv sync --group report"
            )
        if not 0 <= seed < 2**32:
            raise InputError(f"--seed {seed}: must be in 0…2**32 - 1")
        from train.reporting.display import Display
        from train.reporting.report import report as write_report

        write_report(run_dir, Display(), out, device, data_root, seed)

    tyro.cli(parse, prog="cdp report", args=args)
