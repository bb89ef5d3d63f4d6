"""CAJ: a channel-augmented counterpart of each RGB image, and the enhanced squared difference.

Ye et al., "Channel Augmented Joint Learning for Visible-Infrared Recognition", ICCV 2021. Its
channel augmentation, one channel triplicated, is the counterpart that CDP made a year earlier (Eq.
1 with red, green and blue); CAJ also lets it into the triplet loss. The network is AGW's.

Command: cdp train caj --data.root DIR. Hardware: one GPU; time: not measured.
Published, SYSU-MM01 all-search single-shot: R1 69.9, R10 95.7, R20 98.5, mAP 66.9; RegDB visible to
thermal: R1 85.0, R10 95.5, R20 97.5, mAP 79.1.

It differs from the authors' public code: an original and its counterpart are mirrored alike;
infrared originals too have a counterpart, equal to them up to its crop and erasing, which no loss
sees but batch norm does; erased pixels are the ImageNet mean. Epoch and sampling are as in agw.py.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from model.network import ReidNetwork
from model.options import LossOptions
from model.outputs import Examples, Outputs
from pipeline.errors import InputError
from pipeline.options import AugmentationOptions
from train.config import Config, with_data
from train.dhsm import DhsmOptions
from train.methods import agw
from train.methods.base import Gather, Losses, Method

PUBLISHED = {
    "sysu": (69.88, 95.71, 98.46, 66.89),
    "regdb": (85.03, 95.49, 97.54, 79.14),
    "regdb-thermal": (84.75, 95.33, 97.51, 77.82),
}


@dataclass(frozen=True)
class Caj(Method):
    """Losses over the RGB originals, their counterparts, and the infrared originals."""

    def network(self, num_classes: int, image_size: tuple[int, int]) -> ReidNetwork:
        """The base's, but for balanced batches only: `losses` counts on their order."""
        network = super().network(num_classes, image_size)
        network.needs_balanced = True
        return network

    def losses(self, out: Outputs, batch: Examples, gather: Gather) -> Losses:
        """As those of the base, each over all three kinds of image."""
        if batch.views != 2:
            raise InputError("--data.spectra: caj needs counterparts; name at least one spectrum")
        half = len(batch.pids) // 2  # the RGB originals

        def three(of_images: Tensor) -> Tensor:
            return torch.cat([batch.originals(of_images), batch.counterparts(of_images)[:half]])

        kept = Outputs(three(out.features), three(out.embedding), three(out.logits), out.extras)
        pids, modality, spectrum = (
            torch.cat([x, x[:half]]) for x in (batch.pids, batch.modality, batch.spectrum)
        )
        of_kept = Examples(pids, modality, spectrum, views=1)
        return super().losses(kept, of_kept, gather)


METHOD = Caj(
    model=agw.NETWORK,
    augmentation=AugmentationOptions(
        crop_padding_px=10, erasing=0.5, share_crop=False, share_erasing=False
    ),
    loss=LossOptions(triplet_kind="squared-difference"),
    dhsm=DhsmOptions(enabled=False),
    optimizer=dataclasses.replace(agw.OPTIMIZER, milestones=(0.2, 0.5)),
)


def setting(config: Config) -> Config:
    """Batches as of AGW, counterparts in red, green or blue, 100 epochs, cosine."""
    data = with_data(agw.setting(config), spectra=("R", "G", "B"), jitter=0.0)
    return dataclasses.replace(data, epochs=100)
