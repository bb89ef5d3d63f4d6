"""One network with a last layer for each modality, trained from scratch with cross-entropy.

Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017: its baseline with
asymmetric fully connected layers. All else is as in wu-one-stream.

Command: cdp train wu-asymmetric-fc --data.root DIR. Hardware: one GPU; time: not measured.
The CDP paper does not list its figures, so none are given here.

Chosen here, besides what wu-one-stream lists: both layers are as wide as the pooled feature and
start with equal weights; they share one classifier, after a ReLU.
"""

from train.methods import wu_one_stream
from train.methods.base import Method


class WuAsymmetricFc(Method):
    """wu-one-stream with a fully connected layer for each modality."""


METHOD = wu_one_stream.with_model(WuAsymmetricFc, fc="per-modality")
setting = wu_one_stream.setting
