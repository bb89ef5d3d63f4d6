"""cdp bench."""

from pathlib import Path
from typing import Literal


def bench(args: list[str]) -> None:
    import tyro

    from bench.run import PARTS, run_bench
    from pipeline.errors import InputError
    from pipeline.spectrum import DEFAULT
    from train.config import Device
    from train.presets import PRESETS

    def parse(
        part: tyro.conf.Positional[str],
        preset: str | None = None,
        data_root: Path | None = None,
        device: Device = "auto",
        quick: bool = False,
        json: Path | None = None,
        plot: Path | None = None,
        timm_script: Path | None = None,
        sweep: bool = True,
    ) -> None:
        """Measures images a second: the sides of a comparison in turn, ratios within a round.

        `cdp bench gpu-day --help`: all of it and more on a GPU, in slices of minutes.

        Args:
            part: stages, loader, peers, step, end-to-end, timm, or all.
            preset: Batches and network of this preset; default: the paper's (sysu), but for a step
                without a GPU the demo's.
            data_root: Data set to measure on; default: the embedded crops.
            device: auto is the GPU if there is one.
            quick: Fewer rounds, for a first look.
            json: File to write every sample to, with hardware and versions.
            plot: PNG file to draw it all to.
            timm_script: benchmark.py of timm's repository, which part timm runs beside our step.
            sweep: Also measure the step with other batch sizes.
        """
        if part != "all" and part not in PARTS:
            raise InputError(f"bench: no part {part!r}; there are {', '.join(PARTS)}, all")
        if preset is not None and preset not in PRESETS:
            raise InputError(f"bench: no preset {preset!r}; there are {', '.join(PRESETS)}")
        if preset is not None and PRESETS[preset].config.data.spectra != DEFAULT:
            raise InputError(
                f"bench: preset {preset} makes other pairs than R, G, B, X, or none; the suite "
                "compares loaders of those: take another"
            )
        run_bench(part, preset, data_root, device, quick, json, plot, timm_script, sweep)

    tyro.cli(parse, prog="cdp bench", args=args)


def gpu_day(args: list[str]) -> None:
    import signal
    import sys

    import tyro

    from bench.gpu_day import Day
    from bench.gpu_day import gpu_day as run
    from bench.plot import check
    from train.config import Device
    from train.reporting.display import Display
    from train.runtime import resolve_device

    def parse(
        out: Path,
        work: Path = Path("runs/gpu-day"),
        slice: tuple[Literal[1, 2, 3, 4, 5], ...] = (1, 2, 3, 4, 5),
        again: bool = False,
        timm_script: Path | None = None,
        device: Device = "auto",
    ) -> None:
        """Runs on a GPU all that is worth running, in order of value, in slices of 8 minutes.

        1: each operator, then the GPU tests. 2: training on 34,000 images, streaming and cached,
        and a trace of its steps. 3: the whole, and the step. 4: the loader. 5: others. A job that
        fails does not keep the others from running; called again, the day goes on with those that
        have not ended well. Without a GPU the same jobs run small, as a rehearsal.

        Args:
            out: Folder for JSON, pictures, logs and summary.md.
            work: Folder for data (700 MB) and runs, which need not be kept.
            slice: Which to run.
            again: Also run jobs that have ended well before.
            timm_script: benchmark.py of timm's repository, run beside our step.
            device: auto is the GPU if there is one.
        """
        check(out / "watch.png")
        day = Day(out, work, resolve_device(device), timm_script)
        # A job has a session of its own: it must not outlive this process.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            all_well = run(day, slice, again, Display())
        finally:
            signal.signal(signal.SIGTERM, before)
        sys.exit(0 if all_well else 1)

    tyro.cli(parse, prog="cdp bench gpu-day", args=args)
