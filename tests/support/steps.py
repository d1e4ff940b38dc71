"""Whole numbers of steps as floats, for tests that look at a private sum before its noise."""

import numpy as np

from fjx.privacy._mechanisms import grid


def floats(steps, noise_multiplier, radius, family=grid.GAUSSIAN):
    """``f64``, the values of :class:`grid.Steps`."""
    total = 0
    for digit in steps.digits:
        total = total * 2**12 + np.asarray(digit, np.int64)
    return total * np.float64(grid.step_of(family, noise_multiplier, radius))
