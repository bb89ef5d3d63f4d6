"""AGW: non-local attention, generalized-mean pooling, weighted regularized triplet loss.

Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021, section 4
and its cross-modality experiments: a first stage for each modality, the rest shared; no
counterparts.

Command: cdp train agw --data.root DIR. Hardware: one GPU; time: not measured.
Published, SYSU-MM01 all-search single-shot: R1 47.5, R10 84.4, R20 92.1, mAP 47.7; RegDB visible to
thermal: R1 70.1, R10 86.2, R20 91.6, mAP 66.4.

Where the paper and the authors' public code differ, this follows the code: non-local blocks have
one inner channel, p of the pooling stays at 3. It differs from both in its epoch, one pass over all
images, where the code's is one over the larger modality, and in its sampling: here each identity of
a batch appears once.
"""

import dataclasses

from model.options import LossOptions, ModelOptions
from pipeline.options import AugmentationOptions
from train.config import Config, with_data
from train.dhsm import DhsmOptions
from train.methods.base import Method
from train.optimizer import OptimizerOptions

# SYSU-MM01 and RegDB: rank-1, rank-10, rank-20, mAP (a key of train.paper.rows.SEARCHES).
PUBLISHED = {
    "sysu": (47.50, 84.39, 92.14, 47.65),
    "regdb": (70.05, 86.21, 91.55, 66.37),
    "regdb-thermal": (70.49, 87.12, 91.84, 65.90),
}
NETWORK = ModelOptions(
    structure="two-stems",
    last_stride=1,
    non_local=True,
    pooling="gem",
    bnneck=True,
    bnneck_bias=False,
    classifier_bias=False,
    dropout=0.0,
)
# The backbone's rate is a tenth of the head's, 0.1; both rise for nine epochs of 80.
OPTIMIZER = OptimizerOptions(
    name="sgd",
    lr=0.01,
    head_scale=10.0,
    weight_decay=5e-4,
    nesterov=True,
    warmup_epochs=9,
    milestones=(0.25, 0.625),
)


class Agw(Method):
    """The base with AGW's parts."""


METHOD = Agw(
    model=NETWORK,
    augmentation=AugmentationOptions(crop_padding_px=10),
    loss=LossOptions(triplet_kind="weighted"),
    dhsm=DhsmOptions(enabled=False),
    optimizer=OPTIMIZER,
)


def setting(config: Config) -> Config:
    """Eight identities of four RGB and four infrared images, 288x144, 80 epochs, cosine."""
    data = with_data(config, spectra=(), p=8, k=8, height_px=288, width_px=144)
    return dataclasses.replace(data, epochs=80, distance="cosine")
