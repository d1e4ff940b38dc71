"""Sparsifiers."""

import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._lift import lift
from fjx._permutation import permute
from fjx._rounding import unbiased
from fjx.compressors._select import largest_magnitudes
from fjx.wire import Masked, Sparse


def top_k(ratio: float) -> Compressor:
    """Keeps the k = ceil(ratio * d) coordinates of largest magnitude of each leaf.

    Guarantees: ||C(x) - x||^2 <= (1 - k/d) ||x||^2, tight where all |x_i| are equal; kept values
        exact; ties go to the lowest index, NaN counts as largest; indices ascend; bits: k * (width of
        a value + ceil(log2 d)) per leaf.

    Args:
        ratio: of the coordinates of each leaf, in (0, 1]; :func:`~fjx.compressors.flatten` makes it
            the ratio of the whole message.

    Returns:
        A :class:`fjx.Compressor` with contract delta = k/d, a projection.

    Raises:
        TypeError: ``ratio`` is not a Python number.
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.top_k(0.5)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([1.0, -5.0, 2.0, 0.0]), ())
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([0.0, -5.0, 2.0, 0.0], 72)

    References:
        Aji, Heafield, *Sparse Communication for Distributed Gradient Descent*, EMNLP 2017
        (arXiv:1704.05021); Stich, Cordonnier, Jaggi, *Sparsified SGD with Memory*, NeurIPS 2018
        (arXiv:1809.07599).
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)

    def encode(key: Key, x: Array) -> Sparse:
        flat = x.reshape(-1)
        indices = jnp.sort(largest_magnitudes(flat, _kept(ratio, x.size)))
        return Sparse(flat[indices], indices.astype(jnp.uint32), x.shape)

    def decode(payload: Sparse) -> Array:
        return _scatter(payload.values, payload.indices, payload.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return Contract(delta=_fraction(ratio, leaf.size), projection=True)

    return lift(encode, decode, contract, node=Sparse)


def rand_k(ratio: float) -> Compressor:
    """Keeps k = ceil(ratio * d) coordinates of each leaf, chosen uniformly, scaled by d/k.

    The positions follow from a seed of the sender, which is on the wire instead of them.

    Guarantees: of float32 leaves unbiased (a narrower one is rounded where it is scaled), and
        E||C(x) - x||^2 = (d/k - 1) ||x||^2 for every x; bits: k * (width of a
        value) + 64 per leaf.

    Args:
        ratio: of the coordinates of each leaf, in (0, 1].

    Returns:
        A :class:`fjx.Compressor` with contract omega = d/k - 1.

    Raises:
        TypeError: ``ratio`` is not a Python number.
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.rand_k(0.25)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.ones(8), ())
        >>> sorted(codec.decode(payload).tolist()), wire.bits(payload)
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0], 128)

    References:
        Konecny, Richtarik, *Randomized Distributed Mean Estimation: Accuracy vs. Communication*,
        Frontiers in Applied Mathematics and Statistics 2018 (arXiv:1611.07555); Stich, Cordonnier,
        Jaggi, NeurIPS 2018 (arXiv:1809.07599).
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)

    def encode(key: Key, x: Array) -> Masked:
        k = _kept(ratio, x.size)
        values = x.reshape(-1)[_positions(key, k, x.size)].astype(jnp.float32)
        scale = x.size / k if k else 1.0  # in float32: rounded to bfloat16 it would be a bias
        seed, impl = jax.random.key_data(key), str(jax.random.key_impl(key))
        return Masked((values * scale).astype(x.dtype), seed, x.shape, impl)

    def decode(payload: Masked) -> Array:
        key = jax.random.wrap_key_data(payload.seed, impl=payload.impl)
        size = math.prod(payload.shape)
        return _scatter(payload.values, _positions(key, payload.values.size, size), payload.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        omega = 1 / _fraction(ratio, leaf.size) - 1
        return unbiased(leaf, omega)._replace(linear=True)

    return lift(encode, decode, contract, node=Masked)


def _kept(ratio: float, size: int) -> int:
    """k: at least one coordinate of a non-empty leaf; the slack undoes 0.1 * 30 = 3.0000000000000004."""
    return math.ceil(ratio * size * (1 - 1e-12))


def _fraction(ratio: float, size: int) -> float:
    """k/d, and 1 for an empty leaf, of which nothing is lost."""
    return _kept(ratio, size) / size if size else 1.0


def _positions(key: Key, k: int, size: int) -> Array:
    return permute(key, jnp.arange(k, dtype=jnp.int32), size)


def _scatter(values: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    flat = jnp.zeros(math.prod(shape), values.dtype)
    return flat.at[indices].set(values, unique_indices=True).reshape(shape)
