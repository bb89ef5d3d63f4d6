"""Translates images between the visible and the infrared spectrum: a VAE-GAN with a cycle loss.

An encoder and a generator for each modality around a shared latent space, as in UNIT (Liu et al.,
"Unsupervised Image-to-Image Translation Networks", NIPS 2017): the innermost residual block of both
encoders, and that of both generators, is the same. Pixels are in -1…1, three channels for RGB and
one for infrared.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.errors import InputError

RGB, INFRARED = "rgb", "infrared"
OTHER = {RGB: INFRARED, INFRARED: RGB}
CHANNELS = {RGB: 3, INFRARED: 1}
HALVINGS = 2  # of height and width, from an image to its latent code
# The translator's losses by their names in metrics, and the option that weighs each.
WEIGHTS = {
    "recon": "reconstruction_weight",
    "cycle": "cycle_weight",
    "kl": "kl_weight",
    "gan": "adversarial_weight",
}
CRITICS = "critics"  # the discriminators' loss; only they learn from it, with a weight of 1


@dataclass(frozen=True, slots=True)
class TranslatorOptions:
    """The translator between visible and infrared images."""

    width: int = 64
    """Channels of the first layer of encoders and discriminators; deeper layers have up to 4 and 8
    times as many."""

    blocks: int = 4
    """Residual blocks in each encoder and each generator, one of which both modalities share."""

    critic_layers: int = 4
    """Layers with stride 2 in each discriminator."""

    critic_scales: int = 3
    """Discriminators for each modality, each on an image half as large as the one before; fewer if
    images are too small for so many."""

    lr: float = 1e-4
    """Learning rate, where the feature network's is --optimizer.lr; both follow its schedule."""

    reconstruction_weight: float = 10.0
    """Weight of the L1 distance between an image and its reconstruction in its own modality."""

    cycle_weight: float = 10.0
    """Weight of the L1 distance between an image and its translation there and back."""

    kl_weight: float = 0.02
    """Weight of the KL divergence of latent codes from a standard normal distribution."""

    adversarial_weight: float = 1.0
    """Weight of the generators' loss against the discriminators."""

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "critic_layers", "critic_scales"):
            if getattr(self, name) < 1:
                raise InputError(f"{_flag(name)} {getattr(self, name)}: must be at least 1")
        if not 0 < self.lr < math.inf:  # nor NaN
            raise InputError(f"--translator.lr {self.lr}: must be greater than 0")
        for name in WEIGHTS.values():
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{_flag(name)} {getattr(self, name)}: must be at least 0")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each of the translator's losses, by its name in the metrics."""
        return {name: getattr(self, option) for name, option in WEIGHTS.items()} | {CRITICS: 1.0}


def _flag(name: str) -> str:
    return f"--translator.{name.replace('_', '-')}"


