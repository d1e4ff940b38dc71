"""Sparsifiers that decide by a coin toss for each coordinate, or one for the whole leaf."""

import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.rounding import unbiased
from fjx._tree import wide
from fjx.compressors._lift import lift
from fjx.wire import BernoulliMasked, MaybeSent


def rand_p(p: float) -> Compressor:
    """Keep each coordinate independently with probability p, scaled by 1/p.

    The payload holds the kept values, their number and the sender's seed.  The positions follow
    from the seed, so they are not sent.  Payloads of different clients have different lengths; if
    they must be added, use :func:`rand_k`.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded after scaling.
        - E||C(x) - x||^2 = (1/p - 1) ||x||^2 for every float32 x.

    Bits:
        32 n + 96 per leaf.  The number n of kept coordinates is binomial with mean p d.

    Args:
        p: probability of keeping a coordinate, in (0, 1], rounded up to a multiple of 2^-23.

    Returns:
        A :class:`fjx.Compressor` whose payload has a random length.  Shapes alone give the most
        that it can cost.

    Raises:
        TypeError: ``p`` is not a Python number.
        ValueError: ``p`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.rand_p(0.25)
        >>> payload, _ = jax.jit(codec.encode)(jax.random.key(0), jnp.ones(1000), ())
        >>> n = int(payload.count)
        >>> float(jax.jit(codec.decode)(payload).max()), wire.bits(payload) == 32 * n + 96, 200 < n < 300
        (4.0, True, True)

    References:
        Konecny, Richtarik, *Randomized Distributed Mean Estimation: Accuracy vs. Communication*,
        Frontiers in Applied Mathematics and Statistics 2018 (arXiv:1611.07555); Wangni, Wang, Liu,
        Zhang, *Gradient Sparsification for Communication-Efficient Distributed Optimization*,
        NeurIPS 2018 (arXiv:1710.09854), where each coordinate has its own probability.
    """
    p = _share(p)

    def encode(key: Key, x: Array) -> BernoulliMasked:
        seed, impl = _random.seed_of(key)
        kept = _kept(seed, impl, x.size, p)
        places = jnp.where(kept, jnp.cumsum(kept) - 1, x.size)
        scaled = (wide(x.reshape(-1)) * (1 / p)).astype(x.dtype)
        values = jnp.zeros_like(scaled).at[places].set(scaled, mode="drop")
        count = jnp.sum(kept, dtype=jnp.int32)
        return BernoulliMasked(count, values, seed, p, x.shape, impl)

    def decode(payload: BernoulliMasked) -> Array:
        kept = _kept(payload.seed, payload.impl, math.prod(payload.shape), payload.p)
        # A forged payload may claim fewer values than its seed selects: read no further than ``count``.
        kept = kept & (jnp.cumsum(kept, dtype=jnp.int32) <= payload.count)
        values = (
            payload.values[jnp.maximum(jnp.cumsum(kept) - 1, 0)] if kept.size else payload.values
        )
        return jnp.where(kept, values, jnp.zeros_like(values)).reshape(payload.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return unbiased(leaf, 1 / p - 1)

    return lift(encode, decode, contract, node=BernoulliMasked)


def bernoulli(p: float) -> Compressor:
    """Send a leaf with probability p, scaled by 1/p; otherwise send only a flag.

    To send either the whole message or nothing, use ``flatten(bernoulli(p))``.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded after scaling.
        - E||C(x) - x||^2 = (1/p - 1) ||x||^2 for every float32 x.

    Bits:
        8 per leaf, and with probability p also the bits of the leaf.

    Args:
        p: probability of sending a leaf, in (0, 1], rounded up to a multiple of 2^-23.

    Returns:
        A :class:`fjx.Compressor` whose payload has a random length.

    Raises:
        TypeError: ``p`` is not a Python number.
        ValueError: ``p`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.bernoulli(0.5)
        >>> encode = jax.jit(codec.encode)
        >>> costs = [wire.bits(encode(jax.random.key(i), jnp.ones(100), ())[0]) for i in range(9)]
        >>> sorted(set(costs))
        [8, 3208]

    References:
        Horvath, Richtarik, *A Better Alternative to Error Feedback for Communication-Efficient
        Distributed Learning*, ICLR 2021 (arXiv:2006.11077), for this class of codecs.
    """
    p = _share(p)

    def encode(key: Key, x: Array) -> MaybeSent:
        sent = _random.uniform(key, ()) < p
        scaled = (wide(x) * (1 / p)).astype(x.dtype)
        return MaybeSent(
            sent.astype(jnp.uint8), jnp.where(sent, scaled, jnp.zeros_like(scaled))[None]
        )

    def decode(payload: MaybeSent) -> Array:
        return payload.values[0]

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return unbiased(leaf, 1 / p - 1)

    return lift(encode, decode, contract, node=MaybeSent)


def _share(p: float) -> float:
    """The multiple of 2^-23 at or above p; a uniform number is below it with just this probability."""
    return math.ceil(_validate.static_number("p", p, above=0, at_most=1) * 2**23) / 2**23


def _kept(seed: Array, impl: str, size: int, p: float) -> Array:
    """A mask of the coordinates that a seed keeps."""
    return _random.uniform(_random.key_of(seed, impl), (size,)) < p
