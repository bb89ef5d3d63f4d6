"""The options of the data pipeline and of its augmentations."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import spectrum
from pipeline.errors import InputError

MAX_THREADS = 1024  # DALI aborts where it cannot start as many as it is told
MAX_PIXELS = 4096 * 4096  # of an image; a person crop has some 20,000

KindName = Literal["auto", "sysu", "regdb", "llcm", "table", "packed"]
CacheName = Literal["none", "host", "gpu", "auto"]
SamplingName = Literal["balanced", "random", "shuffle"]
FillName = Literal["mean", "spectrum"]
Trial = Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, "all"]


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where the images are, how batches are drawn from them, and how DALI runs."""

    root: Path | None = None
    """Folder of the data set, packed or not, or the CSV file that lists it; None: the embedded
    synthetic set, made once under runs/."""

    kind: KindName = "auto"
    """Layout of the data set; auto: detected from the folder's content."""

    split: Literal["train", "train+val"] = "train+val"
    """Identities to train on, where a data set reserves some for validation; SYSU-MM01's protocol
    trains on train+val."""

    trial: Trial = 1
    """RegDB: which of its ten training/test splits to use; all: train on each in turn (also
    --trial). Other data sets have one split."""

    stand_in_galleries: bool = False
    """SYSU-MM01 without rand_perm_cam.mat: draw the galleries from a seed; results are then marked
    as not comparable with published ones."""

    height_px: int = 256
    """Height that every image is resized to."""

    width_px: int = 128
    """Width that every image is resized to."""

    p: int = 16
    """P: identities per batch."""

    k: int = 4
    """K: original images of each identity in a batch."""

    sampling: SamplingName = "balanced"
    """balanced: K/2 RGB and K/2 infrared images of each identity; random: any K; shuffle: no PK
    sampling, any P·K images."""

    spectra: tuple[str, ...] = spectrum.DEFAULT
    """Spectra to draw the counterparts of RGB originals from: R, G, B, X (gray), U, V (of YUV),
    hue, saturation, value; none at all: no counterparts, P·K images per batch (the baselines)."""

    flip: float = 0.5
    """Probability that both images of a pair are flipped horizontally."""

    jitter: float = 0.1
    """δ: an infrared counterpart's brightness is multiplied by U(1-δ, 1+δ)."""

    threads: int = 0
    """CPU threads of DALI; 0: one per core that this process may use."""

    prefetch: int = 2
    """Batches that DALI prepares ahead (prefetch queue depth)."""

    cache: CacheName = "auto"
    """Where to keep decoded and resized pixels after their first use: in host memory, in GPU
    memory, or nowhere; auto: wherever there is ample room. Batches are bit-identical either way."""

    range_16bit: tuple[int, int] | None = None
    """LOW HIGH: the values in 16-bit PNG images (from thermal cameras) that become black and white;
    values between them are scaled, the same in all images, and others clipped. `cdp data check`
    prints the range that a data set uses. None: 16-bit images are refused."""

    on_bad_image: Literal["error", "skip"] = "error"
    """What to do about an unreadable training image: error: stop and name it; skip: use the next
    image of the same identity and modality instead, and list the bad one in the run folder."""

    max_bad: float = 0.01
    """Share of the training images that may be skipped; the run stops if more are bad."""

    eval_batch: int = 128
    """Images per batch when features are extracted."""

    def __post_init__(self) -> None:
        at_least = {"height_px": 16, "width_px": 16, "p": 2, "k": 2, "threads": 0, "prefetch": 1}
        for name, low in {**at_least, "eval_batch": 1}.items():
            if getattr(self, name) < low:
                raise InputError(
                    f"--data.{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}"
                )
        if self.threads > MAX_THREADS:
            raise InputError(f"--data.threads {self.threads}: must be at most {MAX_THREADS}")
        if self.height_px * self.width_px > MAX_PIXELS:
            raise InputError(
                f"--data.height-px {self.height_px}, --data.width-px {self.width_px}: must be at "
                f"most {MAX_PIXELS} pixels together"
            )
        for name in self.spectra:
            if name not in spectrum.SPECTRA:
                raise InputError(
                    f"--data.spectra {name}: unknown; choose from {', '.join(spectrum.SPECTRA)}"
                )
        if len(set(self.spectra)) < len(self.spectra):
            raise InputError(f"--data.spectra {' '.join(self.spectra)}: names a spectrum twice")
        for name in ("flip", "jitter", "max_bad"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"--data.{name.replace('_', '-')} {getattr(self, name)}: must be in 0…1"
                )
        if self.range_16bit is not None:
            low, high = self.range_16bit
            if not 0 <= low < high <= 65535:
                raise InputError(
                    f"--data.range-16bit {low} {high}: must be two numbers in 0…65535, the lower "
                    "one first"
                )
        if self.sampling == "balanced" and self.k % 2:
            raise InputError(
                f"--data.k {self.k}: must be even, half RGB and half infrared; "
                "or pass --data.sampling random"
            )


