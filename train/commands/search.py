"""cdp search."""

from pathlib import Path
from typing import Literal

from train.commands.ending import fail
from train.commands.own import load_method


def search(args: list[str]) -> None:
    import tyro

    from train.config import Device

    def parse(
        run_dir: tyro.conf.Positional[Path],
        gallery: tuple[Path, ...],
        query: tuple[Path, ...],
        out: Path,
        top: int = 20,
        gallery_modality: Literal["rgb", "ir"] | None = None,
        query_modality: Literal["rgb", "ir"] | None = None,
        flip_test: bool = False,
        cache: Path | None = None,
        device: Device = "auto",
        overwrite: bool = False,
        method: Path | None = None,
    ) -> None:
        """Finds the gallery images that a trained network considers most similar to each query.

        Writes OUT/index.html, a page of pictures that works offline, and OUT/ranks.csv: query,
        rank, path, distance and, if the gallery's CSV has them, pid and camid. Images that cannot
        be read are left out and listed in OUT/bad_images.tsv. Features of the gallery are cached,
        so the next search embeds only new and changed images.

        Args:
            run_dir: Folder that `cdp train` wrote.
            gallery: Image files, folders of them, or one CSV with a column path and, optionally,
                pid, camid and modality.
            query: The images to search for, in the same form.
            out: Folder to write to.
            top: Number of gallery images to list per query.
            gallery_modality: Modality of gallery images without one in a CSV; required only by
                networks that treat RGB and infrared differently.
            query_modality: The same for the queries.
            flip_test: Average the features of each image and its mirror image; the page says so.
            cache: Folder of cached features, 8 KB per image with ResNet-50; default
                RUN_DIR/search-cache. Can be deleted at any time, and shared by runs.
            device: auto uses the GPU if there is one.
            overwrite: Replace an earlier search in OUT.
            method: Your own method file, if the run was trained with one.
        """
        from pipeline.datasets.table import MODALITIES
        from pipeline.errors import InputError
        from train.live.display import Display
        from train.reporting.searched import search_run

        if top < 1:
            raise InputError(f"--top {top}: must be at least 1")
        load_method(method, run_dir)
        modalities = (
            MODALITIES[query_modality] if query_modality else None,
            MODALITIES[gallery_modality] if gallery_modality else None,
        )
        try:
            search_run(
                run_dir,
                query,
                gallery,
                out,
                Display(),
                top,
                modalities,
                flip_test,
                cache,
                device,
                overwrite,
            )
        except OSError as error:  # usually a full disk
            fail(str(error), 1)

    tyro.cli(parse, prog="cdp search", args=args)
