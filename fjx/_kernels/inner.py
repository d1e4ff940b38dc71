"""Inner products that no compiler fuses wrongly."""

import jax
import jax.numpy as jnp

from fjx._base import Array


def inner(a: Array, b: Array) -> Array:
    """The sum of a_i b_i over all entries of two arrays, as a dot product.

    XLA:CPU of JAX 0.10.2 to 0.11 may fuse ``sum(a * b)`` with a product that takes it.  If rows of a
    ``vmap`` share a or b, the sum is then wrong at some sizes.  A dot product is not fused so.
    """
    return jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST)