@dataclass(frozen=True, slots=True)
class AugmentationOptions:
    """Random changes to training images, applied after the flip in this order; all off by default.

    They change originals. A counterpart is made from the cropped and erased image before its
    colors change, so each spectrum keeps its meaning.
    """

    crop_padding_px: int = 0
    """Pad each side with this many black pixels, then crop back to the original size at a random
    position; 0: off."""

    share_crop: bool = True
    """Crop a counterpart like its original, so that the pair stays aligned; off: separately."""

    erasing: float = 0.0
    """Probability that a random rectangle of an image is filled with one color (random erasing,
    Zhong et al., AAAI 2020)."""

    erasing_area: tuple[float, float] = (0.02, 0.4)
    """LOW HIGH: area of the rectangle, as a share of the image."""

    erasing_aspect: float = 0.3
    """Lowest height / width of the rectangle; the highest is 1 / this."""

    erasing_fill: FillName = "mean"
    """mean: the ImageNet mean in every image, as in public code, which puts a colored rectangle
    into infrared images; spectrum: infrared images get the luma of that mean instead."""

    share_erasing: bool = True
    """Erase the same rectangle in both images of a pair; otherwise draw for each separately."""

    channel: float = 0.0
    """Probability that an RGB original is replaced by one of its channels, R, G or B, three times.
    CAJ (Ye et al., ICCV 2021) adds such an image beside the original instead, as counterparts from
    --data.spectra R G B do."""

    gray: float = 0.0
    """Probability that an RGB original becomes gray (BT.601 luma)."""

    brightness: float = 0.0
    """An original's pixels are multiplied by U(1-x, 1+x)."""

    contrast: float = 0.0
    """An original's distance from mid-gray (128) is multiplied by U(1-x, 1+x)."""

    saturation: float = 0.0
    """An RGB original's distance from its luma is multiplied by U(1-x, 1+x)."""

    @property
    def changes_images(self) -> bool:
        """Is any of them on?"""
        color = (self.channel, self.gray, self.brightness, self.contrast, self.saturation)
        return any((self.crop_padding_px, self.erasing, *color))

    def __post_init__(self) -> None:
        if self.crop_padding_px < 0:
            raise InputError(
                f"--augmentation.crop-padding-px {self.crop_padding_px}: must be at least 0"
            )
        for name in ("erasing", "channel", "gray", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--augmentation.{name} {getattr(self, name)}: must be in 0…1")
        low, high = self.erasing_area
        if not 0 < low <= high <= 1:
            raise InputError(
                f"--augmentation.erasing-area {low} {high}: must be two numbers above 0 and up to "
                "1, the lower one first"
            )
        if not 0 < self.erasing_aspect <= 1:
            raise InputError(
                f"--augmentation.erasing-aspect {self.erasing_aspect}: must be above 0 and up to 1"
            )


def num_views(options: DataOptions) -> int:
    """Returns the images per original: 2 with a counterpart, else 1."""
    return 2 if options.spectra else 1


def unit(options: DataOptions) -> str:
    """Returns what a batch holds P·K of: pairs, or images without counterparts."""
    return "pairs" if num_views(options) == 2 else "images"


def num_images(options: DataOptions) -> int:
    """Returns the number of images in a batch: 2PK, or PK without counterparts."""
    return options.p * options.k * num_views(options)


def image_size(options: DataOptions) -> tuple[int, int]:
    """Returns the height and width of the network's input images, in pixels."""
    return options.height_px, options.width_px


def num_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def num_threads(options: DataOptions) -> int:
    """Returns DALI's CPU threads: as requested, or one per core that this process may use."""
    return options.threads or num_cores()
