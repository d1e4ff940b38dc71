"""Explicit strategy matrices in float64, built from their definitions.

Toeplitz matrices come from their columns, trees from their nodes and estimators.  Of a tree, C^-1
follows from the covariance of the noise on the running sums, because a lower triangular factor with
a positive diagonal is unique.
"""

import numpy as np

from fjx import privacy

ROUNDS = 23
OMEGA, THETA = (0.3, 0.1), (0.6, 0.95)
BANDED = (1.25, 0.5, 0.4, 0.2)
SQUARE_ROOT = privacy.square_root_coefficients(ROUNDS)


def lower(column, rounds):
    """The lower triangular Toeplitz matrix with that first column."""
    column = np.pad(np.asarray(column, float), (0, rounds))
    return np.array([[column[t - s] * (s <= t) for s in range(rounds)] for t in range(rounds)])


def blt(rounds):
    return [1.0] + [
        sum(w * q ** (k - 1) for w, q in zip(OMEGA, THETA, strict=True)) for k in range(1, rounds)
    ]


def nodes(restart, rounds):
    """The complete nodes of the trees of a run, children before parents: (first round, height)."""
    for start in range(0, rounds, restart):
        size = min(restart, rounds - start)
        for height in range(size.bit_length()):
            for first in range(0, size - 2**height + 1, 2**height):
                yield start + first, height


def node_matrix(restart, rounds):
    """One row a node: the rounds that it adds up."""
    t = np.arange(rounds)
    return np.array(
        [(first <= t) & (t < first + 2**height) for first, height in nodes(restart, rounds)], float
    )


def estimates(restart, rounds, honaker):
    """Each node's sum as a combination of all noised nodes, and the variance of its noise.

    With Honaker's estimator: its own value and its children's estimates by inverse variances.
    """
    keys = list(nodes(restart, rounds))
    combination, variance = {}, {}
    for i, (first, height) in enumerate(keys):
        own, half = np.eye(len(keys))[i], 2**height // 2
        combination[first, height], variance[first, height] = own, 1.0
        if honaker and height:
            children = [(first, height - 1), (first + half, height - 1)]
            together = variance[children[0]] + variance[children[1]]
            weight = (1 / together) / (1 + 1 / together)
            combination[first, height] = (1 - weight) * own + weight * sum(
                combination[child] for child in children
            )
            variance[first, height] = 1 / (1 + 1 / together)
    return combination, variance


def digits(restart, rounds):
    """The nodes that make up the running sums 1, 2, ..., rounds: their binary digits, tree by tree."""
    for t in range(1, rounds + 1):
        first, parts = 0, []
        while first < t:
            size = min(restart - first % restart, t - first)  # what is left of this tree
            height = size.bit_length() - 1
            parts.append((first, height))
            first += 2**height
        yield parts


def decoder(restart, rounds, honaker):
    """One row a round: its running sum as a combination of all noised nodes."""
    combination, _ = estimates(restart, rounds, honaker)
    return np.array([sum(combination[part] for part in parts) for parts in digits(restart, rounds)])


def tree_inverse(restart, rounds, honaker):
    rows = decoder(restart, rounds, honaker)
    return np.diff(np.linalg.cholesky(rows @ rows.T), axis=0, prepend=0)
