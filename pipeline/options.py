"""The options of the data pipeline."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline import spectrum
from pipeline.errors import InputError

KindName = Literal["auto", "sysu", "regdb", "llcm", "table", "packed"]
CacheName = Literal["none", "host", "gpu", "auto"]
SamplingName = Literal["balanced", "random", "shuffle"]
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
        if self.sampling == "balanced" and self.k % 2:
            raise InputError(
                f"--data.k {self.k}: must be even, half RGB and half infrared; "
                "or pass --data.sampling random"
            )


def num_views(options: DataOptions) -> int:
    """Images that an original becomes: itself and its counterpart, or itself alone."""
    return 2 if options.spectra else 1


def num_images(options: DataOptions) -> int:
    """Images of a batch that reach the network: 2PK, or PK without counterparts."""
    return options.p * options.k * num_views(options)


def num_threads(options: DataOptions) -> int:
    """DALI's CPU threads: as asked for, else one a core that this process may run on."""
    return options.threads or len(os.sched_getaffinity(0))
