"""The translator: each loss against its definition, and what each may change."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from model.translator import INFRARED, RGB, Translator, TranslatorOptions
from pipeline.errors import InputError

SIZE = (32, 16)
SMALL = TranslatorOptions(width=4, blocks=2, critic_layers=3)
GENERATIVE = ("recon", "cycle", "kl", "gan")


@pytest.fixture
def translator() -> Translator:
    torch.manual_seed(0)
    return Translator(SMALL, SIZE).double()


def images(channels: int, num: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(channels)
    return 2 * torch.rand(num, channels, *SIZE, generator=rng, dtype=torch.float64) - 1


def losses(translator: Translator) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return translator.losses(images(3), images(1))


def scored(translator: Translator, x: torch.Tensor, modality: str) -> list[list[float]]:
    """Scores of each discriminator's patches, each on an image half as large as the last."""
    return [scores.flatten().tolist() for scores in translator.scores(x, modality)]


def squares(scales: list[list[float]], target: float) -> float:
    return sum(sum((x - target) ** 2 for x in scale) / len(scale) for scale in scales)


@torch.no_grad()
def test_each_loss_is_what_its_definition_says(translator):
    found = losses(translator)
    torch.manual_seed(1)
    rgb, infrared = images(3), images(1)

    def noisy(mean: torch.Tensor) -> torch.Tensor:
        return mean + torch.randn(mean.shape, dtype=mean.dtype)

    mean_v, mean_i = translator.encode(rgb, RGB), translator.encode(infrared, INFRARED)
    code_v, code_i = noisy(mean_v), noisy(mean_i)
    to_infrared = translator.generate(code_v, INFRARED)
    to_rgb = translator.generate(code_i, RGB)
    again_v = translator.encode(to_infrared, INFRARED)
    again_i = translator.encode(to_rgb, RGB)

    def apart(modality: str, codes: torch.Tensor, real: torch.Tensor) -> float:
        return float((translator.generate(codes, modality) - real).abs().mean())

    expected = {"recon": apart(RGB, code_v, rgb) + apart(INFRARED, code_i, infrared)}
    expected["cycle"] = apart(RGB, noisy(again_v), rgb) + apart(INFRARED, noisy(again_i), infrared)
    every = (mean_v, mean_i, again_v, again_i)
    expected["kl"] = sum(
        float(kl_divergence(Normal(mean, 1.0), Normal(0.0, 1.0)).mean()) for mean in every
    )
    fakes = scored(translator, to_rgb, RGB), scored(translator, to_infrared, INFRARED)
    reals = scored(translator, rgb, RGB), scored(translator, infrared, INFRARED)
    expected["gan"] = sum(squares(fake, 1) for fake in fakes)
    expected["critics"] = sum(squares(fake, 0) for fake in fakes) + sum(
        squares(real, 1) for real in reals
    )
    assert found.keys() == expected.keys() == SMALL.loss_weights.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value), name


@pytest.mark.parametrize("name", [*GENERATIVE, "critics"])
def test_each_side_learns_from_its_own_losses_alone(translator, name):
    losses(translator)[name].backward()
    moved = {
        key.split(".")[0]
        for key, weight in translator.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    encoders = {"encoders", "encode_shared"}
    expected = {
        "kl": encoders | {"generators", "generate_shared"},  # also of the translations' codes
        "critics": {"critics"},
    }
    assert moved == expected.get(name, encoders | {"generators", "generate_shared"})


def test_one_backward_pass_gives_both_sides_the_gradients_of_two(translator):
    found = losses(translator)
    sum(found.values()).backward()
    together = {name: weight.grad.clone() for name, weight in translator.named_parameters()}
    for names, critics in ((GENERATIVE, False), (("critics",), True)):
        translator.zero_grad()
        for key, weight in translator.named_parameters():
            weight.requires_grad_(key.startswith("critics.") == critics)
        found = losses(translator)
        sum(found[name] for name in names).backward()
        for key, weight in translator.named_parameters():
            if weight.requires_grad:
                torch.testing.assert_close(weight.grad, together[key])


def test_the_innermost_blocks_serve_both_directions(translator):
    for modality, channels in ((RGB, 3), (INFRARED, 1)):
        translator.zero_grad()
        translator.translate(images(channels), modality).square().sum().backward()
        for block in (translator.encode_shared, translator.generate_shared):
            assert all(weight.grad.abs().sum() > 0 for weight in [*block.parameters()][::2])


def test_a_translation_is_an_image_of_the_other_modality_and_always_the_same(translator):
    found = translator.translate(images(3), RGB)
    assert found.shape == (3, 1, *SIZE)
    assert found.abs().max() <= 1
    torch.testing.assert_close(found, translator.translate(images(3), RGB), rtol=0, atol=0)
    assert translator.translate(images(1), INFRARED).shape == (3, 3, *SIZE)
    first, second = losses(translator), translator.losses(images(3), images(1))
    assert first["recon"] != second["recon"]  # codes are drawn


@pytest.mark.parametrize(
    ("options", "size", "scales"),
    [
        (TranslatorOptions(width=2), (256, 128), 3),
        (TranslatorOptions(width=2), (64, 32), 2),
        (TranslatorOptions(width=2), (32, 16), 1),
        (TranslatorOptions(width=2, critic_layers=2, critic_scales=2), (32, 16), 2),
    ],
)
def test_there_are_as_many_discriminators_as_images_have_room_for(options, size, scales):
    critics = Translator(options, size).critics
    assert [len(of) for of in critics.values()] == [scales, scales]
    found = Translator(options, size).scores(torch.zeros(1, 3, *size), RGB)
    assert min(min(x.shape[2:]) for x in found) >= 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((30, 16), r"^--data.height-px 30: .* pass a multiple of 4$"),
        ((32, 18), r"^--data.width-px 18: .* pass a multiple of 4$"),
        ((16, 8), r"^--translator.critic-layers 4: too many for images of 16x8; pass 3 or less$"),
    ],
)
def test_images_that_cannot_be_translated_are_refused(size, message):
    with pytest.raises(InputError, match=message):
        Translator(TranslatorOptions(width=2), size)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("blocks", 0),
        ("critic_layers", 0),
        ("critic_scales", -1),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("reconstruction_weight", -1.0),
        ("cycle_weight", float("nan")),
        ("kl_weight", -0.1),
        ("adversarial_weight", float("inf")),
    ],
)
def test_options_that_cannot_be_are_refused(option, value):
    flag = f"--translator.{option.replace('_', '-')}"
    with pytest.raises(InputError, match=rf"^{flag} {value}: must be "):
        TranslatorOptions(**{option: value})
