"""HCML's metrics, learned offline from the features of all training images; NumPy, float64.

Ye et al., "Hierarchical Discriminative Learning for Visible Thermal Person Re-Identification", AAAI
2018: a transformation of each modality, V and T, pulls the images of an identity together, and a
metric across modalities, M, holds the identities' means apart. Minimised are

    Σ w log(1 + exp(y (‖x̄V - z̄T‖²_M - μ)))                       over pairs of mean features x̄, z̄
    + λ (mean log(1 + exp ‖xV - x̄V‖²) + mean log(1 + exp ‖zT - z̄T‖²))         over images x, z

y is 1 for a pair of one identity and -1 for others, and w gives either kind a total weight of 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from numpy import ndarray
from scipy.special import expit

Matrix = Float64[ndarray, "k k"]
STEP, DECAY = 0.1, 0.95  # of V and T: 0.1 · 0.95^i in iteration i
FIRST_STEP = 256.0  # of M; halved until its line search is content
TOLERANCE = 1e-6  # relative change of the objective at which iterations end
HALVINGS = 30


def principal_axes(
    features: Shaped[ndarray, "n d"], dimensions: int
) -> tuple[Float64[ndarray, " d"], Float64[ndarray, "d k"]]:
    """The mean, and the orthonormal axes of greatest variance, greatest first.

    k is `dimensions`, d, or n - 1, the dimensions in which n images can differ: the least of them.
    """
    x = features.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    k = min(dimensions, x.shape[1], max(1, len(x) - 1))
    _, axes = np.linalg.eigh(x.T @ x)  # ascending
    return mean, np.ascontiguousarray(axes[:, ::-1][:, :k])


@dataclass(frozen=True, slots=True)
class Side:
    """The images of one modality: m identities' mean features, and n images' deviations."""

    pids: Int64[ndarray, " m"]
    means: Float64[ndarray, "m k"]
    deviations: Float64[ndarray, "n k"]

    @staticmethod
    def of(features: Float64[ndarray, "n k"], pids: Int64[ndarray, " n"]) -> "Side":
        """Summarises n images' features."""
        known, identity = np.unique(pids, return_inverse=True)
        means = np.zeros((len(known), features.shape[1]))
        np.add.at(means, identity, features)
        means /= np.bincount(identity)[:, None]
        return Side(known, means, features - means[identity])

    def within(self, transformation: Matrix) -> float:
        """The mean over images of log(1 + exp(squared distance to their identity's mean))."""
        moved = self.deviations @ transformation
        return float(np.logaddexp(0, np.square(moved).sum(axis=1)).mean())

    def gradient_within(self, transformation: Matrix) -> Matrix:
        """The gradient of `within`."""
        moved = self.deviations @ transformation
        slopes = expit(np.square(moved).sum(axis=1))[:, None]
        return 2 / len(moved) * self.deviations.T @ (slopes * moved)


@dataclass(frozen=True, slots=True)
class Metrics:
    """V and T, and the positive semidefinite M."""

    v: Matrix
    t: Matrix
    m: Matrix

    @staticmethod
    def identity(k: int) -> "Metrics":
        """Squared Euclidean distance."""
        return Metrics(np.eye(k), np.eye(k), np.eye(k))


