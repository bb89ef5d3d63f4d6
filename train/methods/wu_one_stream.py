"""One-stream network trained from scratch with cross-entropy: the first baseline of SYSU-MM01.

Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017. RGB and infrared
images take the same path; no counterparts, no triplet loss, shuffled batches. wu-two-stream,
wu-asymmetric-fc and wu-zero-padding change the network, and little else.

Command: cdp train wu-one-stream --data.root DIR. Hardware: one GPU; time: not measured.
Published (Table I of the CDP paper), SYSU-MM01 all-search single-shot: R1 12.0, R10 49.7, R20 66.7,
mAP 13.7.

Known: cross-entropy only, from scratch, SGD with rate 1e-3, momentum 0.9 and weight decay 5e-4,
batches of 64, a ResNet with one basic block a stage, Euclidean distance. Chosen here, since no
training code is public: timm's resnet10t, which has such blocks and three 3x3 convolutions before
them; three input channels, of an infrared image three equal ones; image size, flips, epochs and the
epochs at which the rate falls as for CDP; no dropout.
"""

import dataclasses
from typing import Any

from model.options import LossOptions, ModelOptions
from train.config import Config, with_data
from train.dhsm import DhsmOptions
from train.methods.base import Method
from train.optimizer import OptimizerOptions

PUBLISHED = {"sysu": (12.0, 49.7, 66.7, 13.7)}


class WuOneStream(Method):
    """One stream, cross-entropy alone."""


METHOD = WuOneStream(
    model=ModelOptions(backbone="resnet10t", weights="none", dropout=0.0),
    loss=LossOptions(triplet=False),
    dhsm=DhsmOptions(enabled=False),
    optimizer=OptimizerOptions(name="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4),
)


def with_model(kind: type[Method], **changes: Any) -> Method:
    """Returns this method with another network, as an instance of `kind`."""
    parts = {field.name: getattr(METHOD, field.name) for field in dataclasses.fields(METHOD)}
    return kind(**parts | {"model": dataclasses.replace(METHOD.model, **changes)})


def setting(config: Config) -> Config:
    """Shuffled batches of 64 originals, no counterparts."""
    return with_data(config, spectra=(), sampling="shuffle", p=32, k=2)
