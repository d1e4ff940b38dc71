"""Max-pooling made of slices and selections."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fjx._base import Array


def max_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Largest value of each window, as in :func:`flax.linen.max_pool`.

    Use it on a CPU, where the gradient of XLA's ``reduce_window`` takes longer than all
    convolutions around it.

    Guarantees:
        - Among equal values, the first in row-major order is taken and receives the whole gradient.
        - Derivatives of any order, in both modes, and ``vmap`` are supported.
        - NaN is taken before all other values.

    Args:
        inputs: array ``f[n, *space, c]``.
        window_shape: size of the window along each axis of space.
        strides: stride along each axis of space; one by default.
        padding: ``"VALID"``, ``"SAME"``, or pairs of widths; padded with -inf.

    Returns:
        Array ``f[n, *space, c]``.

    Raises:
        TypeError, ValueError: the errors of :func:`jax.lax.reduce_window` for shapes that do not
            fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import layers
        >>> x = jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1)
        >>> layers.max_pool(x, (2,), strides=(2,)).ravel().tolist()
        [3.0, 2.0]
    """
    window = (1, *window_shape, 1)
    steps = (1,) * len(window) if strides is None else (1, *strides, 1)
    if isinstance(padding, str):
        edges = lax.padtype_to_pads(inputs.shape, window, steps, padding)
    else:
        edges = [(0, 0), *padding, (0, 0)]
    return reduce_window_max(inputs, window, steps, edges)


def reduce_window_max(
    x: Array,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
) -> Array:
    """Result of the primitive ``reduce_window_max``, made of slices and selections."""
    ones = (1,) * x.ndim
    base, spread = tuple(base_dilation or ones), tuple(window_dilation or ones)
    out = jax.eval_shape(
        lambda x: lax.reduce_window(
            x, _least(x.dtype), lax.max, window_dimensions, window_strides, padding, base, spread
        ),
        x,
    ).shape
    edges = [(*sides, step - 1) for sides, step in zip(padding, base, strict=True)]
    x = lax.pad(x, jnp.asarray(_least(x.dtype), x.dtype), edges)
    whole = tuple(n * w for n, w in zip(out, window_dimensions, strict=True))
    if tuple(window_dimensions) == tuple(window_strides) and spread == ones:
        # Windows do not overlap: split each axis in two, and take slices without strides.
        x = x[tuple(slice(n) for n in whole)]
        x = x.reshape(*itertools.chain(*zip(out, window_dimensions, strict=True)))
        taps = [
            x[tuple(itertools.chain(*((slice(None), i) for i in tap)))]
            for tap in np.ndindex(*window_dimensions)
        ]
    else:
        taps = []
        for tap in np.ndindex(*window_dimensions):
            start = [i * step for i, step in zip(tap, spread, strict=True)]
            stop = [
                s + (n - 1) * step + 1
                for s, n, step in zip(start, out, window_strides, strict=True)
            ]
            taps.append(lax.slice(x, start, stop, window_strides))
    return functools.reduce(_larger, taps)


def _larger(first: Array, second: Array) -> Array:
    """Larger of two arrays, by selection, so that only one of two equal values receives the gradient."""
    return jnp.where((first >= second) | (first != first), first, second)


def _least(dtype: jnp.dtype) -> np.ndarray:
    """Least value of a dtype."""
    least = -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min
    return np.asarray(least, dtype)