class Translator(nn.Module):
    """Encoders, generators and discriminators of both modalities."""

    def __init__(self, options: TranslatorOptions, image_size: tuple[int, int]) -> None:
        """Raises `InputError` if images of this height and width, in pixels, cannot be taken."""
        super().__init__()
        scales = _check_size(options, image_size)
        latent = options.width * 2**HALVINGS
        self.encoders = nn.ModuleDict({m: _encoder(options, c) for m, c in CHANNELS.items()})
        self.encode_shared = Residual(latent)
        self.generate_shared = Residual(latent)
        self.generators = nn.ModuleDict({m: _generator(options, c) for m, c in CHANNELS.items()})
        self.critics = nn.ModuleDict(
            {
                m: nn.ModuleList(Critic(options, c) for _ in range(scales))
                for m, c in CHANNELS.items()
            }
        )

    @property
    def learns(self) -> bool:
        """Whether its weights are not frozen."""
        return next(self.parameters()).requires_grad

    def encode(self, images: Float[Tensor, "b c h w"], modality: str) -> Float[Tensor, "b d i j"]:
        """The mean of each image's latent code, whose variance is 1."""
        code: Tensor = self.encode_shared(self.encoders[modality](images))
        return code

    def generate(self, codes: Float[Tensor, "b d i j"], modality: str) -> Float[Tensor, "b c h w"]:
        """An image in this modality for each latent code."""
        images: Tensor = self.generators[modality](self.generate_shared(codes))
        return images

    def translate(self, images: Float[Tensor, "b c h w"], modality: str) -> Tensor:
        """Images of `modality` in the other one, [b, 1 or 3, h, w]; nothing in it is random."""
        return self.generate(self.encode(images, modality), OTHER[modality])

    def losses(
        self, rgb: Float[Tensor, "a 3 h w"], infrared: Float[Tensor, "b 1 h w"]
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of encoders and generators, and under `CRITICS` that of the discriminators.

        Each is the sum of both modalities'. The former have no gradient in the discriminators, and
        the latter none in the rest, so that one backward pass serves both sides.
        """
        real = {RGB: rgb, INFRARED: infrared}
        means = {m: self.encode(images, m) for m, images in real.items()}
        codes = {m: sampled(mean) for m, mean in means.items()}
        rebuilt = {m: self.generate(code, m) for m, code in codes.items()}
        fake = {OTHER[m]: self.generate(code, OTHER[m]) for m, code in codes.items()}
        fake_means = {m: self.encode(images, m) for m, images in fake.items()}
        back = {OTHER[m]: self.generate(sampled(x), OTHER[m]) for m, x in fake_means.items()}
        terms = {
            "recon": [F.l1_loss(rebuilt[m].float(), real[m]) for m in real],
            "cycle": [F.l1_loss(back[m].float(), real[m]) for m in real],
            "kl": [divergence(x) for x in (*means.values(), *fake_means.values())],
            "gan": [generator_loss(self.scores(fake[m], m, held=True)) for m in real],
            CRITICS: [
                critic_loss(self.scores(real[m], m), self.scores(fake[m].detach(), m)) for m in real
            ],
        }
        return {name: torch.stack(of_both).sum() for name, of_both in terms.items()}

    def scores(
        self, images: Float[Tensor, "b c h w"], modality: str, held: bool = False
    ) -> list[Tensor]:
        """What each discriminator of the modality gives each patch: near 1 for real images.

        If `held`, their weights take no gradient.
        """
        found = []
        critics = self.critics[modality]
        assert isinstance(critics, nn.ModuleList)
        for critic in critics:
            weights = {name: w.detach() for name, w in critic.named_parameters()} if held else {}
            found.append(functional_call(critic, weights, images))
            images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
        return found


def sampled(mean: Tensor) -> Tensor:
    """Codes drawn around their means with a variance of 1."""
    return mean + torch.randn_like(mean)


def divergence(mean: Tensor) -> Float[Tensor, ""]:
    """KL divergence of N(mean, 1) from N(0, 1), averaged over latent numbers."""
    return mean.float().square().mean() / 2


def generator_loss(fake: list[Tensor]) -> Float[Tensor, ""]:
    """Least-squares GAN loss of a generator, by the scores of its images at each scale."""
    return torch.stack([(1 - x.float()).square().mean() for x in fake]).sum()


def critic_loss(real: list[Tensor], fake: list[Tensor]) -> Float[Tensor, ""]:
    """Least-squares GAN loss of discriminators (Mao et al., ICCV 2017), by scores at each scale."""
    terms = [
        (1 - x.float()).square().mean() + y.float().square().mean()
        for x, y in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()


class Residual(nn.Module):
    """Two convolutions with instance norm, around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Critic(nn.Module):
    """A discriminator of patches."""

    def __init__(self, options: TranslatorOptions, channels: int) -> None:
        super().__init__()
        widths = [channels, *(options.width * 2**i for i in range(options.critic_layers))]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of patches, [b, 1, i, j]."""
        x = images
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        scores: Tensor = self.last(x)
        return scores


def _encoder(options: TranslatorOptions, channels: int) -> nn.Sequential:
    width = options.width
    layers = _convolution(channels, width, 7)
    for _ in range(HALVINGS):
        layers += _convolution(width, 2 * width, 4, stride=2)
        width *= 2
    return nn.Sequential(*layers, *(Residual(width) for _ in range(options.blocks - 1)))


def _generator(options: TranslatorOptions, channels: int) -> nn.Sequential:
    width = options.width * 2**HALVINGS
    layers: list[nn.Module] = [Residual(width) for _ in range(options.blocks - 1)]
    for _ in range(HALVINGS):
        layers += [
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 5, padding=2, padding_mode="reflect"),
            nn.GroupNorm(1, width // 2),  # layer norm
            nn.ReLU(),
        ]
        width //= 2
    last = nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect")
    return nn.Sequential(*layers, last, nn.Tanh())


def _convolution(a: int, b: int, size: int, stride: int = 1) -> list[nn.Module]:
    padding = (size - stride + 1) // 2
    return [
        nn.Conv2d(a, b, size, stride, padding, padding_mode="reflect"),
        nn.InstanceNorm2d(b),
        nn.ReLU(),
    ]


def _check_size(options: TranslatorOptions, image_size: tuple[int, int]) -> int:
    """How many scales of discriminators images of this size allow."""
    step = 2**HALVINGS
    for name, side in zip(("height", "width"), image_size, strict=True):
        if side % step:
            raise InputError(
                f"--data.{name}-px {side}: the translator halves images twice and doubles them "
                f"again; pass a multiple of {step}"
            )
    smallest = min(image_size)
    scales = [s for s in range(options.critic_scales) if smallest >> (options.critic_layers + s)]
    if not scales:
        raise InputError(
            f"--translator.critic-layers {options.critic_layers}: too many for images of "
            f"{image_size[0]}x{image_size[1]}; pass {int(math.log2(smallest))} or less"
        )
    return len(scales)
