"""cdp export, cdp embed."""

from pathlib import Path

from train.commands.ending import fail


def export(args: list[str]) -> None:
    import tyro

    from train.export.formats import FormatName
    from train.export.parity import ParityError
    from train.export.run import export_run
    from train.reporting.display import Display

    def parse(
        run_dir: tyro.conf.Positional[Path],
        format: FormatName,
        out: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes a run's retrieval network as one file: pixels in, features out.

        Takes uint8 pixels [n, 3, H, W], RGB, of the size trained with, and gives float32 features
        [n, d] for any n; normalisation is inside. The metadata entry "about", JSON, says what else
        is to be known. The file is opened again, ONNX by onnxruntime, and its features are held
        against the run's: if they differ, the exit status is 1 and there is no file.

        A .safetensors file holds the weights: from train.export.formats import load;
        network, about = load(Path("model.safetensors")); features = network.embed(pixels).

        Args:
            run_dir: Folder that `cdp train` wrote.
            format: onnx needs `uv sync --group export`.
            out: File to write; default RUN_DIR/export/model.{safetensors,onnx,pt}.
            overwrite: Replace that file.
        """
        try:
            export_run(run_dir, format, Display(), out, overwrite)
        except (ParityError, OSError) as error:
            fail(str(error), 1)

    tyro.cli(parse, prog="cdp export", args=args)
