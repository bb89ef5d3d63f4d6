"""cdp bench."""

import faulthandler
import signal
from collections.abc import Callable
from pathlib import Path

from train.commands.help import cli

OTHERS = ("ranking", "scale", "packed")  # with their own options


def bench(args: list[str]) -> None:
    import tyro

    # Makes a hanging measurement print its stack when it is terminated.
    faulthandler.register(signal.SIGTERM, file=2, chain=True)
    if args and args[0] in OTHERS:
        return cli(_other(args[0]), f"cdp bench {args[0]}", args[1:])

    from bench.suite import PARTS, run_bench
    from pipeline.errors import InputError
    from pipeline.spectrum import DEFAULT
    from train.config import Device
    from train.presets import PRESETS

    def parse(
        parts: tyro.conf.Positional[tuple[str, ...]],
        preset: str | None = None,
        data_root: Path | None = None,
        device: Device = "auto",
        quick: bool = False,
        rounds: int | None = None,
        json: Path | None = None,
        plot: Path | None = None,
        timm_script: Path | None = None,
        trace: Path | None = None,
        sweep: bool = True,
    ) -> None:
        """Measures images/s: alternates the sides of a comparison and takes ratios within a round.

        Three more commands measure single parts, with their own options: `cdp bench ranking`,
        `cdp bench scale` and `cdp bench packed`.

        Args:
            parts: Any of stages, loader, peers, augmented (the peers with augmentations),
                step, end-to-end, timm; or all.
            preset: Preset for batches and network; default: the paper's (sysu), but the demo's for
                steps without a GPU.
            data_root: Data set to measure on; default: the embedded crops.
            device: auto uses the GPU if there is one.
            quick: Fewer and shorter rounds, for a first impression.
            rounds: How often to measure each side; default: 9, or 3 if quick.
            json: File to write every sample to, with hardware and versions.
            plot: PNG file to draw all results to.
            timm_script: Path of benchmark.py from timm's repository, for part timm.
            trace: Folder to write a trace of a few end-to-end steps and their idle gaps to.
            sweep: Also measure the step with other batch sizes.
        """
        unknown = [part for part in parts if part != "all" and part not in PARTS]
        if unknown or not parts:
            found = f"no part {unknown[0]!r}" if unknown else "name a part"
            raise InputError(f"bench: {found}; there are {', '.join((*PARTS, *OTHERS))}, all")
        if preset is not None and preset not in PRESETS:
            raise InputError(f"bench: no preset {preset!r}; there are {', '.join(PRESETS)}")
        if preset is not None and PRESETS[preset].config.data.spectra != DEFAULT:
            raise InputError(
                f"bench: preset {preset} does not make pairs of R, G, B, X, as the suite's loaders "
                "do; choose another preset"
            )
        chosen = tuple(PARTS) if "all" in parts else parts
        if rounds is not None and rounds < 1:
            raise InputError(f"--rounds {rounds}: must be at least 1")
        run_bench(
            *(chosen, preset, data_root, device, quick, json, plot, timm_script, trace, sweep),
            rounds=rounds,
        )

    return cli(parse, "cdp bench", args)


def _other(part: str) -> Callable[..., None]:
    if part == "ranking":
        from bench.ranking import ranking

        return ranking
    if part == "scale":
        from bench.scale import scale

        return scale
    from bench.packed import packed

    return packed
