"""Sketches: random linear maps to fewer numbers."""

import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._lift import lift
from fjx._rounding import unbiased
from fjx._sketch import estimate, sketch
from fjx.wire import Sketched


def count_sketch(*, rows: int, columns: int) -> Compressor:
    """Sends sums of randomly chosen coordinates with random signs, from which each can be estimated.

    In each row every coordinate is added, with a random sign, to one of the columns; it is estimated by
    that sum with its sign, and by the median of the rows' estimates.  Large coordinates survive among
    many small ones.  Hashes follow from a seed, which is on the wire.

    Guarantees: linear for one seed; with one row, of float32 leaves unbiased, and E||C(x) - x||^2 <=
        (d - 1) / columns ||x||^2, nearly attained: coordinates of one block of ``columns`` never meet;
        exact for leaves of at most ``columns`` coordinates; with an odd number of rows unbiased by
        symmetry of the signs; a zero leaf stays zero; of a leaf with a non-finite value some decode to
        values that are not finite; bits: 32 rows * columns + 64 per leaf.

    Args:
        rows: at least 1; medians want an odd number.
        columns: at least 1.

    Returns:
        A :class:`fjx.Compressor`, with omega = (d - 1) / columns for one row.

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
        seed, impl = jax.random.key_data(key), str(jax.random.key_impl(key))
        table = sketch(key, flat, rows=rows, columns=columns)
        return Sketched(table, seed, x.shape, x.dtype.name, impl)

    def decode(payload: Sketched) -> Array:
        key = jax.random.wrap_key_data(payload.seed, impl=payload.impl)
        flat = estimate(key, payload.table, math.prod(payload.shape))
        return flat.reshape(payload.shape).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        if rows > 1:
            return Contract()
        # Of two coordinates of different blocks the signs are independent, and 1 / columns meet.
        return unbiased(leaf, max(leaf.size - 1, 0) / columns)._replace(linear=True)

    return lift(encode, decode, contract, node=Sketched)
