"""Count-sketches whose hashing is a shift: few collisions, and no scattered write.

Row r of a sketch has for each column c the sum of s_r(j) x_j over the coordinates j with
h_r(j) = c.  Here the vector is cut into blocks with as many coordinates as there are columns, and
h_r shifts each block cyclically by a random amount of its own.  Two coordinates of one block never
meet.  Two coordinates of different blocks meet with probability 1 / columns, as in random hashing,
and the analysis of the sketch needs no more.
"""

import jax
import jax.numpy as jnp

from fjx._base import Array, Key


def sketch(key: Key, x: Array, *, rows: int, columns: int) -> Array:
    """The sketch of a vector, ``f32[rows, columns]``, linear in it.

    Args:
        key: key of the shifts and signs.
        x: ``f32[d]``.
        rows: number of rows, each with its own hashes.
        columns: number of columns.
    """
    blocks = _cut(x, columns)

    def one(row: Array) -> Array:
        signs, shifts = _hashes(jax.random.fold_in(key, row), blocks.shape)

        def add(total: Array, block: tuple[Array, Array, Array]) -> tuple[Array, None]:
            values, negative, shift = block
            return total + jnp.roll(jnp.where(negative, -values, values), shift), None

        return jax.lax.scan(add, jnp.zeros(columns, x.dtype), (blocks, signs, shifts))[0]

    return jax.lax.map(one, jnp.arange(rows))


def estimate(key: Key, table: Array, size: int) -> Array:
    """The median over the rows of the estimates of each coordinate, ``f32[size]``.

    For an even number of rows, it is the lower of the two in the middle.

    Args:
        key: key of :func:`sketch`.
        table: ``f32[rows, columns]``.
        size: size of the vector.
    """
    columns = table.shape[1]
    shape = (-(-size // columns), columns)

    def one(row: tuple[Array, Array]) -> Array:
        number, sums = row
        signs, shifts = _hashes(jax.random.fold_in(key, number), shape)

        def back(_: None, block: tuple[Array, Array]) -> tuple[None, Array]:
            negative, shift = block
            values = jnp.roll(sums, -shift)
            return None, jnp.where(negative, -values, values)

        return jax.lax.scan(back, None, (signs, shifts))[1].reshape(-1)[:size]

    each = jax.lax.map(one, (jnp.arange(len(table)), table))
    return jnp.sort(each, axis=0)[(len(table) - 1) // 2] if len(table) > 1 else each[0]


def _cut(x: Array, columns: int) -> Array:
    return jnp.pad(x, (0, -x.size % columns)).reshape(-(-x.size // columns), columns)


def _hashes(key: Key, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A mask of the coordinates with a negative sign, and the shift of each block."""
    key_signs, key_shifts = jax.random.split(key)
    blocks, columns = shape
    words = jax.random.bits(key_signs, (blocks, -(-columns // 32), 1), jnp.uint32)
    bits = words >> jnp.arange(32, dtype=jnp.uint32)[None, None] & 1
    signs = bits.reshape(blocks, bits.shape[1] * 32)[:, :columns] > 0
    return signs, jax.random.randint(key_shifts, (blocks,), 0, columns)
