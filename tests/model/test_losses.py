"""Each loss against a brute-force oracle in float64, gradients included."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.losses import (
    TRIPLETS,
    center_loss,
    classification_loss,
    hetero_center_loss,
    hetero_center_triplet_loss,
    pairwise_distance,
    soft_margin_triplet_loss,
    squared_difference_triplet_loss,
    triplet_loss,
    weighted_triplet_loss,
)
from model.options import LossOptions
from pipeline.errors import InputError


def oracle_classification(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. 2 without its factor 1/M, one term at a time."""
    terms = []
    for row, target in zip(logits, targets, strict=True):
        shifted = row - row.max().detach()
        terms.append(-torch.log(torch.exp(shifted)[target] / torch.exp(shifted).sum()))
    return sum(terms) / len(terms)


def oracle_triplet(features: torch.Tensor, pids: list[int], margin: float) -> torch.Tensor:
    """Eq. 3, one anchor at a time."""
    total = 0.0
    for a in range(len(pids)):
        positives, negatives = [], []
        for other in range(len(pids)):
            if other == a:
                continue
            squared = ((features[a] - features[other]) ** 2).sum()
            (positives if pids[other] == pids[a] else negatives).append(torch.sqrt(squared))
        hinge = margin + max(positives) - min(negatives)
        total = total + torch.clamp(hinge, min=0)
    return total / len(pids)


def to_each(features: torch.Tensor, anchor: int) -> list[torch.Tensor]:
    """The anchor's distance to every image; 0 to itself, without the square root's gradient."""
    differences = [features[anchor] - other for other in features]
    return [d.norm() if i != anchor else d.sum() for i, d in enumerate(differences)]


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log(1 + torch.exp(x)) if x < 30 else x


def oracle_soft_margin(features: torch.Tensor, pids: list[int]) -> torch.Tensor:
    total = 0.0 * features.sum()
    for a, pid in enumerate(pids):
        distances = list(zip(to_each(features, a), pids, strict=True))
        negatives = [d for d, other in distances if other != pid]
        if negatives:
            farthest = max(d for d, other in distances if other == pid)
            total = total + softplus(farthest - min(negatives))
    return total / len(pids)


def weighted_differences(features: torch.Tensor, pids: list[int]) -> list[torch.Tensor]:
    """Σ w_p d_p - Σ w_n d_n of each anchor that has a negative, as AGW's paper writes it."""
    differences = []
    for a, pid in enumerate(pids):
        distances = list(zip(to_each(features, a), pids, strict=True))
        positives = [d for d, other in distances if other == pid]  # itself among them
        negatives = [d for d, other in distances if other != pid]
        if not negatives:
            continue
        positive = sum(torch.exp(d) * d for d in positives) / sum(torch.exp(d) for d in positives)
        negative = sum(torch.exp(-d) * d for d in negatives) / sum(torch.exp(-d) for d in negatives)
        differences.append(positive - negative)
    return differences


def oracle_weighted(features: torch.Tensor, pids: list[int]) -> torch.Tensor:
    terms = [softplus(d) for d in weighted_differences(features, pids)]
    return sum(terms, 0.0 * features.sum()) / len(pids)


def oracle_squared_difference(features: torch.Tensor, pids: list[int]) -> torch.Tensor:
    """As in CAJ's code: the square, at most 88, with the sign of the difference."""
    terms = []
    for difference in weighted_differences(features, pids):
        square = torch.clamp_max(difference**2, 88)
        terms.append(softplus(square if difference > 0 else -square))
    return sum(terms, 0.0 * features.sum()) / len(pids)


def centers_of(features, pids: list[int], modality: list[int]) -> dict[tuple[int, int], object]:
    """The mean feature of every (identity, modality) that occurs."""
    members: dict[tuple[int, int], list[torch.Tensor]] = {}
    for feature, pid, of in zip(features, pids, modality, strict=True):
        members.setdefault((pid, of), []).append(feature)
    return {key: sum(group) / len(group) for key, group in members.items()}


def oracle_hetero_center(features, pids: list[int], modality: list[int]) -> torch.Tensor:
    centers = centers_of(features, pids, modality)
    both = [pid for pid in set(pids) if (pid, 0) in centers and (pid, 1) in centers]
    squared = [((centers[pid, 0] - centers[pid, 1]) ** 2).sum() for pid in both]
    return sum(squared, 0.0 * features.sum())


def oracle_hetero_center_triplet(features, pids, modality, margin: float) -> torch.Tensor:
    centers = centers_of(features, pids, modality)
    total = 0.0 * features.sum()
    for (pid, of), center in centers.items():
        other = centers.get((pid, 1 - of))
        positive = 0.0 if other is None else (center - other).norm()
        negatives = [(center - c).norm() for (who, _), c in centers.items() if who != pid]
        if negatives:
            total = total + torch.clamp(margin + positive - min(negatives), min=0)
    return total / len(centers)


def oracle_center(features, pids: list[int], centers: torch.Tensor) -> torch.Tensor:
    terms = [((f - centers[pid]) ** 2).sum() / 2 for f, pid in zip(features, pids, strict=True)]
    return sum(terms) / len(terms)


