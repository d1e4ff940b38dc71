"""Sketches: random linear maps to fewer numbers."""

import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.inner import inner
from fjx._kernels.rounding import unbiased
from fjx._kernels.select import share_of
from fjx._kernels.sketch import estimate, sketch
from fjx.compressors._lift import lift
from fjx.wire import Projected, Sketched


def count_sketch(*, rows: int, columns: int) -> Compressor:
    """Count-sketch: send sums of random groups of coordinates, from which each coordinate is estimated.

    In each row, every coordinate is added to one of the columns with a random sign.  The sum in
    this column, times the sign, estimates the coordinate.  The median over the rows is the final
    estimate.  A few large coordinates among many small ones survive.  The hashes follow from a seed
    in the payload.

    Guarantees:
        - Linear for one seed.
        - With one row, unbiased for float32 leaves, and E||C(x) - x||^2 <= (d - 1) / columns
          ||x||^2.  This is nearly attained; coordinates of one block of ``columns`` never meet.
        - With an odd number of rows, unbiased by symmetry of the signs.
        - Exact for leaves of at most ``columns`` coordinates.
        - A zero leaf stays zero.
        - In a leaf with a non-finite value, some values decode to values that are not finite.

    Bits:
        32 rows * columns + 64 per leaf.

    Args:
        rows: number of rows, at least 1; a median wants an odd number.
        columns: number of columns, at least 1.

    Returns:
        A :class:`fjx.Compressor`; with one row its contract has omega = (d - 1) / columns.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: one is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.count_sketch(rows=3, columns=16)
        >>> x = jnp.zeros(100).at[42].set(7.0)
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> float(codec.decode(payload)[42]), wire.bits(payload)
        (7.0, 1600)

    References:
        Charikar, Chen, Farach-Colton, *Finding Frequent Items in Data Streams*, ICALP 2002; Ivkin,
        Rothchild, Ullah, Braverman, Stoica, Arora, *Communication-Efficient Distributed SGD with
        Sketching*, NeurIPS 2019 (arXiv:1903.04488).
    """
    rows = _validate.static_integer("rows", rows, at_least=1, at_most=2**10)
    columns = _validate.static_integer("columns", columns, at_least=1, at_most=2**30)

    def encode(key: Key, x: Array) -> Sketched:
        flat = x.astype(jnp.float32).reshape(-1)
        seed, impl = _random.seed_of(key)
        table = sketch(key, flat, rows=rows, columns=columns)
        return Sketched(table, seed, x.shape, x.dtype.name, impl)

    def decode(payload: Sketched) -> Array:
        key = _random.key_of(payload.seed, payload.impl)
        flat = estimate(key, payload.table, math.prod(payload.shape))
        return flat.reshape(payload.shape).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        if rows > 1:
            return Contract()
        # Coordinates of different blocks have independent signs, and meet with probability 1 / columns.
        return unbiased(leaf, max(leaf.size - 1, 0) / columns)._replace(linear=True)

    return lift(encode, decode, contract, node=Sketched)


def random_projection(ratio: float) -> Compressor:
    """Send k = ceil(ratio d) products of a leaf with Gaussian vectors, from which it is estimated.

    S has k rows of d independent numbers N(0, 1), which follow from a seed.

    .. math:: C(x) = S^T S x / k

    This is the projection of the theorems.  It needs k d random numbers; ``rotated(rand_k(ratio))``
    costs d log d and has the smaller error d'/k - 1.  For long leaves, use it inside
    :func:`blockwise`.

    Guarantees:
        - Linear for one seed.
        - Unbiased for float32 leaves, and E||C(x) - x||^2 = (d + 1) / k ||x||^2 for every x.
        - A leaf with a non-finite value decodes to values that are not finite.

    Bits:
        32 k + 64 per leaf.

    Args:
        ratio: k as a share of the coordinates of each leaf, in (0, 1].

    Returns:
        A :class:`fjx.Compressor` with contract omega = (d + 1) / k.

    Raises:
        TypeError: ``ratio`` is not a Python number.
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.random_projection(0.25)
        >>> x = jnp.arange(16.0)
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> back = codec.decode(payload)  # <C(x), x> = ||S x||^2 / k
        >>> bool(jnp.allclose(back @ x, jnp.sum(payload.values**2) / 4)), wire.bits(payload)
        (True, 192)

    References:
        Johnson, Lindenstrauss, *Extensions of Lipschitz Mappings into a Hilbert Space*,
        Contemporary Mathematics 26, 1984.  omega follows from a Wishart matrix: E (S^T S)^2 = k
        (k + d + 1) I.
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)

    def encode(key: Key, x: Array) -> Projected:
        flat = x.astype(jnp.float32).reshape(-1)
        seed, impl = _random.seed_of(key)
        rows = jnp.arange(share_of(ratio, x.size))
        values = jax.lax.map(lambda i: inner(_direction(key, i, x.size), flat), rows)
        return Projected(values, seed, x.shape, x.dtype.name, impl)

    def decode(payload: Projected) -> Array:
        key = _random.key_of(payload.seed, payload.impl)
        size, k = math.prod(payload.shape), payload.values.size

        def add(total: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
            # If the product is fused with the sum, it is not rounded, and programs differ in that.
            term = jax.lax.optimization_barrier(row[1] * _direction(key, row[0], size))
            return total + term, None

        total, _ = jax.lax.scan(add, jnp.zeros(size, jnp.float32), (jnp.arange(k), payload.values))
        return (total / max(k, 1)).reshape(payload.shape).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        if not leaf.size:
            return EXACT
        omega = (leaf.size + 1) / share_of(ratio, leaf.size)
        return unbiased(leaf, omega)._replace(linear=True)

    return lift(encode, decode, contract, node=Projected)


def _direction(key: Key, row: Array, size: int) -> Array:
    """A row of S."""
    return _random.normal(jax.random.fold_in(key, row), (size,))
