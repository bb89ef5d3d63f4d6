"""The generated-spectrum structure of Fig. 7c: each image gets the spectrum that it lacks.

A translator makes an infrared channel for an RGB image and three RGB channels for an infrared one,
and the backbone takes all four (D2RL's unified image).
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from model.backbone import ImageSize, normalisation
from model.network import Network
from model.options import ModelOptions
from model.outputs import Outputs
from model.structures import LUMA
from model.translator import INFRARED, RGB, Translator, TranslatorOptions


class GeneratedSpectrum(nn.Module):
    """Completes each image to four channels, RGB and infrared.

    Takes and returns normalised pixels, as the entries of structures.py do; the infrared channel is
    the luma of three equal normalised channels.
    """

    mean: Tensor
    inverse_std: Tensor
    luma: Tensor

    def __init__(
        self, translator: Translator, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        """`mean` and `std`: of pixels in 0…1, by which the network has normalised them."""
        super().__init__()
        self.translator = translator
        for name, value in (
            ("mean", [2 * m - 1 for m in mean]),  # of pixels in -1…1
            ("inverse_std", [0.5 / s for s in std]),
            ("luma", LUMA),
        ):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b 4 h w"]:
        translate = self.translator.translate
        if self.training:  # a balanced batch's two halves
            rgb, gray = self.halves(pixels)
            visible = torch.cat([rgb, translate(gray, INFRARED).to(rgb.dtype)])
            unseen = torch.cat([translate(rgb, RGB).to(rgb.dtype), gray])
        else:  # fixed shapes, which can be exported
            levels = self.levels(pixels)
            gray = self.gray(levels)
            is_infrared = infrared[:, None, None, None]
            visible = torch.where(is_infrared, translate(gray, INFRARED).to(gray.dtype), levels)
            unseen = torch.where(is_infrared, gray, translate(levels, RGB).to(gray.dtype))
        unseen = self.gray((unseen - self.mean) * self.inverse_std)
        return torch.cat([(visible - self.mean) * self.inverse_std, unseen], dim=1)

    def halves(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "a 3 h w"], Float[Tensor, "a 1 h w"]]:
        """The RGB and the infrared half of a balanced batch, in -1…1."""
        rgb, infrared = self.levels(pixels).chunk(2)
        return rgb, self.gray(infrared)

    def levels(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalised pixels in -1…1, as the translator takes them."""
        return pixels / self.inverse_std + self.mean

    def gray(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        """The luma of each pixel."""
        return (pixels * self.luma).sum(dim=1, keepdim=True)


class TranslatingNetwork(Network):
    """A network with the generated-spectrum structure.

    In training, `Outputs.extras` holds the translator's losses, which are 0 while it is frozen. A
    frozen backbone is not trained through either, so that the translator learns by its own losses
    alone.
    """

    enter: GeneratedSpectrum

    def __init__(
        self,
        options: ModelOptions,
        num_classes: int,
        image_size: ImageSize,
        centers: bool,
        translator: TranslatorOptions,
    ) -> None:
        """Raises `InputError` as `Network` does, and if the translator cannot take such images."""
        mean, std = normalisation(options.backbone)
        enter = GeneratedSpectrum(Translator(translator, image_size), mean, std)
        super().__init__(options, num_classes, image_size, centers, enter=enter)
        self._loss_names = tuple(translator.loss_weights)

    def forward(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: Bool[Tensor, " b"] | None = None
    ) -> Outputs:
        learns = next(self.backbone.parameters()).requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            out = super().forward(images, infrared)
        if not self.training:
            return out
        translator = self.enter.translator
        if translator.learns:
            losses = translator.losses(*self.enter.halves(self.normalised(images)))
        else:
            losses = dict.fromkeys(self._loss_names, self.mean.new_zeros(()))
        return out._replace(extras=out.extras | losses)

    @torch.no_grad()
    def translated(
        self, images: UInt8[Tensor, "b 3 h w"], infrared: bool
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Images of one modality, 0…255, in the other one; infrared ones have equal channels."""
        levels = self.enter.levels(self.normalised(images))
        found = (
            self.enter.translator.translate(self.enter.gray(levels), INFRARED)
            if infrared
            else self.enter.translator.translate(levels, RGB)
        )
        pixels = ((found.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.expand(-1, 3, -1, -1)
