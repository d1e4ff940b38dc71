"""Sums on a grid: whole numbers of steps, exact in any order, with noise on the same grid.

A float sum rounds, and one client may move the rounding of all others: a running sum of float32 can
move by many times the clip norm when one client comes.  So a client's bounded update is rounded towards
zero to whole steps, which keeps every norm within the bound.  Steps are added as integers, and the
noise is an integer as well.  The result depends on their sum alone, in any order and on any devices.

A step is the noise of a round divided by a constant (:mod:`fjx.privacy._mechanisms.fine`), so the
rounding of one client is far below the noise.  Because it is towards zero, the rounding of clients and
rounds whose updates have one sign adds up.
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

LARGEST, SMALLEST = 2.0**100, 2.0**-64
"""Limits of the clip norm: no sum, noise or step overflows or vanishes between them."""
MOST = 500_000
"""Largest number of clients whose steps are added without an overflow."""
COORDINATES = 2**32
"""Largest number of coordinates of a message."""
DISTANCE = COORDINATES * fine.DISTANCE
"""Total variation between the draws of one release and their law, for any message."""
_BITS = 12  # of a digit
_LEAST = 2.0**-17  # the multiplier below which the grid stays, and the noise shrinks on it
_FEW = 2.0**-5  # the multiplier from which on two digits are enough


class Steps(NamedTuple):
    """Whole numbers of steps in base 2^12; sums of up to :data:`MOST` clients fit.

    Attributes:
        digits: arrays ``i32`` of the shape of the numbers, the highest digit first.  The lower digits
            are in [0, 2^12) for one client, and larger for a sum.
    """

    digits: tuple[Array, ...]


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
    z = jnp.maximum(jnp.asarray(noise_multiplier, jnp.float32), _LEAST)
    return z * jnp.float32(1 / family.width) * jnp.asarray(radius, jnp.float32)


def in_steps(
    family: Family, update: Tree, noise_multiplier: Array | float, radius: Array | float
) -> Tree:
    """Round the leaves of an update towards zero to :class:`Steps`."""
    step = step_of(family, noise_multiplier, radius)
    return jax.tree.map(lambda x: _split(x, step, _digits(noise_multiplier)), update)


def _digits(noise_multiplier: Array | float) -> int:
    enough = _validate.concrete(noise_multiplier) and float(noise_multiplier) >= _FEW
    return 2 if enough else 3


def _split(x: Array, step: Array, digits: int) -> Steps:
    rest = jnp.trunc(x.astype(jnp.float32) / step)
    found = []
    for _ in range(digits - 1):  # exact: the quotients are powers of two
        high = jnp.floor(rest * 2.0**-_BITS)
        found.append(rest - high * 2.0**_BITS)
        rest = high
    return Steps(tuple(digit.astype(jnp.int32) for digit in (rest, *found[::-1])))


def value(steps: Steps, noise: Array, step: Array) -> Array:
    """``f32``, the value of steps plus noise; it depends on their sum alone."""
    carry, found, low = noise, [], 2**_BITS - 1
    for digit in steps.digits[:0:-1]:
        # The sum itself need not fit: the digits of many clients fill 31 bits, and noise may be large.
        both = (carry & low) + (digit & low)
        found.append(both & low)
        carry = (carry >> _BITS) + (digit >> _BITS) + (both >> _BITS)
    total = (steps.digits[0] + carry).astype(jnp.float32)
    for digit in found[::-1]:
        total = total * 2.0**_BITS + digit.astype(jnp.float32)
    return total * step


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
    """Noise for a multiplier so small that the grid stays as it is; none for zero.

    No epsilon is finite at such multipliers.
    """
    if _validate.concrete(noise_multiplier) and float(noise_multiplier) >= _LEAST:
        return noise
    share = jnp.asarray(noise_multiplier, jnp.float32) / _LEAST
    scaled = jnp.round(share * noise.astype(jnp.float32)).astype(jnp.int32)
    return jnp.where(share < 1, scaled, noise)


def parts(
    family: Family, total: Tree, noise_multiplier: Array | float, radius: Array | float
) -> tuple[list[Steps], list[Any], Any]:
    """Leaves of a sum as steps, the dtypes of the result, and the structure.

    A sum of floats is rounded to steps here.

    Raises:
        TypeError: a leaf is neither :class:`Steps` nor floating.
    """
    leaves, treedef = jax.tree.flatten(total, is_leaf=lambda x: isinstance(x, Steps))
    floats = [leaf for leaf in leaves if not isinstance(leaf, Steps)]
    if floats:
        require_floating("total", total)
        dtypes = [leaf.dtype for leaf in leaves]
        return in_steps(family, leaves, noise_multiplier, radius), dtypes, treedef
    return leaves, [jnp.dtype(jnp.float32)] * len(leaves), treedef


def shapes_of(leaves: Sequence[Steps]) -> list[tuple[int, ...]]:
    """Shapes of the numbers."""
    return [leaf.digits[0].shape for leaf in leaves]


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
    leaves, dtypes, treedef = parts(family, total, noise_multiplier, radius)
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
            f"clip_norm must be between 2^-64 and 2^100, so that sums and noise fit float32; got {c!r}"
        )
    if _validate.concrete(noise_multiplier) and float(noise_multiplier) * c > 2.0**120:
        raise ValueError(
            f"noise_multiplier * clip_norm must be at most 2^120, so that noise fits float32; got "
            f"{float(noise_multiplier) * c!r}"
        )
