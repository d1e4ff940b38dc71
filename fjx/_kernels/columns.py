"""Sorting the columns of a matrix with few rows, by a network of comparisons between whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def sorted_columns(x: jax.Array) -> jax.Array:
    """Each column of ``[n, d]`` in ascending order; there must be no NaN.

    This is Batcher's merge exchange.  A comparison between two rows is a minimum and a maximum of whole
    rows, which vector units do at once; XLA sorts column by column on a CPU, which is much slower.
    """
    partners, first = _network(len(x))

    def exchange(x: jax.Array, stage: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        partner, is_first = stage
        other = x[partner]
        return jnp.where(is_first[:, None], jnp.minimum(x, other), jnp.maximum(x, other)), None

    return lax.scan(exchange, x, (jnp.asarray(partners), jnp.asarray(first)))[0]


def _network(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The stages of the network for n rows.

    Algorithm M of Knuth, *The Art of Computer Programming*, volume 3, section 5.2.2.

    Returns:
        For each stage the row with which each row is compared, ``i32[stages, n]``, itself if with none,
        and whether it keeps the smaller value.
    """
    partners, first = [], []
    top = 1 << max(n - 1, 0).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            low = np.arange(n - d)
            low = low[low & p == r]
            partner = np.arange(n, dtype=np.int32)
            partner[low], partner[low + d] = low + d, low
            partners.append(partner)
            first.append(partner > np.arange(n))
            d, q, r = q - p, q >> 1, p
        p >>= 1
    shape = len(partners), n
    return np.array(partners, np.int32).reshape(shape), np.array(first, bool).reshape(shape)
