"""QUIC-FL: an unbiased quantiser for nearly Gaussian coordinates."""

import functools
import math
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.rounding import in_units, norm, unbiased
from fjx.compressors._lift import lift
from fjx.compressors._rotate import rotated
from fjx.wire import Quic

_BOUND = NormalDist().inv_cdf(1 - 2**-10)  # T = 3.097: 1 in 512 Gaussian numbers lies beyond


def quic_fl(*, bits: int, block: int | None = None) -> Compressor:
    """QUIC-FL: rotate each leaf, and quantise it without bias to levels from shared randomness.

    Let y = Rx as in :func:`rotated` and z = sqrt(d') y / ||y||.  A coordinate with |z_i| >
    T = 3.097 is sent as it is.  The others are sent as codes of ``bits`` bits:

    - There are H 2^bits numbers r_0 <= r_1 <= ..., with H = 64, 32 and 16 for 1, 2 and more bits.
    - A seed, which is sent, gives h_i uniform in 0, ..., H - 1.  Code c then stands for r_{h+cH}.
    - Each window r_j, ..., r_{j+H-1} contains exactly one such number, so the mean of a window is
      the mean of the received value when the sender picks this window.
    - If z_i lies between the means of the windows j and j + 1, the sender picks one of them with
      the probability that makes the received mean equal to z_i.

    The numbers are those with the least error on N(0, 1).  A fixed-point iteration finds them at
    first use.

    E[C(x)] = x holds for every rotation.  So the server may add the levels in rotated space and
    rotate back once, and small or sparse leaves are no exception, as they are for :func:`eden`.

    Guarantees:
        - Unbiased for float32 leaves: E[C(x)] = x.
        - E||C(x) - x||^2 <= omega ||x||^2 with omega = 25.8, 5.00, 1.07, 0.264 for 1 to 4 bits.
          This is the variance for the worst z.
        - Close for d' >= 64: E||C(x) - x||^2 = 1.465, 0.2135, 0.0426, 0.0095 times ||x||^2 for 1 to
          4 bits.
        - At most d' / T^2 coordinates are sent as they are.
        - A zero leaf stays zero.
        - A leaf with a non-finite value decodes to values that are not finite.

    Bits:
        d' * bits + n * (32 + ceil(log2 d')) + 192 per leaf.  n is the number of coordinates beyond
        T, and is close to d' / 512.

    Args:
        bits: width of a code, 1 to 8.
        block: number of coordinates that are rotated together, a power of two; None for all.  There
            is one scale for the leaf.

    Returns:
        A :class:`fjx.Compressor` whose payload has a length that depends on the data.

    Raises:
        TypeError: ``bits`` or ``block`` is not an integer.
        ValueError: ``bits`` is out of range, or ``block`` is not a power of two.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.quic_fl(bits=4)
        >>> x = jnp.linspace(-1.0, 2.0, 1000)
        >>> payload, _ = jax.jit(codec.encode)(jax.random.key(0), x, codec.init(x))
        >>> n = int(payload.vector.count)
        >>> n < 10, wire.bits(payload) - 4096 - 192 - -(-42 * n // 8) * 8 < 16
        (True, True)
        >>> bool(jnp.sum((jax.jit(codec.decode)(payload) - x) ** 2) < 0.012 * jnp.sum(x**2))
        True

    References:
        Ben Basat, Vargaftik, Portnoy, Einziger, Ben-Itzhak, Mitzenmacher, *Accelerating Federated
        Learning with Quick Distributed Mean Estimation*, ICML 2024 (arXiv:2205.13341), whose levels
        come from a general solver on a grid of z.  The sliding windows, which need no grid of z,
        are ours.
    """
    bits = _validate.static_integer("bits", bits, at_least=1, at_most=8)
    return rotated(_bounded(bits), block=block)


