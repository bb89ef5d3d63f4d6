"""CDP+DHSM with what strong baselines of the field share; our own choice of parts.

To CDP+DHSM it adds: padded random crop and random erasing, the same of an original and its
counterpart; a BNNeck, generalized-mean pooling and a last stride of 1 (Luo et al., "Bag of Tricks
and a Strong Baseline for Deep Person Re-identification", CVPRW 2019; Ye et al., TPAMI 2021); label
smoothing; a soft-margin triplet loss; one epoch in ten of warm-up, then cosine; cosine distance.

Warm-up and crop are set for the data set's epochs and image height: with another --epochs or
--data.height-px also pass --optimizer.warmup-epochs and --augmentation.crop-padding-px.

Command: cdp train cdp-strong --data.root DIR. Hardware: one GPU; time: not measured.
Nothing published: what each part gives on the embedded people is in train/RESULTS.md.
"""

import dataclasses

from model.options import LossOptions, ModelOptions
from pipeline.options import AugmentationOptions
from train.config import Config, with_method, with_padded_crop
from train.methods.base import Method
from train.optimizer import OptimizerOptions


class CdpStrong(Method):
    """CDP+DHSM with more parts."""


METHOD = CdpStrong(
    model=ModelOptions(last_stride=1, pooling="gem", bnneck=True),
    augmentation=AugmentationOptions(erasing=0.5, erasing_fill="spectrum"),
    loss=LossOptions(label_smoothing=0.1, triplet_kind="soft-margin"),
    optimizer=OptimizerOptions(schedule="cosine", warmup_epochs=10),
)


def setting(config: Config) -> Config:
    """The data set's batches and epochs; cosine distance.

    The crop's padding is 10 pixels at a height of 256, and warm-up a tenth of the epochs.
    """
    warmup = max(1, config.epochs // 10)
    optimizer = dataclasses.replace(config.method.optimizer, warmup_epochs=warmup)
    cropped = with_padded_crop(with_method(config, optimizer=optimizer))
    return dataclasses.replace(cropped, distance="cosine")
