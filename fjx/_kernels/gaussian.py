"""The Lloyd-Max quantiser of a Gaussian, which suits the coordinates of rotated vectors."""

import functools
import math
from statistics import NormalDist

import numpy as np


@functools.cache
def gaussian_quantiser(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The 2^bits levels with the least squared error on N(0, 1), and the boundaries between them.

    In the quantiser of Lloyd and Max, each level is the mean of its cell, and each boundary the
    midpoint of its two levels.  Newton's method finds this fixed point.  Lloyd's own iteration
    needs 90,000 steps for 256 levels.  Zero bits give the single level 0.
    """
    if bits == 0:
        return np.zeros(1), np.zeros(0)
    half = 2 ** (bits - 1)  # the positive cells; the others mirror them
    # Panter and Dite: many levels have the density of a normal distribution of variance 3.
    start = NormalDist(0, math.sqrt(3))
    inner = np.array([start.inv_cdf(0.5 + 0.5 * j / half) for j in range(1, half)])
    for _ in range(9):
        edges = np.concatenate([[0.0], inner, [np.inf]])
        density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
        tail = np.array([math.erfc(t / math.sqrt(2)) / 2 for t in edges])
        mass = tail[:-1] - tail[1:]
        levels = (density[:-1] - density[1:]) / mass
        # Derivatives of the level below a boundary, and of the one above it, by the boundary.
        below = density[1:-1] * (inner - levels[:-1]) / mass[:-1]
        above = density[1:-1] * (levels[1:] - inner) / mass[1:]
        jacobian = np.diag(1 - (below + above) / 2)
        jacobian -= np.diag(above[:-1], -1) / 2 + np.diag(below[1:], 1) / 2
        inner = inner - np.linalg.solve(jacobian, inner - (levels[:-1] + levels[1:]) / 2)
    return np.concatenate([-levels[::-1], levels]), np.concatenate([-inner[::-1], [0.0], inner])
