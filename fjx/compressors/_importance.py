"""Keeping coordinates with probabilities that grow with their magnitudes."""

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

_MARGIN = 1e-3  # of k, which the rounding of a sum of probabilities must not exceed
_STEPS = 4


def importance_sampling(ratio: float) -> Compressor:
    """Keeps coordinate i with probability p_i in proportion to |x_i|, scaled by 1 / p_i.

    With p_i = min(1, lambda |x_i|) the large coordinates are sent as they are, and of the others some,
    all as one number, 1 / lambda with their signs: among all choices of so many coordinates in the mean,
    the one that errs least.  Lambda is raised from k / ||x||_1 in four steps, towards sum p_i = k.

    Which are kept follows from one random number: coordinate i is, if among p_1 + ... + p_i + u and the
    sum before it lies an integer.  Each has its probability exactly, and never are there more than
    k = ceil(ratio * d).

    Guarantees: of float32 leaves unbiased (a narrower one is rounded where it is scaled), and
        E||C(x) - x||^2 = sum x_i^2 (1 / p_i - 1), at most (d / k' - 1) ||x||^2, k' = 0.999 k, and
        at most ||x||_1^2 / k' - ||x||^2; of a leaf with values that are not finite, or beyond 2^125,
        the first k of these are sent, as NaN, and nothing else; a zero leaf stays zero; bits:
        n (width of a value + ceil(log2 d)) + 32 per leaf, n <= k being the number kept.

    Args:
        ratio: of the coordinates of each leaf, in (0, 1].

    Returns:
        A :class:`fjx.Compressor` with contract omega = d / k' - 1, whose payload has a length that
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
        Optimization*, NeurIPS 2018 (arXiv:1710.09854), where each coordinate is drawn by itself; Madow,
        *On the Theory of Systematic Sampling, II*, Annals of Mathematical Statistics 1949, for one
        random number.
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
        # p_i >= p'_i = min(1, k' |x_i| / ||x||_1), where the errors x_i^2 (1 / p'_i - 1) add up to
        # ||x||_1^2 / k' - ||x||^2 at most.
        return unbiased(leaf, leaf.size / _target(k) - 1) if k < leaf.size else EXACT

    return lift(encode, decode_kept, contract, node=Kept)


def _target(k: int) -> float:
    return (1 - _MARGIN) * k


def _probabilities(magnitudes: Array, k: int) -> Array:
    """min(1, lambda m) with a sum of at most the target: Newton's steps from below."""
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
    """Which coordinates are kept, and their probabilities, which are multiples of 2^-32.

    Modulo 2^32, a sum of words passes an integer where it becomes less.
    """
    certain = probabilities >= 1
    # Of what is not zero the probability is not.
    words = (jnp.where(certain, 0.0, probabilities) * 2.0**32).astype(jnp.uint32)
    words = jnp.where((probabilities > 0) & ~certain, jnp.maximum(words, jnp.uint32(1)), words)
    # Signed words add up to the same bits, and compilers for phones can sum them.
    signed = jnp.cumsum(jax.lax.bitcast_convert_type(words, jnp.int32), dtype=jnp.int32)
    sums = jax.lax.bitcast_convert_type(signed, jnp.uint32) + start
    kept = certain | (sums < words)
    return kept, jnp.where(certain, 1.0, words.astype(jnp.float32) * 2.0**-32)
