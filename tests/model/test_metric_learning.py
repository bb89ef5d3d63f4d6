"""HCML's objective against loops and autograd, its solver, and the maps that a network applies."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.metric import ModalityMetric
from model.metric_learning import (
    Metrics,
    Objective,
    Side,
    learn,
    principal_axes,
    projected,
    square_root,
)

K = 4


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and identities of both modalities; identity 9 has no thermal image."""
    rng = np.random.default_rng(seed)
    of_visible, of_thermal = np.array([3, 9, 3, 5, 5, 3, 7]), np.array([5, 3, 7, 7, 5])
    return (
        rng.normal(size=(len(of_visible), K)),
        of_visible,
        rng.normal(size=(len(of_thermal), K)) + 0.5,
        of_thermal,
    )


def problem(within_weight: float = 0.2) -> Objective:
    x, of_x, z, of_z = images()
    return Objective.of(Side.of(x, of_x), Side.of(z, of_z), within_weight)


def anywhere(seed: int = 1) -> Metrics:
    rng = np.random.default_rng(seed)
    v, t, root = (rng.normal(size=(K, K)) for _ in range(3))
    return Metrics(v, t, root @ root.T)


def by_loops(metrics: Metrics, within_weight: float) -> float:
    """The objective as the paper writes it."""
    x, of_x, z, of_z = images()

    def mean(features, of, pid):
        return np.mean([row for row, its in zip(features, of, strict=True) if its == pid], axis=0)

    pairs = [(p, q) for p in sorted(set(of_x)) for q in sorted(set(of_z))]
    mu = np.mean([np.sum((mean(x, of_x, p) - mean(z, of_z, q)) ** 2) for p, q in pairs])
    num_same = sum(p == q for p, q in pairs)
    total = 0.0
    for p, q in pairs:
        y, w = (1, 1 / num_same) if p == q else (-1, 1 / (len(pairs) - num_same))
        apart = mean(x, of_x, p) @ metrics.v - mean(z, of_z, q) @ metrics.t
        total += w * math.log1p(math.exp(y * (apart @ metrics.m @ apart - mu)))
    for features, of, moves in ((x, of_x, metrics.v), (z, of_z, metrics.t)):
        terms = [
            math.log1p(math.exp(sum(((row - mean(features, of, pid)) @ moves) ** 2)))
            for row, pid in zip(features, of, strict=True)
        ]
        total += within_weight * np.mean(terms)
    return total


@pytest.mark.parametrize("within_weight", [0.0, 0.2])
@pytest.mark.parametrize("metrics", [Metrics.identity(K), anywhere()], ids=["at first", "anywhere"])
def test_the_objective_is_the_papers(metrics, within_weight):
    assert problem(within_weight)(metrics) == pytest.approx(by_loops(metrics, within_weight))


def test_gradients_are_those_of_autograd():
    objective, at = problem(), anywhere()
    v, t, m = (torch.tensor(x, requires_grad=True) for x in (at.v, at.t, at.m))
    signed = torch.tensor(objective.signed)
    a = torch.tensor(objective.visible.means) @ v
    b = torch.tensor(objective.thermal.means) @ t
    apart = a[:, None] - b
    distances = torch.einsum("ijk,kl,ijl->ij", apart, m, apart) - objective.mu
    loss = (signed.abs() * torch.nn.functional.softplus(signed.sign() * distances)).sum()
    for side, moves in ((objective.visible, v), (objective.thermal, t)):
        moved = (torch.tensor(side.deviations) @ moves).square().sum(dim=1)
        loss = loss + 0.2 * torch.nn.functional.softplus(moved).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(objective(at))
    np.testing.assert_allclose(objective.gradient_m(at), m.grad)
    for found, expected in zip(objective.gradients_v_t(at), (v.grad, t.grad), strict=True):
        np.testing.assert_allclose(found, expected)


