"""The network: normalise → backbone → global average pool → dropout → linear.

Options add parts of other networks: non-local blocks in the backbone, generalized mean and part
pooling, a fully connected layer after it (projection.py), a BNNeck. RGB, infrared and counterpart
images take the same path (Fig. 7b), except in the structures that the paper compares with, where
they enter differently (structures.py), and in HCML, where they leave differently (metric.py).
Normalisation is the network's first operation, so that training, evaluation and export cannot
differ in it. Its mean and standard deviation are what the backbone's pretrained weights expect:
ImageNet's for a ResNet, as in the paper, but others for many transformers and EfficientNets.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from model import pooling, projection, structures, weights
from model.backbone import ImageSize, build, normalisation, source
from model.heads import CosineClassifier
from model.metric import ModalityMetric
from model.options import NAMED_WEIGHTS, ModelOptions
from model.outputs import Outputs
from model.pooling import Pooling
from pipeline.errors import InputError


class ReidNetwork(nn.Module):
    """Base of every method's network: pixels in, `Outputs` out.

    A subclass sets `width` and overrides whatever else differs. It may hold parameters of losses.
    """

    width: int  # of the features
    needs_modality = False  # must `forward` be told which images are infrared?
    needs_balanced = False  # can it train only on half-infrared batches?
    fixed_shapes = True  # do all shapes inside depend only on the batch size?
    account = ""  # which weights were loaded, in words

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> Outputs:
        """Turns resized pixels, 0…255, into features and logits; includes normalisation.

        `infrared` gives each image's modality; a counterpart has its original's. In training, a
        balanced batch has all RGB originals and their counterparts first.
        """
        raise NotImplementedError

    def embed(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b e"]:
        """Returns the features that retrieval compares, float32."""
        return self(images, infrared).embedding.float()


class Network(ReidNetwork):
    """A timm backbone with the paper's head, in one of the structures of Fig. 5 and 7."""

    mean: Tensor
    inverse_std: Tensor

    def __init__(
        self,
        options: ModelOptions,
        num_classes: int,
        image_size: ImageSize = (256, 128),
        centers: bool = False,
        metric: bool = False,
        enter: nn.Module | None = None,
    ) -> None:
        """Builds the network, with the weights that the options name.

        With `centers` it learns a center per class for the center loss: "centers" in
        `Outputs.extras`, [num_classes, width], initially 0. With `metric`, retrieval compares what
        a map per modality makes of the features (metric.py). `enter` replaces the structure's
        entry. Raises `InputError` for a backbone that is unknown or cannot take images of this
        height and width, in pixels, and for weights that cannot be loaded or do not fit.
        """
        super().__init__()
        file = _weights_file(options)
        differs = options.structure != "one-stream" or options.fc == "per-modality"
        self.needs_modality = differs or metric
        self.needs_balanced = options.structure in ("two-stems", "generated-spectrum")
        self.backbone, channels = build(options, image_size)
        pooled = channels * options.parts
        self.width = options.fc_width or pooled
        if enter is None:
            enter = structures.entry(options.structure, self.backbone, options.stem_depth)
        self.enter = enter
        self.pool = Pooling(options) if pooling.is_own(options) else nn.Identity()
        self.project = projection.make(options, pooled)
        self.neck = nn.BatchNorm1d(self.width) if options.bnneck else nn.Identity()
        if options.bnneck:
            self.neck.bias.requires_grad_(options.bnneck_bias)
        self.activation = nn.Identity() if options.fc == "none" else nn.ReLU()
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = _classifier(options, self.width, num_classes)
        self.metric = ModalityMetric(self.width) if metric else projection.NoLayer()
        # Counterparts are selected and triplicated in pixel space, then normalised like any image.
        mean, std = normalisation(options.backbone)
        for name, value in (
            ("mean", [255 * m for m in mean]),
            ("inverse_std", [1 / (255 * s) for s in std]),
        ):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        if options.weights == "imagenet":
            self.account = source(options.backbone)
        elif options.weights != "none":
            self.account = weights.load(self, options.backbone, file)
        zeros = torch.zeros(num_classes, self.width)
        self.centers = nn.Parameter(zeros) if centers else None

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> Outputs:
        """Turns pixels 0…255 into features, for the triplet loss, and class logits."""
        features = self._features(images, infrared)
        embedding = self.neck(features)
        logits = self.classifier(self.dropout(self.activation(embedding)))
        extras: dict[str, Tensor] = {} if self.centers is None else {"centers": self.centers}
        return Outputs(features, self.metric(embedding, infrared), logits, extras)

    def embed(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b e"]:
        """Returns the features that retrieval compares, float32; skips the classifier."""
        embedding = self.neck(self._features(images, infrared))
        return self.metric(embedding, infrared).float()

    def _features(self, images: Tensor, infrared: Tensor | None) -> Tensor:
        entered = self.enter(self.normalised(images), infrared)
        return self.project(self.pool(self.backbone(entered)), infrared)

    def normalised(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels as the backbone expects them, in the same layout, NCHW or channels_last."""
        return (images.to(self.mean.dtype) - self.mean) * self.inverse_std


def _classifier(options: ModelOptions, width: int, num_classes: int) -> nn.Module:
    if options.cosine_scale:
        return CosineClassifier(width, num_classes, options.cosine_scale)
    return nn.Linear(width, num_classes, bias=options.classifier_bias)


def _weights_file(options: ModelOptions) -> Path | None:
    if options.weights in NAMED_WEIGHTS:
        return None
    if not Path(options.weights).is_file():
        raise InputError(
            f"--model.weights {options.weights}: no such file; pass a .safetensors or .pth file, a "
            "run folder, imagenet, wheel or none"
        )
    return Path(options.weights)
