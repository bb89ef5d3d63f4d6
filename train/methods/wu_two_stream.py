"""Two streams trained from scratch with cross-entropy, which join in the last stage.

Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017: its two-stream
baseline. Everything but the batches is as in wu-one-stream.

Command: cdp train wu-two-stream --data.root DIR. Hardware: one GPU; time: not measured.
Published (Table I of the CDP paper), SYSU-MM01 all-search single-shot: R1 11.7, R10 48.0, R20 65.5,
mAP 12.9.

Chosen here, besides what wu-one-stream lists: the streams share the ResNet's last stage and the
classifier. Batches are not shuffled, since each stream needs half of every batch: one RGB and one
infrared image of each of 32 identities.
"""

from train.config import Config, with_data
from train.methods import wu_one_stream
from train.methods.base import Method

PUBLISHED = {"sysu": (11.7, 48.0, 65.5, 12.9)}


class WuTwoStream(Method):
    """wu-one-stream with two streams."""


METHOD = wu_one_stream.with_model(WuTwoStream, structure="two-stems", stem_depth=3)


def setting(config: Config) -> Config:
    """One RGB and one infrared image of each of 32 identities, no counterparts."""
    return with_data(wu_one_stream.setting(config), sampling="balanced")
