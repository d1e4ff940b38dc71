"""Sparsifiers: keep k coordinates, or those above a threshold."""

import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key, TreeLike
from fjx._kernels import random as _random
from fjx._kernels.permutation import permute
from fjx._kernels.rounding import unbiased
from fjx._kernels.select import largest_magnitudes, share_of
from fjx._tree import is_float, wide
from fjx.compressors._chain import chain
from fjx.compressors._lift import lift, product
from fjx.compressors._sign import scaled_sign
from fjx.wire import Kept, Masked, Sparse


def top_k(ratio: float) -> Compressor:
    """Keep the k = ceil(ratio * d) coordinates of largest magnitude of each leaf.

    ``flatten(top_k(ratio))`` keeps the largest of the whole message.

    Guarantees:
        - ||C(x) - x||^2 <= (1 - k/d) ||x||^2, tight if all |x_i| are equal.
        - Kept values are exact.
        - Indices ascend.
        - Ties go to the lowest index, and NaN counts as largest.

    Bits:
        k * (width of a value + ceil(log2 d)) per leaf.

    Args:
        ratio: share of the coordinates of each leaf that is kept, in (0, 1].

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
        indices = jnp.sort(largest_magnitudes(flat, share_of(ratio, x.size)))
        return Sparse(flat[indices], indices.astype(jnp.uint32), x.shape)

    def decode(payload: Sparse) -> Array:
        return _scatter(payload.values, payload.indices, payload.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        return Contract(delta=_fraction(ratio, leaf.size), projection=True)

    return lift(encode, decode, contract, node=Sparse)


def stc(ratio: float) -> Compressor:
    """Sparse ternary compression: the signs of the k largest coordinates, and their mean magnitude.

    C(x) = mu sgn(x) on the k = ceil(ratio * d) coordinates of largest magnitude, with mu their mean
    magnitude, and 0 elsewhere.  This is ``chain(top_k(ratio), scaled_sign())`` under its own name,
    with the contract of the two together.  Use it inside ``error_feedback``, in both directions.
    ``entropy(stc(ratio), "golomb")`` codes the positions as the paper does.

    Guarantees:
        - A projection: ||C(x) - x||^2 = (1 - ||T_k x||_1^2 / (k ||x||^2)) ||x||^2, where T_k keeps
          the k largest.
        - delta = min(1 / k, k / d), attained by one non-zero coordinate or by equal ones.
        - A zero leaf stays zero.
        - A leaf with a non-finite value decodes to values that are not finite.

    Bits:
        k + 32 + k ceil(log2 d) per leaf.

    Args:
        ratio: share of the coordinates of each leaf that is kept, in (0, 1].

    Returns:
        A :class:`fjx.Compressor`, a projection.

    Raises:
        TypeError: ``ratio`` is not a Python number.
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.stc(0.5)
        >>> x = jnp.array([1.0, -5.0, 3.0, 0.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([0.0, -4.0, 4.0, 0.0], 48)

    References:
        Sattler, Wiedemann, Muller, Samek, *Robust and Communication-Efficient Federated Learning
        from Non-IID Data*, IEEE Transactions on Neural Networks and Learning Systems 2020
        (arXiv:1903.02891).
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)

    def of(leaf: jax.ShapeDtypeStruct) -> Contract:
        # Fix S = ||T_k x||_1, and let all kept coordinates but the largest equal t <= S / k.  The
        # largest possible ||x||^2 is convex in t: S^2 for t = 0, and d S^2 / k^2 for t = S / k.
        if not leaf.size:
            return EXACT
        k = share_of(ratio, leaf.size)
        narrow = jnp.finfo(leaf.dtype).bits < 32
        return Contract() if narrow else Contract(delta=min(1 / k, k / leaf.size), projection=True)

    def contract(message_like: TreeLike) -> Contract:
        return product([of(leaf) for leaf in jax.tree.leaves(message_like) if is_float(leaf)])

    return chain(top_k(ratio), scaled_sign())._replace(contract=contract)


def threshold(tau: Array | float, *, room: float = 1.0) -> Compressor:
    """Keep all coordinates of each leaf whose magnitude is at least tau.

    Guarantees:
        - Kept values are exact.
        - Every other coordinate has an error below tau, as long as there is room.
        - If more coordinates qualify than the room holds, the largest are kept.  The payload's
          ``count`` then says that it is full.
        - NaN counts as largest.

    Bits:
        n (width of a value + ceil(log2 d)) + 32 per leaf, where n is the number kept.

    Args:
        tau: positive threshold; may be traced, so that it can follow a schedule.
        room: largest share of the coordinates of a leaf that may be kept, in (0, 1].

    Returns:
        A :class:`fjx.Compressor` whose payload has a length that depends on the data.  Shapes alone
        give the most that it can cost.  A codec after it sees the whole room, with zeros behind the
        kept values.

    Raises:
        TypeError: ``tau`` is not a number, or ``room`` is not a Python number.
        ValueError: one is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.threshold(2.0)
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.array([1.0, -5.0, 2.0, 0.0]), ())
        >>> codec.decode(payload).tolist(), wire.bits(payload)
        ([0.0, -5.0, 2.0, 0.0], 104)

    References:
        Strom, *Scalable Distributed DNN Training Using Commodity GPU Cloud Computing*, Interspeech
        2015; Aji, Heafield, EMNLP 2017 (arXiv:1704.05021).
    """
    _validate.number("tau", tau, above=0)
    room = _validate.static_number("room", room, above=0, at_most=1)

    def encode(key: Key, x: Array) -> Kept:
        flat, capacity = x.reshape(-1), share_of(room, x.size)
        magnitudes = jnp.abs(flat.astype(jnp.float32))
        large = ~(magnitudes < jnp.asarray(tau, jnp.float32))
        if capacity < x.size:
            largest = jnp.zeros(x.size, bool).at[largest_magnitudes(flat, capacity)].set(True)
            large = large & largest
        count = jnp.sum(large, dtype=jnp.int32)
        (indices,) = jnp.nonzero(large, size=capacity, fill_value=0)
        sent = jnp.arange(capacity, dtype=jnp.int32) < count
        values = jnp.where(sent, flat[indices], jnp.zeros((), x.dtype))
        return Kept(count, values, jnp.where(sent, indices, 0).astype(jnp.uint32), x.shape)

    return lift(encode, decode_kept, lambda leaf: Contract(projection=True), node=Kept)


def decode_kept(payload: Kept) -> Array:
    """The array in a payload, with zeros for coordinates that were not sent."""
    size = math.prod(payload.shape)
    sent = jnp.arange(payload.indices.size, dtype=jnp.int32) < payload.count
    places = jnp.where(sent, payload.indices.astype(jnp.int32), size)
    flat = jnp.zeros(size, payload.values.dtype).at[places].set(payload.values, mode="drop")
    return flat.reshape(payload.shape)


def rand_k(ratio: float) -> Compressor:
    """Keep k = ceil(ratio * d) coordinates of each leaf, chosen uniformly and scaled by d/k.

    The positions follow from a seed of the sender, which is in the payload in place of them.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.  Narrower leaves are rounded after scaling.
        - E||C(x) - x||^2 = (d/k - 1) ||x||^2 for every float32 x.

    Bits:
        k * (width of a value) + 64 per leaf.

    Args:
        ratio: share of the coordinates of each leaf that is kept, in (0, 1].

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
        k = share_of(ratio, x.size)
        values = wide(x.reshape(-1)[_positions(key, k, x.size)])
        scale = x.size / k if k else 1.0  # not rounded to bfloat16: it would be a bias
        seed, impl = _random.seed_of(key)
        return Masked((values * scale).astype(x.dtype), seed, x.shape, impl)

    def decode(payload: Masked) -> Array:
        key = _random.key_of(payload.seed, payload.impl)
        size = math.prod(payload.shape)
        return _scatter(payload.values, _positions(key, payload.values.size, size), payload.shape)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        omega = 1 / _fraction(ratio, leaf.size) - 1
        return unbiased(leaf, omega)._replace(linear=True)

    return lift(encode, decode, contract, node=Masked)


def _fraction(ratio: float, size: int) -> float:
    """k/d, and 1 for an empty leaf, which loses nothing."""
    return share_of(ratio, size) / size if size else 1.0


def _positions(key: Key, k: int, size: int) -> Array:
    return permute(key, jnp.arange(k, dtype=jnp.int32), size)


def _scatter(values: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    flat = jnp.zeros(math.prod(shape), values.dtype)
    return flat.at[indices].set(values, unique_indices=True).reshape(shape)
