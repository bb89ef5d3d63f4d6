"""Deep zero-padding: a one-stream network that sees gray and infrared in two separate channels.

Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017. An RGB image becomes
gray and fills the first channel, an infrared image the second; the other is zero. Everything else
is as in wu-one-stream: cross-entropy only, from scratch. (`zero-padding` is this input with CDP's
losses.)

Command: cdp train wu-zero-padding --data.root DIR. Hardware: one GPU; time: not measured.
Published (Tables I and II of the CDP paper), SYSU-MM01 all-search single-shot: R1 14.8, R10 54.1,
R20 71.3, mAP 16.0; RegDB visible to thermal: R1 17.8, R10 34.2, R20 44.4, mAP 18.9.

Chosen here, besides what wu-one-stream lists: zero is after normalisation. The CDP paper speaks of
two channels at Fig. 5a, as Wu et al. do, and of four in section III-E: --model.structure
zero-padding-4.
"""

from train.methods import wu_one_stream
from train.methods.base import Method

PUBLISHED = {
    "sysu": (14.8, 54.1, 71.3, 16.0),
    "regdb": (17.8, 34.2, 44.4, 18.9),
    "regdb-thermal": (16.6, 34.7, 44.3, 17.8),
}


class WuZeroPadding(Method):
    """wu-one-stream with deep zero-padding."""


METHOD = wu_one_stream.with_model(WuZeroPadding, structure="zero-padding-2")
setting = wu_one_stream.setting
