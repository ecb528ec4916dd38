"""Linear separability: how well a plane in latent space predicts an attribute of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stylegan_ray.metrics.statistics import Array, as_numpy


def entropy(joint: Array) -> float:
    """Entropy in bits of a table of probabilities or counts."""
    probs = np.asarray(joint, dtype=np.float64)
    probs = probs[probs > 0] / probs.sum()
    return float(-(probs * np.log2(probs)).sum())


def conditional_entropy(joint: Array) -> float:
    """H(Y|X) in bits of a table [X,Y]: the uncertainty of the column given the row."""
    return max(entropy(joint) - entropy(np.asarray(joint, dtype=np.float64).sum(axis=1)), 0.0)


def mutual_information(joint: Array) -> float:
    """I(X;Y) in bits of a table [X,Y]."""
    table = np.asarray(joint, dtype=np.float64)
    return entropy(table.sum(axis=1)) + entropy(table.sum(axis=0)) - entropy(table)


def linear_separability(latents: Array, logits: Array, keep: float = 0.5) -> float:
    """2 to the sum over attributes of H(class | side of the plane) (Karras et al. 2019, sec. 4.2).

    `latents` [N,L] and the classifiers' logits [N,A], positive with the attribute; uncertain images are left out.
    """
    points = as_numpy(latents, "latents").astype(np.float64)
    columns = as_numpy(logits, "logits").astype(np.float64).T
    return float(2 ** sum(_attribute_entropy(points, column, keep) for column in columns))


def _attribute_entropy(points: np.ndarray, logits: np.ndarray, keep: float) -> float:
    certain = np.argsort(-np.abs(logits), kind="stable")[: max(int(len(logits) * keep), 2)]
    points, classes = points[certain], logits[certain] > 0
    if classes.all() or not classes.any():
        return 0.0
    sides = separating_plane(points, classes).sides(points)
    table = [[np.sum((sides == x) & (classes == y)) for y in (False, True)] for x in (False, True)]
    return conditional_entropy(np.array(table))


class Plane:
    """A plane in latent space."""

    def __init__(self, normal: np.ndarray, offset: float) -> None:
        self.normal, self.offset = normal, offset

    def sides(self, points: np.ndarray) -> np.ndarray:
        """Whether each point [N,L] is on the positive side."""
        return points @ self.normal + self.offset > 0


def separating_plane(points: np.ndarray, classes: Sequence[bool] | np.ndarray, cost: float = 1.0) -> Plane:
    """The linear support vector machine with squared hinge loss (Chapelle 2007, primal Newton).

    Minimizes |w|^2 / 2 + cost * sum max(0, 1 - y (w.x + b))^2, b regularized as a further component of w.
    """
    signs = np.where(classes, 1.0, -1.0)
    inputs = np.concatenate([points, np.ones((len(points), 1))], axis=1)  # [N,L+1]
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        active = signs * (inputs @ weights) < 1
        rows = inputs[active]
        gradient = weights + 2 * cost * rows.T @ (rows @ weights - signs[active])
        step = np.linalg.solve(np.eye(len(weights)) + 2 * cost * rows.T @ rows, gradient)
        weights = weights - _damping(inputs, signs, weights, step, cost) * step
        if np.abs(gradient).max() < 1e-6 * cost * len(points):
            break
    return Plane(weights[:-1], float(weights[-1]))


def _damping(inputs: np.ndarray, signs: np.ndarray, weights: np.ndarray, step: np.ndarray, cost: float) -> float:
    """The largest power of 1/2 with which the Newton step does not increase the objective."""

    def objective(w: np.ndarray) -> float:
        return w @ w / 2 + cost * np.square(np.maximum(1 - signs * (inputs @ w), 0)).sum()

    before = objective(weights)
    return next((f for f in (0.5**i for i in range(20)) if objective(weights - f * step) <= before), 0.0)
