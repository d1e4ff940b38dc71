"""A sparsifier that keeps large coordinates with larger probabilities."""

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.rounding import in_powers_of_two, unbiased
from fjx._kernels.select import share_of
from fjx.compressors._lift import lift
from fjx.compressors._sparsify import decode_kept
from fjx.wire import Kept

_MARGIN = 1e-3  # share of k that is left for the rounding of a sum of probabilities
_STEPS = 4


def importance_sampling(ratio: float) -> Compressor:
    """Keep coordinate i with probability p_i proportional to |x_i|, scaled by 1 / p_i.

    With p_i = min(1, lambda |x_i|), the large coordinates are sent unchanged.  The others, if kept,
    all become 1 / lambda with their signs.  Among all choices with the same mean number of kept
    coordinates, this one has the least error.  lambda is raised from k / ||x||_1 in four steps,
    towards sum p_i = k.

    One random number u decides which coordinates are kept: coordinate i is, if an integer lies
    between the sum u + p_1 + ... + p_i and the sum before it.  So each coordinate has exactly its
    probability, and never more than k = ceil(ratio * d) are kept.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded after scaling.
        - E||C(x) - x||^2 = sum x_i^2 (1 / p_i - 1).  With k' = 0.999 k this is at most (d /
          k' - 1) ||x||^2, and at most ||x||_1^2 / k' - ||x||^2.
        - A zero leaf stays zero.
        - In a leaf with values that are not finite, or beyond 2^125, the first k of these are sent
          as NaN, and nothing else.

    Bits:
        n (width of a value + ceil(log2 d)) + 32 per leaf, where n <= k is the number kept.

    Args:
        ratio: share of the coordinates of each leaf that is kept, in (0, 1].

    Returns:
        A :class:`fjx.Compressor` with contract omega = d / k' - 1.  The length of its payload
        depends on the data.

    Raises:
        TypeError: ``ratio`` is not a Python number.
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.importance_sampling(0.5)
        >>> x = jnp.array([8.0, 0.0, 0.0, -2.0, 0.0, 0.0])
        >>> payload, _ = jax.jit(codec.encode)(jax.random.key(0), x, ())
        >>> jax.jit(codec.decode)(payload).tolist(), wire.bits(payload)
        ([8.0, 0.0, 0.0, -2.0, 0.0, 0.0], 104)

    References:
        Wangni, Wang, Liu, Zhang, *Gradient Sparsification for Communication-Efficient Distributed
        Optimization*, NeurIPS 2018 (arXiv:1710.09854), where each coordinate is drawn
        independently; Madow, *On the Theory of Systematic Sampling, II*, Annals of Mathematical
        Statistics 1949, for the use of one random number.
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)

    def encode(key: Key, x: Array) -> Kept:
        flat, k = x.reshape(-1), share_of(ratio, x.size)
        unit, _, broken = in_powers_of_two(flat.astype(jnp.float32))
        probabilities = _probabilities(jnp.abs(unit), k)
        kept, probabilities = _systematic(_random.bits(key, ()), probabilities)
        beyond = ~(jnp.abs(flat.astype(jnp.float32)) <= 2.0**125)
        kept = jnp.where(broken, beyond, kept)
        kept = kept & (jnp.cumsum(kept) <= k)
        scaled = flat.astype(jnp.float32) / jnp.where(broken, jnp.nan, probabilities)
        count = jnp.sum(kept, dtype=jnp.int32)
        (indices,) = jnp.nonzero(kept, size=k, fill_value=0)
        sent = jnp.arange(k, dtype=jnp.int32) < count
        values = jnp.where(sent, scaled[indices], 0.0).astype(x.dtype)
        return Kept(count, values, jnp.where(sent, indices, 0).astype(jnp.uint32), x.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        k = share_of(ratio, leaf.size)
        # p_i >= p'_i = min(1, k' |x_i| / ||x||_1), for which the errors x_i^2 (1 / p'_i - 1) add up to
        # at most ||x||_1^2 / k' - ||x||^2.
        return unbiased(leaf, leaf.size / _target(k) - 1) if k < leaf.size else EXACT

    return lift(encode, decode_kept, contract, node=Kept)


def _target(k: int) -> float:
    return (1 - _MARGIN) * k


def _probabilities(magnitudes: Array, k: int) -> Array:
    """min(1, lambda m), with a sum of at most the target: Newton's steps from below."""
    if k == magnitudes.size:
        return jnp.ones_like(magnitudes)
    total = jnp.sum(magnitudes)
    rate = _target(k) / jnp.where(total > 0, total, 1.0)
    for _ in range(_STEPS):
        certain = rate * magnitudes >= 1
        rest = jnp.sum(jnp.where(certain, 0.0, magnitudes))
        room = _target(k) - jnp.sum(certain, dtype=jnp.float32)
        rate = jnp.where(rest > 0, jnp.maximum(rate, room / jnp.where(rest > 0, rest, 1.0)), rate)
    return jnp.minimum(rate * magnitudes, 1.0)


def _systematic(start: Array, probabilities: Array) -> tuple[Array, Array]:
    """A mask of the kept coordinates, and their probabilities, which are multiples of 2^-32.

    Sums of words are modulo 2^32, so a sum passes an integer exactly when it becomes smaller.
    """
    certain = probabilities >= 1
    # A coordinate that is not zero has a probability that is not zero.
    words = (jnp.where(certain, 0.0, probabilities) * 2.0**32).astype(jnp.uint32)
    words = jnp.where((probabilities > 0) & ~certain, jnp.maximum(words, jnp.uint32(1)), words)
    # Signed words add up to the same bits, and compilers for phones can sum them.
    signed = jnp.cumsum(jax.lax.bitcast_convert_type(words, jnp.int32), dtype=jnp.int32)
    sums = jax.lax.bitcast_convert_type(signed, jnp.uint32) + start
    kept = certain | (sums < words)
    return kept, jnp.where(certain, 1.0, words.astype(jnp.float32) * 2.0**-32)
