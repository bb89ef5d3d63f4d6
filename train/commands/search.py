"""cdp search."""

from pathlib import Path
from typing import Annotated

from train.commands.help import cli
from train.commands.own import load_method


def search(args: list[str]) -> None:
    import tyro

    from pipeline.errors import InputError
    from train.config import Device
    from train.evaluation.options import USUAL_SEARCH, SearchOptions
    from train.live.display import Display
    from train.reporting.searched import search_run

    def parse(
        run_dir: tyro.conf.Positional[Path],
        gallery: tuple[Path, ...],
        query: tuple[Path, ...],
        out: Path,
        options: Annotated[SearchOptions, tyro.conf.arg(name="")] = USUAL_SEARCH,
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
            device: auto uses the GPU if there is one.
            overwrite: Replace an earlier search in OUT.
            method: Your own method file, if the run was trained with one.
        """
        for option, images in (("--query", query), ("--gallery", gallery)):
            if not images:
                raise InputError(f"{option}: names no images; name files, folders or one CSV")
        load_method(method, run_dir)
        search_run(run_dir, query, gallery, out, Display(), options, device, overwrite)

    cli(parse, prog="cdp search", args=args)
