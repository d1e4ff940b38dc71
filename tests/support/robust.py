"""Robust aggregation rules in NumPy, as their papers state them: slow, in float64, one cohort at a time.

Each takes the messages that came, ``[n, d]``.
"""

import itertools

import numpy as np


def squares(x):
    """All squared distances, from differences."""
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def median(x):
    return np.median(x, axis=0)


def trimmed_mean(x, f):
    return np.sort(x, axis=0)[f : len(x) - f].mean(0)


def around(x, k):
    """The mean of the k values of each coordinate that are nearest to the median."""
    order = np.argsort(np.abs(x - np.median(x, axis=0)), axis=0, kind="stable")[:k]
    return np.take_along_axis(x, order, axis=0).mean(0)


def mean_around_median(x, f):
    return around(x, len(x) - f)


def scores(x, f):
    return np.sort(squares(x), axis=1)[:, : len(x) - f].sum(1)


def krum(x, f):
    return x[np.argmin(scores(x, f))]


def multi_krum(x, f):
    return x[np.argsort(scores(x, f), kind="stable")[: len(x) - f]].mean(0)


def bulyan(x, f):
    left, chosen = list(range(len(x))), []
    while len(chosen) < len(x) - 2 * f:
        chosen.append(left.pop(int(np.argmin(scores(x[left], f)))))
    return around(x[sorted(chosen)], len(x) - 4 * f)


def best_subset(x, f, cost):
    kept = min(itertools.combinations(range(len(x)), len(x) - f), key=lambda s: cost(x[list(s)]))
    return x[list(kept)].mean(0)


def mda(x, f):
    return best_subset(x, f, lambda y: squares(y).max())


def smea(x, f):
    # Rounded, so that equal eigenvalues are a tie.
    return best_subset(x, f, lambda y: np.round(np.linalg.norm(y - y.mean(0), 2) ** 2, 5))


def mixed(x, f):
    near = np.argsort(squares(x), axis=1, kind="stable")[:, : len(x) - f]
    return x[near].mean(1)


def clipped(x, f):
    norms = np.linalg.norm(x, axis=1)
    k = 2 * f * (len(x) - f) // len(x)
    bound = np.sort(norms)[len(x) - k - 1]
    return x * np.minimum(1, bound / np.maximum(norms, 1e-30))[:, None]


def centered_clipping(x, radius, iterations, v):
    for _ in range(iterations):
        norms = np.linalg.norm(x - v, axis=1, keepdims=True)
        v = v + ((x - v) * np.minimum(1, radius / np.maximum(norms, 1e-30))).mean(0)
    return v


def caf(x, f):
    c, best, smallest = np.ones(len(x)), x.mean(0), np.inf
    while c.sum() > len(x) - 2 * f:
        mean = c @ x / c.sum()
        values, vectors = np.linalg.eigh((c[:, None] * (x - mean)).T @ (x - mean) / c.sum())
        if values[-1] < smallest:
            best, smallest = mean, values[-1]
        t = ((x - mean) @ vectors[:, -1]) ** 2 * (c > 0)
        if t.max() == 0:
            break
        c = c * (1 - t / t.max())
    return best


def fltrust(x, g):
    norms = np.maximum(np.linalg.norm(x, axis=1), 1e-30)
    score = np.maximum(x @ g / norms / np.linalg.norm(g), 0)
    return (score / norms) @ x * np.linalg.norm(g) / score.sum() if score.sum() else 0 * g


def mean_unit_vector(x, z):
    """The length of the gradient of the sum of distances, over n."""
    lengths = np.linalg.norm(z - x, axis=1)
    return np.linalg.norm(((z - x) / np.maximum(lengths, 1e-30)[:, None]).mean(0))
