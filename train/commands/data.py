"""cdp data make, check, pack, preview."""

from pathlib import Path
from typing import Annotated

from train.commands.help import cli


def data_make(args: list[str]) -> None:
    import tyro

    from pipeline.datasets.synthetic import SyntheticOptions
    from train.data import make
    from train.live.display import Display

    def parse(
        root: tyro.conf.Positional[Path],
        options: Annotated[SyntheticOptions, tyro.conf.arg(name="")],
    ) -> None:
        """Writes synthetic RGB-infrared people as JPEG files in SYSU-MM01's layout.

        Args:
            root: Folder to create; must not exist or be empty.
            options: Contents of the set.
        """
        make(root, options, Display())

    cli(parse, prog="cdp data make", args=args)


def data_check(args: list[str]) -> None:
    import tyro

    from pipeline.options import KindName
    from train.data import check
    from train.live.display import Display

    def parse(root: tyro.conf.Positional[Path], kind: KindName = "auto") -> None:
        """Checks every file of a data set; exit status 2 if there are faults.

        Args:
            root: Folder of a data set, or the CSV file that lists it.
            kind: Layout of the data set; auto: detected from the folder's contents.
        """
        check(root, kind, Display())

    cli(parse, prog="cdp data check", args=args)


def data_pack(args: list[str]) -> None:
    import tyro

    from pipeline.options import KindName
    from train.data import pack
    from train.live.display import Display

    def parse(
        root: tyro.conf.Positional[Path],
        out: Path,
        shard_mib: int = 256,
        kind: KindName = "auto",
        stand_in_galleries: Annotated[
            bool, tyro.conf.arg(aliases=["--data.stand-in-galleries"])
        ] = False,
    ) -> None:
        """Packs a data set into an index and uncompressed tar files that WebDataset can read.

        Pass OUT as --data.root: batches, losses and figures are bit-identical to those of the loose
        files. Keeps every split, trial and gallery of the data set's protocol.

        Args:
            root: Folder of a data set, or the CSV file that lists it.
            out: Folder to create.
            shard_mib: Maximum size of a tar file, in MiB.
            kind: Layout of the data set; auto: detected from the folder's contents.
            stand_in_galleries: SYSU-MM01 without rand_perm_cam.mat: as in cdp train.
        """
        pack(root, out, kind, shard_mib, stand_in_galleries, Display())

    cli(parse, prog="cdp data pack", args=args)


def data_preview(args: list[str]) -> None:
    import tyro

    from pipeline.options import AugmentationOptions
    from pipeline.preview import preview

    off = AugmentationOptions()

    def parse(
        root: tyro.conf.Positional[Path],
        out: Path,
        identities: int = 8,
        seed: int = 0,
        range_16bit: Annotated[
            tuple[int, int] | None, tyro.conf.arg(aliases=["--data.range-16bit"])
        ] = None,
        augmentation: AugmentationOptions = off,
    ) -> None:
        """Draws originals and the counterparts that the training graph makes of them.

        Args:
            root: Folder of a data set, or the CSV file that lists it.
            out: PNG file to write.
            identities: Number of identities, one per row.
            seed: Seed for choosing the identities and images.
            range_16bit: As in cdp train.
            augmentation: As in cdp train.
        """
        preview(root, out, identities, seed, range_16bit, augmentation)
        print(out)

    cli(parse, prog="cdp data preview", args=args)
