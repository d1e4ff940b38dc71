"""Sparsifiers that toss a coin: for each coordinate, or for the whole leaf."""

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
    """Keeps each coordinate with probability p, whatever the others do, scaled by 1/p.

    Positions follow from a seed of the sender, which is on the wire instead of them; so is their number.

    Guarantees: of float32 leaves unbiased (a narrower one is rounded where it is scaled), and
        E||C(x) - x||^2 = (1/p - 1) ||x||^2 for every x; bits: 32 n + 96 per leaf, where n, the number of
        coordinates kept, is binomial with mean p d.  Unlike :func:`rand_k`, no sum of two clients'
        payloads has the length of one.

    Args:
        p: in (0, 1], rounded up to a multiple of 2^-23.

    Returns:
        A :class:`fjx.Compressor` whose payload has a length that depends on the draw: shapes alone tell
        the most it may cost.

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
        Zhang, *Gradient Sparsification for Communication-Efficient Distributed Optimization*, NeurIPS
        2018 (arXiv:1710.09854), with probabilities of its own for each coordinate.
    """
    p = _share(p)

    def encode(key: Key, x: Array) -> BernoulliMasked:
        seed, impl = jax.random.key_data(key), str(jax.random.key_impl(key))
        kept = _kept(seed, impl, x.size, p)
        places = jnp.where(kept, jnp.cumsum(kept) - 1, x.size)
        scaled = (wide(x.reshape(-1)) * (1 / p)).astype(x.dtype)
        values = jnp.zeros_like(scaled).at[places].set(scaled, mode="drop")
        count = jnp.sum(kept, dtype=jnp.int32)
        return BernoulliMasked(count, values, seed, p, x.shape, impl)

    def decode(payload: BernoulliMasked) -> Array:
        kept = _kept(payload.seed, payload.impl, math.prod(payload.shape), payload.p)
        # A forged number of values is not the seed's, and must not be read beyond.
        kept = kept & (jnp.cumsum(kept, dtype=jnp.int32) <= payload.count)
        values = (
            payload.values[jnp.maximum(jnp.cumsum(kept) - 1, 0)] if kept.size else payload.values
        )
        return jnp.where(kept, values, jnp.zeros_like(values)).reshape(payload.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return unbiased(leaf, 1 / p - 1)

    return lift(encode, decode, contract, node=BernoulliMasked)


def bernoulli(p: float) -> Compressor:
    """Sends a leaf with probability p, scaled by 1/p, and else nothing but that.

    Guarantees: of float32 leaves unbiased (a narrower one is rounded where it is scaled), and
        E||C(x) - x||^2 = (1/p - 1) ||x||^2 for every x; bits: 8, and with probability p those of the
        leaf.

    Args:
        p: in (0, 1], rounded up to a multiple of 2^-23.

    Returns:
        A :class:`fjx.Compressor` whose payload has a length that depends on the draw.  Around the whole
        message, ``flatten(bernoulli(p))``, all is sent or nothing.

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
        Distributed Learning*, ICLR 2021 (arXiv:2006.11077), for the class.
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
    """A multiple of 2^-23 near p: a uniform number is below it with exactly this probability."""
    return math.ceil(_validate.static_number("p", p, above=0, at_most=1) * 2**23) / 2**23


def _kept(seed: Array, impl: str, size: int, p: float) -> Array:
    """Which coordinates a seed keeps."""
    return _random.uniform(jax.random.wrap_key_data(seed, impl=impl), (size,)) < p