@dataclass(frozen=True, slots=True)
class Objective:
    """What `learn` minimises, with its gradients."""

    visible: Side
    thermal: Side
    within_weight: float  # λ
    signed: Float64[ndarray, "mv mt"]  # y w of each pair of means
    mu: float

    @staticmethod
    def of(visible: Side, thermal: Side, within_weight: float) -> "Objective":
        """With the mean squared distance of all pairs of means as μ."""
        same = visible.pids[:, None] == thermal.pids
        signed = np.where(same, 1 / max(1, same.sum()), -1 / max(1, (~same).sum()))
        objective = Objective(visible, thermal, within_weight, signed, 0.0)
        at_first = objective._excess(Metrics.identity(visible.means.shape[1]))
        return replace(objective, mu=float(at_first.mean()))

    def __call__(self, metrics: Metrics) -> float:
        """The objective."""
        within = self.visible.within(metrics.v) + self.thermal.within(metrics.t)
        return self.between(metrics) + self.within_weight * within

    def between(self, metrics: Metrics) -> float:
        """Its first sum, over pairs of means."""
        margins = np.sign(self.signed) * self._excess(metrics)
        return float((np.abs(self.signed) * np.logaddexp(0, margins)).sum())

    def gradient_m(self, metrics: Metrics) -> Matrix:
        """Its gradient with respect to M."""
        a, b = self.visible.means @ metrics.v, self.thermal.means @ metrics.t
        slopes = self._slopes(metrics)
        across = a.T @ slopes @ b
        own = (a.T * slopes.sum(axis=1)) @ a + (b.T * slopes.sum(axis=0)) @ b
        return own - across - across.T

    def gradients_v_t(self, metrics: Metrics) -> tuple[Matrix, Matrix]:
        """Its gradients with respect to V and to T."""
        a, b = self.visible.means @ metrics.v, self.thermal.means @ metrics.t
        slopes = self._slopes(metrics)
        of_v = self.visible.means.T @ (slopes.sum(axis=1)[:, None] * a - slopes @ b)
        of_t = self.thermal.means.T @ (slopes.sum(axis=0)[:, None] * b - slopes.T @ a)
        return (
            2 * of_v @ metrics.m + self.within_weight * self.visible.gradient_within(metrics.v),
            2 * of_t @ metrics.m + self.within_weight * self.thermal.gradient_within(metrics.t),
        )

    def _excess(self, metrics: Metrics) -> Float64[ndarray, "mv mt"]:
        """‖x̄V - z̄T‖²_M - μ of each pair; also of an M that is not positive semidefinite."""
        a, b = self.visible.means @ metrics.v, self.thermal.means @ metrics.t
        through = a @ metrics.m
        own = (through * a).sum(axis=1)[:, None] + (b @ metrics.m * b).sum(axis=1)
        return own - 2 * through @ b.T - self.mu

    def _slopes(self, metrics: Metrics) -> Float64[ndarray, "mv mt"]:
        return self.signed * expit(np.sign(self.signed) * self._excess(metrics))


def learn(
    objective: Objective, iterations: int, check: Callable[[], None] = lambda: None
) -> tuple[Metrics, list[float]]:
    """Minimises the objective from the identity; returns the metrics and its value over time.

    Each iteration is a step of accelerated proximal gradient for M, whose proximal operator
    projects onto positive semidefinite matrices, and a gradient step for V and T. No step raises
    the objective. Calls `check`, which may raise, once an iteration.
    """
    k = objective.visible.means.shape[1]
    metrics = Metrics.identity(k)
    before, momentum, step = metrics.m, 0.0, FIRST_STEP
    values = [objective(metrics)]
    for i in range(1, iterations + 1):
        check()
        weight = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = metrics.m + (momentum - 1) / weight * (metrics.m - before)
        found, step = _descend_m(objective, replace(metrics, m=ahead), step)
        if objective.between(found) > objective.between(metrics):  # overshot: lose the momentum
            weight = 1.0
            found, step = _descend_m(objective, metrics, step)
        before, momentum = metrics.m, float(weight)
        metrics, value = _descend_v_t(objective, found, STEP * DECAY**i)
        values.append(value)
        if abs(values[-1] - values[-2]) <= TOLERANCE * abs(values[-2]):
            break
    return metrics, values


def projected(m: Matrix) -> Matrix:
    """The positive semidefinite matrix nearest to the symmetric part of `m`."""
    values, vectors = np.linalg.eigh((m + m.T) / 2)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def square_root(m: Matrix) -> Matrix:
    """The symmetric S with S S = `m`, which is positive semidefinite."""
    values, vectors = np.linalg.eigh(m)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _descend_m(objective: Objective, at: Metrics, step: float) -> tuple[Metrics, float]:
    """A proximal step for M from `at`, halved until the quadratic model there bounds the result."""
    value, gradient = objective.between(at), objective.gradient_m(at)
    for _ in range(HALVINGS):
        found = replace(at, m=projected(at.m - step * gradient))
        change = found.m - at.m
        bound = value + (change * gradient).sum() + np.square(change).sum() / (2 * step)
        if objective.between(found) <= bound:
            break
        step /= 2
    return found, step


def _descend_v_t(objective: Objective, at: Metrics, step: float) -> tuple[Metrics, float]:
    """A gradient step for V and T, halved until it does not raise the objective; the new value."""
    before, (of_v, of_t) = objective(at), objective.gradients_v_t(at)
    for _ in range(HALVINGS):
        found = replace(at, v=at.v - step * of_v, t=at.t - step * of_t)
        value = objective(found)
        if value <= before:
            return found, value
        step /= 2
    return at, before