def test_learning_lowers_the_objective_at_every_step_and_m_stays_positive_semidefinite():
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(12), 4)
    centers = rng.normal(size=(12, 9))
    visible = centers[of] + 0.5 * rng.normal(size=(48, 9))
    thermal = centers[of] @ rng.normal(size=(9, 9)) / 3 + 0.5 * rng.normal(size=(48, 9))
    objective = Objective.of(Side.of(visible, of), Side.of(thermal, of), 0.2)
    calls: list[None] = []
    metrics, values = learn(objective, 60, lambda: calls.append(None))
    assert values[0] == objective(Metrics.identity(9))
    assert values[-1] == pytest.approx(objective(metrics))
    assert (np.diff(values) <= 0).all()
    assert values[-1] < 0.8 * values[0]
    assert len(calls) == len(values) - 1 <= 60
    np.testing.assert_allclose(metrics.m, metrics.m.T, atol=1e-12)
    assert np.linalg.eigvalsh(metrics.m).min() > -1e-9
    # Both stages of the paper's hierarchy have learned: M, and V and T beside it.
    for moves in (metrics.v, metrics.t):
        assert np.abs(moves - np.eye(9)).max() > 1e-3
    # The better minimum is not M's alone.
    assert objective(metrics) < objective(replace(metrics, v=np.eye(9), t=np.eye(9)))


def test_learning_stops_where_nothing_is_to_be_gained():
    """All images are one point."""
    side = Side.of(np.ones((6, 3)), np.array([0, 0, 1, 1, 2, 2]))
    metrics, values = learn(Objective.of(side, side, 0.2), 300)
    assert len(values) == 2
    assert np.isfinite(metrics.m).all()


def test_the_projection_is_the_nearest_positive_semidefinite_matrix():
    rng = np.random.default_rng(0)
    m = rng.normal(size=(5, 5))
    found = projected(m)
    assert np.linalg.eigvalsh(found).min() > -1e-12
    for _ in range(50):
        root = rng.normal(size=(5, 5))
        other = found + 0.1 * root @ root.T
        assert np.linalg.norm(m - other) >= np.linalg.norm(m - found)
    already = root @ root.T
    np.testing.assert_allclose(projected(already), already)
    np.testing.assert_allclose(square_root(already) @ square_root(already), already)


@pytest.mark.parametrize(("n", "d", "wanted", "k"), [(30, 8, 5, 5), (30, 8, 600, 8), (6, 8, 7, 5)])
def test_principal_axes_are_those_of_svd_and_of_scikit_learn(n, d, wanted, k):
    from sklearn.decomposition import PCA  # slow to import

    x = np.random.default_rng(0).normal(size=(n, d)) * np.linspace(3, 1, d) + 2
    mean, axes = principal_axes(x, wanted)
    assert axes.shape == (d, k)
    np.testing.assert_allclose(mean, x.mean(axis=0))
    np.testing.assert_allclose(axes.T @ axes, np.eye(k), atol=1e-12)
    _, _, rows = np.linalg.svd(x - mean, full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(axes.T * rows[:k], axis=1)), 1)
    theirs = PCA(k).fit_transform(x)
    np.testing.assert_allclose(np.abs((x - mean) @ axes), np.abs(theirs), atol=1e-9)


def test_a_network_s_maps_begin_as_the_identity_without_a_random_number():
    torch.manual_seed(0)
    metric = ModalityMetric(5)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    assert not [weight for weight in metric.parameters() if weight.requires_grad]
    x = torch.randn(4, 5)
    infrared = torch.tensor([True, False, True, False])
    torch.testing.assert_close(metric(x, infrared), torch.nn.functional.normalize(x))
    with torch.no_grad():
        metric.rgb.weight.mul_(2)
        metric.infrared.bias.add_(1)
    moved = metric(x, infrared) - torch.nn.functional.normalize(x) * torch.tensor(
        [[1.0], [2.0], [1.0], [2.0]]
    )
    torch.testing.assert_close(moved, infrared.float()[:, None].expand(4, 5))
    metric.reset()
    torch.testing.assert_close(metric(x, infrared), torch.nn.functional.normalize(x))
