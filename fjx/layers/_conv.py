"""Convolutions made of matrix products, which stay fast inside loops and under ``vmap``.

Every form below consists of slices, pads, reshapes and products, so derivatives of any order and
``vmap`` over either operand consist of the same parts.  Inside, arrays are ``x: [n, *space, c]``,
already padded, and ``w: [*window, c, d]``.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fjx._base import Array

Ints = Sequence[int]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Convolution like :func:`jax.lax.conv_general_dilated`, made of matrix products.

    Use it in loops and under ``vmap``, for example as the ``conv_general_dilated`` of ``nn.Conv``.
    One of three algorithms runs:

    - One product of patches and kernel, in general.
    - The minimal algorithm of Toom, Cook and Winograd, which saves nearly half of all products.  It
      needs float32, kernels of 2 to 5 taps an axis without strides, and layers of 16 channels or
      more.
    - Sums over the taps, if each channel has its own kernel.

    Guarantees:
        - Equal to lax up to float32 rounding; the minimal algorithm differs by at most 3e-5 of the
          largest value (measured with 32 and 64 channels: 1e-5 for up to 4 taps an axis, 1.6e-5 for
          5).
        - Derivatives of any order, in both modes, and ``vmap`` over inputs and kernels are matrix
          products too.

    Args:
        lhs: inputs, ``[n, *space, c]`` or in the layout of ``dimension_numbers``.
        rhs: kernels, ``[*window, c, d]`` or in the layout of ``dimension_numbers``.
        window_strides: as in :func:`jax.lax.conv_general_dilated`, like all arguments that follow.
        padding: as in lax.
        lhs_dilation: as in lax.
        rhs_dilation: as in lax.
        dimension_numbers: as in lax.
        feature_group_count: as in lax.
        batch_group_count: as in lax.
        precision: as in lax.
        preferred_element_type: as in lax.

    Returns:
        The result of lax.

    Raises:
        TypeError, ValueError: the errors of lax.

    Examples:
        As the convolution of a flax module:

        >>> import jax, jax.numpy as jnp, flax.linen as nn
        >>> from fjx import layers
        >>> layer = nn.Conv(4, (3, 3), conv_general_dilated=layers.conv_general_dilated)
        >>> x = jnp.ones((2, 8, 8, 1))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (2, 8, 8, 4)

    References:
        Winograd, *Arithmetic Complexity of Computations*, SIAM 1980; Lavin, Gray, *Fast Algorithms for
        Convolutional Neural Networks*, CVPR 2016 (arXiv:1509.09308).
    """
    # lax checks the arguments and gives the shape and dtype of the result.
    wanted = jax.eval_shape(
        functools.partial(
            lax.conv_general_dilated,
            window_strides=window_strides,
            padding=padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
        ),
        lhs,
        rhs,
    )
    if 0 in (*wanted.shape, *lhs.shape, *rhs.shape):
        return jnp.zeros(wanted.shape, wanted.dtype)
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    x = jnp.transpose(lhs, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    w = jnp.transpose(rhs, (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]))
    ones = (1,) * (x.ndim - 2)
    strides, spread = tuple(window_strides), tuple(rhs_dilation or ones)
    if isinstance(padding, str):
        reach = [(size - 1) * step + 1 for size, step in zip(w.shape[:-2], spread, strict=True)]
        padding = lax.padtype_to_pads(x.shape[1:-1], reach, strides, padding)
    edges = [(*sides, step - 1) for sides, step in zip(padding, lhs_dilation or ones, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])

    groups = feature_group_count
    if batch_group_count > 1:  # groups of examples become groups of channels
        groups = batch_group_count
        x = jnp.moveaxis(x.reshape(groups, -1, *x.shape[1:]), 0, -2)
        x = x.reshape(*x.shape[:-2], -1)
    shape = (x.shape[0], *(wanted.shape[i] for i in numbers.out_spec[2:]), w.shape[-1])
    product = functools.partial(
        jnp.einsum, precision=precision, preferred_element_type=preferred_element_type
    )
    if groups == 1 and strides == spread == ones and _is_worth_transforming(x, w, shape):
        y = _winograd(product, x, w, shape)
    elif groups > 1 and w.shape[-2] == 1:
        y = _depthwise(x, w, shape, strides, spread)
    else:
        y = _patchwise(product, x, w, shape, strides, spread, groups)
    axes = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(y, [axes.index(i) for i in range(y.ndim)]).astype(wanted.dtype)


def _window(x: Array, offset: Ints, sizes: Ints, steps: Ints) -> Array:
    """Strided slice ``x[:, o : o + (size - 1) step + 1 : step, ...]`` over the axes of space."""
    stops = [o + (size - 1) * step + 1 for o, size, step in zip(offset, sizes, steps, strict=True)]
    return lax.slice(x, (0, *offset, 0), (x.shape[0], *stops, x.shape[-1]), (1, *steps, 1))


def _patches(x: Array, window: Ints, out: Ints, strides: Ints, spread: Ints) -> Array:
    """Patches ``[n, *out, prod(window), c]``, the inputs of each output, made of few slices."""
    n, c = x.shape[0], x.shape[-1]
    if math.prod(window) <= math.prod(out):
        taps = [
            _window(x, [i * step for i, step in zip(tap, spread, strict=True)], out, strides)
            for tap in np.ndindex(*window)
        ]
        return taps[0][..., None, :] if len(taps) == 1 else jnp.stack(taps, axis=-2)
    views = [
        _window(x, [i * step for i, step in zip(place, strides, strict=True)], window, spread)
        for place in np.ndindex(*out)
    ]
    return jnp.stack(views, axis=1).reshape(n, *out, math.prod(window), c)


