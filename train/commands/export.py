"""cdp export, cdp embed."""

from pathlib import Path

from train.commands.ending import fail
from train.commands.own import take


def export(args: list[str]) -> None:
    import tyro

    from train.export.formats import FormatName
    from train.export.parity import ParityError
    from train.export.publish import export_run
    from train.live.display import Display

    def parse(
        run_dir: tyro.conf.Positional[Path],
        format: FormatName,
        out: Path | None = None,
        overwrite: bool = False,
        method: Path | None = None,
    ) -> None:
        """Writes a run's retrieval network as one file: pixels in, features out.

        Takes uint8 pixels [n, 3, H, W], RGB, of the size trained with, and gives float32 features
        [n, d] for any n; normalisation is inside. The metadata entry "about", JSON, says what else
        is to be known. The file is opened again, ONNX by onnxruntime, and its features are held
        against the run's: if they differ, the exit status is 1 and there is no file.

        A .safetensors file holds the weights: from train.export.formats import load;
        network, about = load("model.safetensors"); features = network.embed(pixels).

        Args:
            run_dir: Folder that `cdp train` wrote.
            format: onnx needs `uv sync --group export`.
            out: File to write; default RUN_DIR/export/model.{safetensors,onnx,pt}.
            overwrite: Replace that file.
            method: The method file of your own that the run was trained with.
        """
        take(method, run_dir)
        try:
            export_run(run_dir, format, Display(), out, overwrite)
        except (ParityError, OSError) as error:
            fail(str(error), 1)

    tyro.cli(parse, prog="cdp export", args=args)


def embed(args: list[str]) -> None:
    from typing import Literal

    import tyro

    from pipeline.datasets.table import MODALITIES
    from train.config import Device
    from train.evaluation.embed import embed_images
    from train.evaluation.embed_protocol import embed_protocol
    from train.live.display import Display

    def parse(
        run_dir: tyro.conf.Positional[Path],
        out: Path,
        images: tyro.conf.Positional[tuple[Path, ...]] = (),
        device: Device = "auto",
        data_root: Path | None = None,
        modality: Literal["rgb", "ir"] | None = None,
        overwrite: bool = False,
        method: Path | None = None,
        flip_test: bool = False,
    ) -> None:
        """A run's features of images, as .npz files for `cdp score` and NumPy.

        A file holds the arrays features [n, d] float32, pids and camids [n] int64, modality [n]
        uint8 (0 rgb, 1 ir, 255 unknown) and paths [n]. Without images the data set's own test is
        embedded, a folder for each mode of its protocol; the lines printed give `cdp eval`'s
        figures.

        Args:
            run_dir: Folder that `cdp train` wrote.
            out: .npz file to write; without images, the folder to make.
            images: Image files, folders of them, or one CSV of path,pid,camid,modality. Who is on
                images of the run's data set is looked up there; without a CSV others get pid -1.
            device: auto is the GPU if there is one.
            data_root: Where the data set is now, if not where it was.
            modality: Of the images that neither a CSV nor the data set tells about.
            overwrite: Replace the file or folder.
            method: The method file of your own that the run was trained with.
            flip_test: Average the features of each image and its mirror image; the files say so in
                an array flip_test, and `cdp score` in its table.
        """
        take(method, run_dir)
        code = MODALITIES[modality] if modality else None
        try:
            if images:
                where = (run_dir, images, out, Display(), data_root, device)
                embed_images(*where, code, overwrite, flip_test)
            else:
                embed_protocol(run_dir, out, Display(), data_root, device, overwrite, flip_test)
        except OSError as error:  # a full disk, above all
            fail(str(error), 1)

    tyro.cli(parse, prog="cdp embed", args=args)
