"""cdp export, cdp embed."""

from pathlib import Path

from train.commands.ending import fail
from train.commands.help import cli
from train.commands.own import load_method


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
        """Exports a run's retrieval network as one file: pixels in, features out.

        Input: RGB uint8 pixels [n, 3, H, W], of the training size. Output: float32 features [n, d].
        Any n works; normalisation is included. The metadata entry "about" (JSON) documents the
        rest. The file is opened again, ONNX with onnxruntime, and its features are compared with
        the run's: if they differ, the exit status is 1 and no file is left.

        A .safetensors file holds the weights: from train.export.formats import load;
        network, about = load("model.safetensors"); features = network.embed(pixels).

        Args:
            run_dir: Folder that `cdp train` wrote.
            format: onnx needs `uv sync --group export`.
            out: File to write; default RUN_DIR/export/model.{safetensors,onnx,pt}.
            overwrite: Replace an existing file.
            method: Your own method file, if the run was trained with one.
        """
        load_method(method, run_dir)
        try:
            export_run(run_dir, format, Display(), out, overwrite)
        except ParityError as error:
            fail(str(error), 1)

    cli(parse, prog="cdp export", args=args)


def embed(args: list[str]) -> None:
    from typing import Literal

    import tyro

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
        """Writes a run's image features as .npz files for `cdp score` and NumPy.

        A file holds the arrays features [n, d] float32, pids and camids [n] int64, modality [n]
        uint8 (0 rgb, 1 ir, 255 unknown) and paths [n]. Without images, embeds the data set's own
        test images, one folder per mode of its protocol; the printed commands reproduce the figures
        of `cdp eval`.

        Args:
            run_dir: Folder that `cdp train` wrote.
            out: .npz file to write; without images, the folder to create.
            images: Image files, folders of them, or one CSV of path,pid,camid,modality. Without a
                CSV, labels are looked up in the run's data set; images outside it get pid -1.
            device: auto uses the GPU if there is one.
            data_root: Current location of the data set, if it has moved.
            modality: Modality of images that are in neither a CSV nor the data set.
            overwrite: Replace an existing file or folder.
            method: Your own method file, if the run was trained with one.
            flip_test: Average the features of each image and its mirror image; recorded in the
                array flip_test and shown in the table of `cdp score`.
        """
        load_method(method, run_dir)
        if images:
            common = (run_dir, images, out, Display(), data_root, device)
            embed_images(*common, modality, overwrite, flip_test)
        else:
            embed_protocol(run_dir, out, Display(), data_root, device, overwrite, flip_test)

    cli(parse, prog="cdp embed", args=args)
