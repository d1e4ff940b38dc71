"""Sums on a grid: whole numbers of steps, exact in any order, with noise on the same grid.

A float sum rounds, and one client may move the rounding of all others: a running sum of float32 can
move by many times the clip norm when one client comes.  So a client's bounded update is rounded towards
zero to whole steps, which keeps every norm within the bound.  Steps are added as integers, and the
noise is an integer as well.  The result depends on their sum alone, in any order and on any devices.

A step is the noise divided by a constant (:mod:`fjx.privacy._mechanisms.fine`), so the rounding is far
below the noise.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key, Tree
from fjx._tree import require_floating
from fjx.privacy._mechanisms import fine

LARGEST, SMALLEST = 2.0**100, 2.0**-100
"""Limits of the clip norm: no sum, noise or step overflows or vanishes between them."""
LEAST = 2.0**-5
"""Multiplier below which the grid stays as it is and the noise shrinks on it; no epsilon is finite there."""
MOST = 500_000
"""Largest number of clients whose steps are added without an overflow."""
COORDINATES = 2**32
"""Largest number of coordinates of a message."""
DISTANCE = COORDINATES * fine.DISTANCE
"""Total variation between the draws of one release and their law, for any message."""
_LOW = 12


class Steps(NamedTuple):
    """Whole numbers of steps, as ``2^12 high + low``; sums of up to :data:`MOST` clients fit.

    Attributes:
        high: ``i32``, the high part.
        low: ``i32``, the low part: in [0, 2^12) for one client, larger for a sum.
    """

    high: Array
    low: Array


class Family(NamedTuple):
    """A family of noise.

    Attributes:
        draw: ``(key, shape) -> i32[shape]``.
        width: deviation or scale of a draw, in steps.
    """

    draw: Callable[[Key, tuple[int, ...]], Array]
    width: float


GAUSSIAN = Family(fine.gaussian, fine.GAUSSIAN)
LAPLACE = Family(fine.laplace, fine.LAPLACE)


def step_of(family: Family, noise_multiplier: Array | float, radius: Array | float) -> Array:
    """``f32[]``, the step of the grid: the noise z C divided by its width in steps."""
    z = jnp.maximum(jnp.asarray(noise_multiplier, jnp.float32), LEAST)
    return z * jnp.float32(1 / family.width) * jnp.asarray(radius, jnp.float32)


def in_steps(update: Tree, step: Array) -> Tree:
    """Round the leaves of an update towards zero to :class:`Steps`, exactly beyond 2^24 steps."""

    def split(x: Array) -> Steps:
        whole = jnp.trunc(x.astype(jnp.float32) / step)
        high = jnp.floor(whole * 2.0**-_LOW)
        return Steps(high.astype(jnp.int32), (whole - high * 2.0**_LOW).astype(jnp.int32))

    return jax.tree.map(split, update)


def value(steps: Steps, noise: Array, step: Array) -> Array:
    """``f32``, the value of steps plus noise; it depends on their sum alone."""
    low = steps.low + noise
    high = steps.high + (low >> _LOW)
    low = low & (2**_LOW - 1)
    return (high.astype(jnp.float32) * 2.0**_LOW + low.astype(jnp.float32)) * step


def draw(family: Family, key: Key, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Independent noise of some shapes, in steps.

    One draw serves all shapes: a program then has the sampler once, and not once for each leaf.

    Raises:
        TypeError: the key is not a typed key.
        ValueError: there are more than 2^32 coordinates.
    """
    _validate.key("key", key)
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) > COORDINATES:
        raise ValueError(f"noise is accounted for at most 2^32 coordinates, got {sum(sizes)}")
    drawn = family.draw(key, (sum(sizes),))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        drawn[start : start + size].reshape(shape)
        for start, size, shape in zip(starts, sizes, shapes, strict=True)
    ]


def shrunk(noise: Array, noise_multiplier: Array | float) -> Array:
    """Noise for a multiplier below :data:`LEAST`, at which the grid stays as it is; none for zero."""
    if _validate.concrete(noise_multiplier) and float(noise_multiplier) >= LEAST:
        return noise
    share = jnp.asarray(noise_multiplier, jnp.float32) / LEAST
    scaled = jnp.round(share * noise.astype(jnp.float32)).astype(jnp.int32)
    return jnp.where(share < 1, scaled, noise)


def parts(total: Tree, step: Array) -> tuple[list[Steps], list[Any], Any]:
    """Leaves of a sum as steps, the dtypes of the result, and the structure.

    A sum of floats is rounded to steps here.  It was not exact then, as the caller knows.

    Raises:
        TypeError: a leaf is neither :class:`Steps` nor floating.
    """
    leaves, treedef = jax.tree.flatten(total, is_leaf=lambda x: isinstance(x, Steps))
    floats = [leaf for leaf in leaves if not isinstance(leaf, Steps)]
    if floats:
        require_floating("total", total)
        dtypes = [leaf.dtype for leaf in leaves]
        return [in_steps(leaf, step) for leaf in leaves], dtypes, treedef
    return leaves, [jnp.dtype(jnp.float32)] * len(leaves), treedef


def shapes_of(leaves: Sequence[Steps]) -> list[tuple[int, ...]]:
    return [leaf.low.shape for leaf in leaves]


def assemble(
    leaves: Sequence[Steps],
    noise: Sequence[Array],
    step: Array,
    clients: Array,
    dtypes: Sequence[Any],
    treedef: Any,
) -> Tree:
    """Tree of the values; NaN if more than :data:`MOST` clients were added, whose sum may not fit."""
    fits = jnp.asarray(clients) <= MOST
    return treedef.unflatten(
        [
            jnp.where(fits, value(leaf, own, step), jnp.nan).astype(dtype)
            for leaf, own, dtype in zip(leaves, noise, dtypes, strict=True)
        ]
    )


def noised(
    family: Family,
    key: Key,
    total: Tree,
    clients: Array,
    noise_multiplier: Array | float,
    radius: Array | float,
) -> Tree:
    """Sum plus independent noise of z C a coordinate."""
    step = step_of(family, noise_multiplier, radius)
    leaves, dtypes, treedef = parts(total, step)
    shapes = shapes_of(leaves)
    if _validate.concrete(noise_multiplier) and float(noise_multiplier) == 0:
        _validate.key("key", key)
        noise = [jnp.zeros(shape, jnp.int32) for shape in shapes]
    else:
        noise = [shrunk(x, noise_multiplier) for x in draw(family, key, shapes)]
    return assemble(leaves, noise, step, clients, dtypes, treedef)


def require_range(noise_multiplier: Array | float, radius: Array | float) -> None:
    """Raise if sums or noise could leave the range of float32.

    Raises:
        ValueError: the clip norm or the noise is out of range.
    """
    if not _validate.concrete(radius):
        return
    c = float(radius)
    if not SMALLEST <= c <= LARGEST:
        raise ValueError(
            f"clip_norm must be between 2^-100 and 2^100, so that sums and noise fit float32; got {c!r}"
        )
    if _validate.concrete(noise_multiplier) and float(noise_multiplier) * c > 2.0**120:
        raise ValueError(
            f"noise_multiplier * clip_norm must be at most 2^120, so that noise fits float32; got "
            f"{float(noise_multiplier) * c!r}"
        )