@st.composite
def batches(draw) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Any batch: identities of any number and order, perhaps only one, in either modality."""
    n = draw(st.integers(1, 10))
    pids = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    modality = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.3, 2.0, 10.0]))
    features = scale * torch.randn(n, 3, generator=rng, dtype=torch.float64)
    return features, torch.tensor(pids), torch.tensor(modality, dtype=torch.uint8)


def gradients(function, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


@pytest.mark.parametrize("seed", range(5))
def test_classification_equals_the_oracle(seed):
    rng = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(12, 7, generator=rng, dtype=torch.float64)
    targets = torch.randint(7, (12,), generator=rng)
    ours = gradients(lambda x: classification_loss(x, targets), logits)
    theirs = gradients(lambda x: oracle_classification(x, targets), logits)
    torch.testing.assert_close(ours, theirs)
    literal = classification_loss(logits, targets, divide_by_classes=True)
    torch.testing.assert_close(literal, theirs[0] / 7)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_triplet_equals_the_oracle(seed, margin):
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(12, 5, generator=rng, dtype=torch.float64)
    pids = torch.arange(4).repeat_interleave(3)[torch.randperm(12, generator=rng)]
    ours = gradients(lambda x: triplet_loss(x, pids, margin), features)
    theirs = gradients(lambda x: oracle_triplet(x, pids.tolist(), margin), features)
    torch.testing.assert_close(ours, theirs)


@given(batches())
@settings(deadline=None, max_examples=60)
def test_the_other_triplet_losses_equal_their_oracles(batch):
    features, pids, _ = batch
    for ours, theirs in (
        (soft_margin_triplet_loss, oracle_soft_margin),
        (weighted_triplet_loss, oracle_weighted),
        (squared_difference_triplet_loss, oracle_squared_difference),
    ):
        found = gradients(lambda x, loss=ours: loss(x, pids), features)
        expected = gradients(lambda x, loss=theirs: loss(x, pids.tolist()), features)
        torch.testing.assert_close(found, expected, msg=lambda m, f=ours: f"{f.__name__}: {m}")


@given(batches())
@settings(deadline=None, max_examples=60)
def test_the_losses_on_centers_equal_their_oracles(batch):
    features, pids, modality = batch
    lists = pids.tolist(), modality.tolist()
    torch.testing.assert_close(
        gradients(lambda x: hetero_center_loss(x, pids, modality), features),
        gradients(lambda x: oracle_hetero_center(x, *lists), features),
    )
    torch.testing.assert_close(
        gradients(lambda x: hetero_center_triplet_loss(x, pids, modality, 0.3), features),
        gradients(lambda x: oracle_hetero_center_triplet(x, *lists, 0.3), features),
    )
    centers = torch.arange(12, dtype=torch.float64).view(4, 3)
    torch.testing.assert_close(
        gradients(lambda c: center_loss(features, pids, c), centers),
        gradients(lambda c: oracle_center(features, lists[0], c), centers),
    )


# On a line: identity 0 at 0 (RGB) and 2 (infrared), identity 1 at 3 (RGB) and 7 (infrared).
LINE = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
TWO, MODALITY = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1], dtype=torch.uint8)


def test_losses_on_a_line_by_hand():
    # Hard pairs: 2 - 3, 2 - 1, 4 - 1 and 4 - 5.
    by_hand = [math.log1p(math.exp(d)) for d in (-1, 1, 3, -1)]
    assert soft_margin_triplet_loss(LINE, TWO).item() == pytest.approx(sum(by_hand) / 4)
    # The image at 0: itself and 2 are positives, 3 and 7 negatives.
    e = math.exp
    positives = [(0 + 2 * e(2)) / (1 + e(2))] * 2 + [(0 + 4 * e(4)) / (1 + e(4))] * 2
    of = [(3, 7), (1, 5), (3, 1), (7, 5)]
    negatives = [(a * e(-a) + b * e(-b)) / (e(-a) + e(-b)) for a, b in of]
    differences = [p - n for p, n in zip(positives, negatives, strict=True)]
    weighted = sum(math.log1p(e(d)) for d in differences) / 4
    squared = sum(math.log1p(e(d * abs(d))) for d in differences) / 4
    assert weighted_triplet_loss(LINE, TWO).item() == pytest.approx(weighted)
    assert squared_difference_triplet_loss(LINE, TWO).item() == pytest.approx(squared)
    # Each image is a center: 2² + 4²; hinges 2 - 3, 2 - 1, 4 - 1, 4 - 5, and the margin.
    assert hetero_center_loss(LINE, TWO, MODALITY).item() == 20
    triplet = hetero_center_triplet_loss(LINE, TWO, MODALITY, 0.5).item()
    assert triplet == pytest.approx((0 + 1.5 + 3.5 + 0) / 4)
    assert center_loss(LINE, TWO, torch.tensor([[1.0], [4.0]])).item() == (1 + 1 + 1 + 9) / 8


def test_far_negatives_keep_their_weight_and_a_square_stops_at_88():
    # AGW's code would give negatives at distance 30 no weight, and so the loss log(1 + exp(1)).
    features = torch.tensor([[0.0], [1.0], [31.0], [32.0]])
    assert weighted_triplet_loss(features, TWO).item() < 1e-9
    crossed = torch.tensor([[0.0], [100.0], [0.0], [100.0]], requires_grad=True)
    loss = squared_difference_triplet_loss(crossed, TWO)
    assert loss.item() == pytest.approx(88)
    assert torch.autograd.grad(loss, crossed)[0].abs().max() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_cross_entropy_with_softened_targets(smoothing):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=rng, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    expected = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        for m, x in enumerate(row):
            share = smoothing / 5 + (1 - smoothing if m == target else 0)
            expected -= share * (x - log_sum) / 6
    found = classification_loss(logits, targets, label_smoothing=smoothing)
    assert found.item() == pytest.approx(expected)


def test_triplet_by_hand():
    # On a line at 0 and 1 (identity 0), 3 and 5 (identity 1): each anchor's terms are
    # 0: m + 1 - 3, 1: m + 1 - 2, 3: m + 2 - 2, 5: m + 2 - 4.
    features = torch.tensor([[0.0], [1.0], [3.0], [5.0]])
    pids = torch.tensor([0, 0, 1, 1])
    assert triplet_loss(features, pids, margin=0.3).item() == pytest.approx(0.3 / 4)
    assert triplet_loss(features, pids, margin=2.0).item() == pytest.approx((0 + 1 + 2 + 0) / 4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("hard", 0.3),
        ("soft-margin", math.log(2)),
        ("weighted", math.log(2)),
        ("squared-difference", math.log(2)),
    ],
)
def test_equal_features_give_no_nan_gradient(kind, expected):
    value, gradient = gradients(lambda x: TRIPLETS[kind](x, TWO, 0.3), torch.ones(4, 3))
    assert value.item() == pytest.approx(expected)
    assert torch.isfinite(gradient).all()


def test_equal_centers_give_no_nan_gradient():
    for loss, expected in ((hetero_center_loss, ()), (hetero_center_triplet_loss, (0.3,))):
        value, gradient = gradients(
            lambda x, loss=loss, margin=expected: loss(x, TWO, MODALITY, *margin), torch.ones(4, 3)
        )
        assert value.item() == pytest.approx(sum(expected))
        assert torch.isfinite(gradient).all()


def test_close_features_keep_their_distance_in_float32():
    # |a|² + |b|² - 2ab would give 0 or noise here.
    features = torch.tensor([[1000.0, 0.0], [1000.0, 0.01]])
    assert pairwise_distance(features)[0, 1].item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_inputs_are_summed_in_float32(dtype):
    features, logits = torch.randn(4, 3).to(dtype), torch.randn(8, 5).to(dtype)
    assert classification_loss(logits, torch.zeros(8).long()).dtype == torch.float32
    assert all(loss(features, TWO, 0.3).dtype == torch.float32 for loss in TRIPLETS.values())
    assert hetero_center_loss(features, TWO, MODALITY).dtype == torch.float32
    assert hetero_center_triplet_loss(features, TWO, MODALITY, 0.3).dtype == torch.float32
    assert center_loss(features, TWO, features).dtype == torch.float32


def test_centers_of_half_precision_features_are_means_in_float32():
    # 0.1 + 2048 is 2048 in float16, whose mean would be off by 0.05.
    features = torch.tensor([[0.1], [2048.0], [0.0]], dtype=torch.float16)
    modality = torch.tensor([0, 0, 1], dtype=torch.uint8)
    loss = hetero_center_loss(features, torch.zeros(3).long(), modality)
    assert loss.item() == pytest.approx(((float(features[0]) + 2048) / 2) ** 2, rel=1e-6)


def test_a_uniform_prediction_costs_log_m():
    assert classification_loss(torch.zeros(4, 10), torch.arange(4)).item() == pytest.approx(
        math.log(10)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classification": False, "triplet": False}, "nothing is left to learn from"),
        ({"margin": -0.1}, "--loss.margin -0.1: must be at least 0"),
        ({"triplet_weight": -1.0}, "--loss.triplet-weight -1.0: must be at least 0"),
        ({"hetero_center": -1.0}, "--loss.hetero-center -1.0: must be at least 0"),
        ({"hetero_center_triplet": math.nan}, "--loss.hetero-center-triplet nan: must be"),
        ({"center": math.inf}, "--loss.center inf: must be at least 0"),
        ({"label_smoothing": 1.0}, "--loss.label-smoothing 1.0: must be in 0…1, 1 excluded"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        LossOptions(**options)


def test_oracle_and_numpy_agree_on_distance():
    x = np.random.default_rng(0).normal(size=(6, 4))
    expected = np.linalg.norm(x[:, None] - x[None], axis=-1)
    np.testing.assert_allclose(pairwise_distance(torch.from_numpy(x)).numpy(), expected)