def _patchwise(
    product: Any, x: Array, w: Array, shape: Ints, strides: Ints, spread: Ints, groups: int
) -> Array:
    """Im2col: one product of patches and kernel; with groups, one product batched over the groups."""
    window, (c, d) = w.shape[:-2], w.shape[-2:]
    patches = _patches(x, window, shape[1:-1], strides, spread)
    if groups == 1:
        rows = patches.reshape(math.prod(shape[:-1]), -1)
        return product("rk,kd->rd", rows, w.reshape(-1, d)).reshape(shape)
    patches = patches.reshape(math.prod(shape[:-1]), math.prod(window), groups, c)
    kernel = w.reshape(math.prod(window), c, groups, d // groups)
    return product("rkgc,kcgd->rgd", patches, kernel).reshape(shape)


def _depthwise(x: Array, w: Array, shape: Ints, strides: Ints, spread: Ints) -> Array:
    """Convolution with one input channel a group: a sum over taps, too thin for a matrix product."""
    repeat = w.shape[-1] // x.shape[-1]
    y = jnp.zeros(shape, jnp.result_type(x, w))
    for tap in np.ndindex(*w.shape[:-2]):
        view = _window(x, [i * s for i, s in zip(tap, spread, strict=True)], shape[1:-1], strides)
        y = y + jnp.repeat(view, repeat, -1) * w[tap].reshape((1,) * (x.ndim - 1) + (-1,))
    return y


def _is_worth_transforming(x: Array, w: Array, shape: Ints) -> bool:
    """True if the transform needs 1.8 times fewer products and its matrices are not too thin."""
    if x.dtype != jnp.float32 or not all(2 <= r <= 5 for r in w.shape[:-2]):
        return False
    tiles = [-(-size // (7 - r)) for size, r in zip(shape[1:-1], w.shape[:-2], strict=True)]
    saved = math.prod(shape[1:-1]) * math.prod(w.shape[:-2]) / (math.prod(tiles) * 6 ** len(tiles))
    return min(w.shape[-2:]) >= 16 and saved >= 1.8


@functools.cache
def _toom_cook(r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of the minimal algorithm F(m, r) on tiles of m + r - 1 = 6 points, m = 7 - r.

    y = A' [(G g) * (B' d)] correlates d[6] with g[r] into y[m].
    """
    points, m = np.array([0.0, 1.0, -1.0, 2.0, -2.0]), 7 - r
    out, kernel, data = np.zeros((m, 6)), np.zeros((6, r)), np.zeros((6, 6))
    for j, point in enumerate(points):
        others = np.delete(points, j)
        out[:, j] = point ** np.arange(m)
        kernel[j] = point ** np.arange(r) / np.prod(point - others)
        data[j, :5] = np.poly(others)[::-1]
    out[-1, 5] = kernel[5, -1] = 1
    data[5] = np.poly(points)[::-1]
    return out, kernel, data


def _winograd(product: Any, x: Array, w: Array, shape: Ints) -> Array:
    """Minimal algorithm: cut tiles of six points an axis, transform, multiply, transform back."""
    n, *out, d = shape
    window, c = w.shape[:-2], w.shape[-2]
    axes = len(window)
    counts = [-(-size // (7 - r)) for size, r in zip(out, window, strict=True)]
    matrices = zip(*map(_toom_cook, window), strict=True)
    to_out, of_kernel, of_data = (
        functools.reduce(np.kron, each).astype(np.float32) for each in matrices
    )
    transform = functools.partial(jnp.einsum, "qp,p...->q...", precision=lax.Precision.HIGHEST)

    tiles = _tiles(x, [7 - r for r in window], counts)
    data = transform(of_data, tiles.reshape(6**axes, -1, c))
    kernel = transform(of_kernel, w.reshape(-1, c, d))
    y = transform(to_out, product("ptc,pcd->ptd", data, kernel))
    y = y.reshape(*[7 - r for r in window], n, *counts, d)
    # [*m, n, *tiles, d] -> [n, tile, m, tile, m, ..., d]
    order = [axes, *itertools.chain(*((axes + 1 + i, i) for i in range(axes))), 2 * axes + 1]
    y = y.transpose(order).reshape(
        n, *(k * (7 - r) for k, r in zip(counts, window, strict=True)), d
    )
    return _window(y, (0,) * axes, out, (1,) * axes)


def _tiles(x: Array, steps: Ints, counts: Ints) -> Array:
    """Tiles of six points that begin at every multiple of ``steps``: ``[*6, n, *counts, c]``.

    A tile is a block of ``step`` points and the beginning of the next blocks.  Overlapping tiles
    are thus two or three slices an axis, and their gradient is as many pads.
    """
    axes, n, c = len(steps), x.shape[0], x.shape[-1]
    reach = [-(-6 // m) for m in steps]  # blocks that a tile touches
    totals = [k + r - 1 for k, r in zip(counts, reach, strict=True)]
    padding = [k * m - size for k, m, size in zip(totals, steps, x.shape[1:-1], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((0, p, 0) for p in padding), (0, 0, 0)])
    x = x.reshape(n, *itertools.chain(*zip(totals, steps, strict=True)), c)
    order = (*range(2, 2 * axes + 1, 2), 0, *range(1, 2 * axes, 2), 2 * axes + 1)
    x = x.transpose(order)  # [*steps, n, *totals, c]
    for axis, (m, count) in enumerate(zip(steps, counts, strict=True)):
        blocks = [
            lax.slice_in_dim(x, i, i + count, axis=axes + 1 + axis) for i in range(reach[axis])
        ]
        blocks[-1] = lax.slice_in_dim(blocks[-1], 0, 6 - (reach[axis] - 1) * m, axis=axis)
        x = jnp.concatenate(blocks, axis=axis)
    return x
