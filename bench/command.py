"""cdp bench."""

from pathlib import Path


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
    ) -> None:
        """Measures images a second: the sides of a comparison in turn, ratios within a round.

        Args:
            part: stages, loader, peers, step, end-to-end, or all.
            preset: Batches and network of this preset; default: the paper's (sysu), but for a step
                without a GPU the demo's.
            data_root: Data set to measure on; default: the embedded crops.
            device: auto is the GPU if there is one.
            quick: Fewer rounds, for a first look.
            json: File to write every sample to, with hardware and versions.
            plot: PNG file to draw it all to.
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
        run_bench(part, preset, data_root, device, quick, json, plot)

    tyro.cli(parse, prog="cdp bench", args=args)