def _bounded(bits: int) -> Compressor:
    """QUIC-FL without its rotation, which reduces the error."""

    def encode(key: Key, x: Array) -> Quic:
        flat = x.astype(jnp.float32).reshape(-1)
        z, scale = in_units(flat, norm(flat) / math.sqrt(max(x.size, 1)))
        table = _table(bits)
        h, uniform = _draw(key, x.size, table.shared)
        means = jnp.asarray(table.means, jnp.float32)
        inside = jnp.abs(z) <= _BOUND
        # The windows j and j + 1 around z, and its relative position between their means.
        j = jnp.clip(jnp.searchsorted(means, z, side="right") - 1, 0, means.size - 2)
        way = (z - means[j]) / (means[j + 1] - means[j])
        # The number in window j that belongs to h.  All but the first are in the next window, too.
        at = j + (h - j) % table.shared
        at = jnp.where((at == j) & (uniform < way), j + table.shared, at)
        codes = (at // table.shared).astype(jnp.uint8)
        # The squares sum to d, so at most d / T^2 of them are above T^2, up to rounding.
        capacity = min(int(x.size / _BOUND**2) + 1, x.size)
        (indices,) = jnp.nonzero(~inside, size=capacity, fill_value=0)
        count = jnp.minimum(jnp.sum(~inside, dtype=jnp.int32), capacity)
        sent = jnp.arange(capacity, dtype=jnp.int32) < count
        values = jnp.where(sent, flat[indices], 0.0).astype(x.dtype)
        indices = jnp.where(sent, indices, 0).astype(jnp.uint32)
        seed, impl = _random.seed_of(key)
        return Quic(count, codes, scale, seed, values, indices, bits, impl, x.dtype.name)

    def decode(payload: Quic) -> Array:
        table, size = _table(payload.bits), payload.codes.size
        key = _random.key_of(payload.seed, payload.impl)
        h, _ = _draw(key, size, table.shared)
        numbers = jnp.asarray(table.numbers, jnp.float32)
        y = numbers[h + payload.codes.astype(jnp.int32) * table.shared] * payload.scale
        beyond = jnp.arange(payload.indices.size, dtype=jnp.int32) < payload.count
        at = jnp.where(beyond, payload.indices.astype(jnp.int32), size)
        return y.astype(payload.dtype).at[at].set(payload.values, mode="drop")

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        # E||C(x) - x||^2 = sum V(z_i) ||x||^2 / d, where V(z) is the variance at z.
        return unbiased(leaf, _table(bits).worst if leaf.size else 0.0)

    return lift(encode, decode, contract, node=Quic)


def _draw(key: Key, size: int, shared: int) -> tuple[Array, Array]:
    """For each coordinate, h from the low bits of a word and a uniform number from others."""
    words = jax.lax.optimization_barrier(_random.bits(key, (size,)))
    h = (words & jnp.uint32(shared - 1)).astype(jnp.int32)
    return h, (words >> 9).astype(jnp.float32) * 2.0**-23


class _Table(NamedTuple):
    """The quantiser for one number of bits.

    Attributes:
        shared: H.
        numbers: r_0 to r_{H 2^bits - 1}.
        means: means of the windows, from -T to T.
        error: E[(C(z) - z)^2] for Gaussian z, zero beyond T.
        worst: the greatest variance over all z.
    """

    shared: int
    numbers: np.ndarray
    means: np.ndarray
    error: float
    worst: float


@functools.cache
def _table(bits: int) -> _Table:
    """The numbers whose windows have the least error on a Gaussian between -T and T.

    For z in interval j, between the windows j and j + 1, the Lagrange multiplier of the constraint
    E[r] = z replaces z by the midpoint m_j = (r_j + r_{j+H}) / 2.  So r_i is best where it is the
    mean of m_j over the z that use it.  The last window must have mean T, and this constraint
    shifts each number in it by an amount inversely proportional to its use.  Half steps towards
    these conditions converge.
    """
    shared = max(64 >> (bits - 1), 16)
    size = shared << bits
    r = (np.arange(size) - (size - 1) / 2) * (2 * _BOUND / (size - shared))
    for _ in range(600):
        stay, leave = _masses(_windows(r, shared))
        middle = (r[:-shared] + r[shared:]) / 2
        used = _spread(stay, leave, shared)
        best = _spread(stay * middle, leave * middle, shared) / used
        best = (best - best[::-1]) / 2  # an odd sequence, as the density is even
        shift = (_BOUND - best[-shared:].mean()) / np.mean(1 / used[-shared:]) / used[-shared:]
        best[-shared:] += shift
        best[:shared] -= shift[::-1]
        r = (r + best) / 2
    means, squares = _windows(r, shared), _windows(r**2, shared)
    stay, leave = _masses(means)
    power = math.erf(_BOUND / math.sqrt(2)) - 2 * _BOUND * float(_density(np.array(_BOUND)))
    error = float(np.sum(stay * squares[:-1] + leave * squares[1:])) - power
    # Within an interval the variance is concave, s + t (z - means) - z^2.
    slope = np.diff(squares) / np.diff(means)
    z = np.clip(slope / 2, means[:-1], means[1:])
    worst = float(np.max(squares[:-1] + slope * (z - means[:-1]) - z**2))
    return _Table(shared, r, means, error, worst)


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    """The means of all windows of ``width`` consecutive values."""
    return np.convolve(values, np.full(width, 1 / width), "valid")


def _masses(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Gaussian mass in each interval that is sent from its lower window, and from its upper one."""
    below = np.array([math.erf(z / math.sqrt(2)) / 2 for z in means])
    mass, moment = np.diff(below), -np.diff(_density(means))
    leave = (moment - means[:-1] * mass) / np.diff(means)
    return mass - leave, leave


def _density(z: np.ndarray) -> np.ndarray:
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _spread(stay: np.ndarray, leave: np.ndarray, width: int) -> np.ndarray:
    """The sum, for each number, of the masses of the intervals that use it.

    Interval j uses r_{j+1} to r_{j+H-1} always, r_j for the part that stays, and r_{j+H} for the
    other part.
    """
    total = np.concatenate([np.zeros(width), np.cumsum(stay + leave), np.zeros(width)])
    total[-width:] = total[-width - 1]
    inner = total[width - 1 : -1] - total[:-width]
    zeros = np.zeros(width)
    return inner + np.concatenate([stay, zeros]) + np.concatenate([zeros, leave])
