"""How losses depend on a mixture, and the mixture that is proposed from it: pure functions of arrays in float64.

The law and the proposal are those of michahu/on-policy-mix 0b4469c (pipeline/olmix_fit.py); arXiv:2605.15220.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OFFSETS = np.linspace(-2.0, 1.5, 10)
"""Where the search for an offset begins."""

STEEPEST = 10.0
"""Slopes beyond it, either way, are not looked at: a loss that falls by exp(10) over a mixture is a law bent around one row."""

LARGEST = 50.0
"""Exponents beyond it are cut: no loss is of that size."""


@dataclass(frozen=True)
class Law:
    """exp(offset) + exp(slopes . w): one loss as a function of the sources' weights w, slopes [d]. error: the mean Huber loss of its
    fit."""

    offset: float
    slopes: np.ndarray
    error: float = 0.0

    def predict(self, weights: np.ndarray) -> np.ndarray:
        """The losses at mixtures [R, d], [R]."""
        return np.exp(self.offset) + np.exp(np.minimum(np.asarray(weights) @ self.slopes, LARGEST))  # type: ignore[no-any-return]


def fit(
    weights: np.ndarray,
    losses: np.ndarray,
    own: int,
    starts: int = 300,
    delta: float = 0.02,
    seed: int = 0,
    steps: int = 300,
) -> Law:
    """The law with the smallest sum of Huber losses (quadratic within `delta`) over rows of mixtures [R, d] and their losses [R].

    Damped Gauss-Newton steps from every start at once: offsets from -2 to 1.5, a slope in (-1, 0) for the source `own` and in (0, 0.1)
    for the others (the release takes L-BFGS from the same starts, and has no bound on slopes; ours is `STEEPEST`). Needs a row or
    more; losses are positive and finite."""
    x, y = np.asarray(weights, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    rng, each = np.random.default_rng(seed), max(1, starts // len(OFFSETS))
    count = each * len(OFFSETS)
    slopes = 0.1 * rng.random((count, x.shape[1]))
    slopes[:, own] *= -10.0
    at = np.concatenate([np.repeat(OFFSETS, each)[:, None], slopes], 1)
    value, damping = _huber(at, x, y, delta), np.full(count, 1e-2)
    eye = np.eye(at.shape[1])
    for _ in range(steps):
        level, curve = _terms(at, x)
        slope = np.concatenate([np.broadcast_to(level[:, None, None], (*curve.shape, 1)), curve[:, :, None] * x], 2)
        gap = level[:, None] + curve - y
        weigh = np.minimum(1.0, delta / np.maximum(np.abs(gap), 1e-300))
        pull = np.einsum("srp,sr->sp", slope, weigh * gap)
        bend = np.einsum("srp,sr,srq->spq", slope, weigh, slope)
        scale = np.maximum(np.einsum("spp->sp", bend), 1e-12)
        step = np.linalg.solve(bend + damping[:, None, None] * scale[:, :, None] * eye, pull[:, :, None])[:, :, 0]
        tried = at - step
        tried[:, 1:] = np.clip(tried[:, 1:], -STEEPEST, STEEPEST)
        found = _huber(tried, x, y, delta)
        better = found < value
        at = np.where(better[:, None], tried, at)
        value = np.where(better, found, value)
        damping = np.clip(np.where(better, damping / 3.0, damping * 4.0), 1e-12, 1e12)
    best = int(np.argmin(value))
    return Law(float(at[best, 0]), at[best, 1:], float(value[best]) / len(y))


def _terms(at: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """exp(c) [S] and exp(t . w) [S, R] of every start."""
    return np.exp(np.minimum(at[:, 0], LARGEST)), np.exp(np.minimum(at[:, 1:] @ x.T, LARGEST))


def _huber(at: np.ndarray, x: np.ndarray, y: np.ndarray, delta: float) -> np.ndarray:
    """Sum of Huber losses of every start, [S]."""
    level, curve = _terms(at, x)
    gap = np.abs(level[:, None] + curve - y)
    return np.where(gap <= delta, 0.5 * gap**2, delta * (gap - 0.5 * delta)).sum(1)  # type: ignore[no-any-return]


def propose(slopes: np.ndarray, prior: np.ndarray, lam: float, steps: int = 500) -> np.ndarray:
    """The weights w >= 0 with sum 1 at which (1/J) sum_j exp(t_j . w) + lam KL(w || q) is smallest, [d]; slopes t [J, d], prior q [d]
    positive, lam > 0. The objective is strictly convex and its KL keeps w inside, so that Newton's steps on the plane sum w = 1 find
    the only minimum. Raises `ValueError` where they do not (slopes that are not finite)."""
    t, q = np.asarray(slopes, dtype=np.float64), np.asarray(prior, dtype=np.float64)
    q = q / q.sum()
    w, d = q.copy(), len(q)
    if not np.isfinite(t).all():
        raise ValueError("slopes are not finite")
    for _ in range(steps):
        curve = np.exp(t @ w) / len(t)
        pull = t.T @ curve + lam * (np.log(w / q) + 1.0)
        root = np.sqrt(w)  # in these units the KL bends alike everywhere
        bend = root[:, None] * (t.T * curve @ t) * root + lam * np.eye(d)
        whole = np.block([[bend, root[:, None]], [root[None], np.zeros((1, 1))]])
        step = root * np.linalg.solve(whole, np.append(-root * pull, 0.0))[:d]
        falling = step < 0
        size = min(1.0, 0.95 / float((-step[falling] / w[falling]).max())) if falling.any() else 1.0
        now, promised = objective(t, q, lam, w), float(pull @ step)
        last = -promised < 1e-12 * (1.0 + abs(now))  # float64 tells no more points apart, and a step squares the rest
        while not last and size > 1e-12 and objective(t, q, lam, w + size * step) > now + 1e-4 * size * promised:
            size /= 2
        w = w + size * step
        w = w / w.sum()
        if last:
            return w
    raise ValueError("no minimum was found")


def objective(slopes: np.ndarray, prior: np.ndarray, lam: float, weights: np.ndarray) -> float:
    """What `propose` makes small; inf outside of the simplex's inside."""
    if (weights <= 0).any():
        return float("inf")
    return float(np.exp(slopes @ weights).mean() + lam * (weights * np.log(weights / prior)).sum())


__all__ = ["Law", "fit", "objective", "propose"]
