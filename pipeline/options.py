"""The options of the data pipeline and of its augmentations."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import spectrum
from pipeline.errors import InputError

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
    """Layout of the data set; auto: told by what the folder holds."""

    split: Literal["train", "train+val"] = "train+val"
    """Identities to train on, where a data set sets some apart for validation; SYSU-MM01's protocol
    trains on train+val."""

    trial: Trial = 1
    """RegDB: which of its ten splits into training and test; all: ten trainings, one after another
    (also --trial). Other data sets have one split."""

    stand_in_galleries: bool = False
    """SYSU-MM01 without rand_perm_cam.mat: draw the galleries from a seed; its figures compare with
    nobody's, and say so."""

    height_px: int = 256
    """Height that every image is resized to."""

    width_px: int = 128
    """Width that every image is resized to."""

    p: int = 16
    """P: identities a batch."""

    k: int = 4
    """K: original images of each identity a batch."""

    sampling: SamplingName = "balanced"
    """balanced: K/2 RGB and K/2 infrared images of each identity; random: any K; shuffle: no PK
    sampling, P·K images whoever they show."""

    spectra: tuple[str, ...] = spectrum.DEFAULT
    """Spectra that RGB originals' counterparts are drawn from, of R, G, B, X (gray), U, V (of YUV),
    hue, saturation, value; none at all: no counterparts, P·K images a batch (the baselines)."""

    flip: float = 0.5
    """Probability of the horizontal flip that a pair shares."""

    jitter: float = 0.1
    """δ: an infrared counterpart's brightness is multiplied by U(1-δ, 1+δ)."""

    threads: int = 0
    """CPU threads of DALI; 0: one for each core this process may use."""

    prefetch: int = 2
    """Batches that DALI prepares ahead (prefetch queue depth)."""

    hw_decoder_load: float = 0.65
    """Share of a batch for the GPU's JPEG hardware decoder, where there is one."""

    cache: CacheName = "auto"
    """Where decoded and resized pixels are kept after their first use: in the host's memory, in the
    GPU's, or not at all; auto: where there is ample room. Batches are the same: to the bit, but for
    a GPU's decoders, of which an image may meet another at its next use."""

    range_16bit: tuple[int, int] | None = None
    """LOW HIGH: values of 16-bit PNG images (thermal cameras') that become black and white; those
    between are scaled, alike in all images, those outside clipped. `cdp data check` prints what a
    data set uses. None: 16-bit images are refused."""

    on_bad_image: Literal["error", "skip"] = "error"
    """A training image that cannot be read: error: stop and name it; skip: take the next image of
    the same identity and modality instead, and list it in the run folder."""

    max_bad: float = 0.01
    """Share of the training images that may be skipped; more stop the run."""

    eval_batch: int = 128
    """Images a batch when features are extracted."""

    def __post_init__(self) -> None:
        at_least = {"height_px": 16, "width_px": 16, "p": 2, "k": 2, "threads": 0, "prefetch": 1}
        for name, low in {**at_least, "eval_batch": 1}.items():
            if getattr(self, name) < low:
                raise InputError(
                    f"--data.{name.replace('_', '-')} {getattr(self, name)}: must be at least {low}"
                )
        for name in self.spectra:
            if name not in spectrum.SPECTRA:
                raise InputError(
                    f"--data.spectra {name}: unknown; there are {', '.join(spectrum.SPECTRA)}"
                )
        if len(set(self.spectra)) < len(self.spectra):
            raise InputError(f"--data.spectra {' '.join(self.spectra)}: names one twice")
        for name in ("flip", "jitter", "hw_decoder_load", "max_bad"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"--data.{name.replace('_', '-')} {getattr(self, name)}: must be in 0…1"
                )
        if self.range_16bit is not None:
            low, high = self.range_16bit
            if not 0 <= low < high <= 65535:
                raise InputError(
                    f"--data.range-16bit {low} {high}: must be two numbers of 0…65535, the lower "
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
    colours change, so each spectrum keeps its meaning.
    """

    crop_padding_px: int = 0
    """Pad each side with this many black pixels, then crop back to the original size at a random
    position; 0: off."""

    share_crop: bool = True
    """A counterpart has its original's crop, so that the pair stays aligned; otherwise its own."""

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
    """A counterpart has its original's rectangle; otherwise its own, or none."""

    channel: float = 0.0
    """Probability that an RGB original shows only one of its channels, R, G or B, three times. CAJ
    (Ye et al., ICCV 2021) adds such an image beside the original, which is what counterparts from
    --data.spectra R G B are; this replaces the original."""

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
    """Images that an original becomes: itself and its counterpart, or itself alone."""
    return 2 if options.spectra else 1


def num_images(options: DataOptions) -> int:
    """Images of a batch that reach the network: 2PK, or PK without counterparts."""
    return options.p * options.k * num_views(options)


def image_size(options: DataOptions) -> tuple[int, int]:
    """Height and width of the images that reach the network, in pixels."""
    return options.height_px, options.width_px


def num_threads(options: DataOptions) -> int:
    """DALI's CPU threads: as asked for, else one a core that this process may run on."""
    return options.threads or len(os.sched_getaffinity(0))
