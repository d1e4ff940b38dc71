"""Sums of integers on a grid that all clients share."""

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree
from fjx._kernels import random as _random
from fjx._kernels.permutation import permute_by, reshuffle, shuffle
from fjx._kernels.rounding import stochastic_round
from fjx.aggregators._vectors import as_vector
from fjx.wire import Codes, Observed, SideInformation
from fjx.wire._payload import index_width


def integer_mean(
    step: float, *, bits: int, clients: int, max_weight: int | None = None
) -> Aggregator:
    """The mean of messages that are rounded to multiples of one step and added as integers.

    x_ij becomes an integer c_ij with E[h c_ij] = x_ij.  The server adds the integers as int32 and
    multiplies the sum by h / n once.  A secure sum can add such integers.

    Guarantees:
        - Unbiased, with E(error_j)^2 = h^2 / n^2 sum_i f_ij (1 - f_ij) <= h^2 / (4 n), where f_ij is
          the fractional part of x_ij / h.
        - The sum is exact, and the same in every order.
        - Every client that takes part counts alike.  With ``max_weight`` its integers are multiplied by
          its weight, and the sum is divided by the sum of the weights: a weighted mean, in which the
          weights are part of what is summed.  The error is then h^2 sum_i w_i^2 f_ij (1 - f_ij) over
          (sum_i w_i)^2.
        - No sum of up to ``clients`` messages wraps.
        - In a cohort of more than ``clients`` those of rank ``clients`` and above are left out, and
          counted in the metric ``surplus``.
        - A client with a coordinate that is not finite or beyond h (2^(bits-1) - 1) is left out, and
          counted in the metric ``overflowed``.

    Bits:
        d * bits.

    Args:
        step: step h of the grid, positive.
        bits: width of one integer, 2 to 24.
        clients: the largest size of a cohort.
        max_weight: the largest weight of a client, such as its number of examples.  Weights are rounded
            to integers from 1 to ``max_weight``.  None if all count alike.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves, which sums.

    Raises:
        TypeError: ``step`` is not a Python number, or ``bits``, ``clients`` or ``max_weight`` is not an
            integer; a leaf of the message is not floating (from ``init``).
        ValueError: an argument is out of range, or ``clients`` messages could overflow an int32.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators
        >>> a = aggregators.integer_mean(0.5, bits=8, clients=100)
        >>> x = jnp.array([[1.5, -2.0], [0.5, 1.0]])
        >>> public = fjx.Public.first(a, x[0], jax.random.key(0))
        >>> a.encode(jax.random.key(1), x[0], public).codes.tolist()
        [3, -4]
        >>> aggregators.aggregate(jax.random.key(0), a, x)[0].tolist()
        [1.0, -0.5]

    References:
        Bonawitz, Salehi, Konecny, McMahan, Gruteser, *Federated Learning with Autotuned
        Communication-Efficient Secure Aggregation*, Asilomar 2019 (arXiv:1912.00131).
    """
    step = _validate.static_number("step", step, above=2.0**-126, at_most=2.0**125)
    bits = _validate.static_integer("bits", bits, at_least=2, at_most=24)
    clients = _validate.static_integer("clients", clients, at_least=1)
    heaviest = 1
    if max_weight is not None:
        heaviest = _validate.static_integer("max_weight", max_weight, at_least=1, at_most=2**24)
    top = 2 ** (bits - 1) - 1
    if clients * heaviest * top >= 2**31:
        times = "" if max_weight is None else f" times a weight of {max_weight}"
        raise ValueError(
            f"{clients} integers of {bits} bits{times} may add up to {clients * heaviest * top}, beyond "
            f"int32; take fewer bits, or at most {(2**31 - 1) // (top * heaviest)} clients"
        )

    narrow = jnp.int8 if bits <= 8 else jnp.int16 if bits <= 16 else jnp.int32

    def encode(key: Key, vector: Array, public: Public) -> Codes:
        ratio = vector.astype(jnp.float32) / np.float32(step)
        fits = jnp.all(jnp.abs(ratio) <= top)
        rounded = stochastic_round(key, jnp.where(fits, ratio, 0.0)).astype(jnp.int32)
        # A client that does not fit says so with the one integer that no coordinate uses.
        return Codes(jnp.where(fits, rounded, -top - 1).astype(narrow), bits)

    def contribute(payload: Codes, weight: Array, public: Public) -> Tree:
        integers = payload.codes.astype(jnp.int32)
        comes, room, fits = weight > 0, public.rank < clients, jnp.all(integers >= -top)
        counts = comes & fits & room
        times = jnp.int32(1)
        if max_weight is not None:
            times = jnp.round(jnp.clip(weight, 1, heaviest)).astype(jnp.int32)
        share = jnp.where(counts, integers * times, 0), jnp.where(counts, times, 0)
        return *share, *(flag.astype(jnp.int32) for flag in (comes & ~fits, comes & ~room))

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        summed, count, overflowed, surplus = total
        mean = summed.astype(jnp.float32) * (
            np.float32(step) / jnp.maximum(count, 1).astype(jnp.float32)
        )
        return mean, public.state, {"overflowed": overflowed, "surplus": surplus}

    return as_vector(Aggregator(lambda like: (), contribute, finish, SUM, encode))


def correlated_quantization(levels: int, *, low: float, high: float) -> Aggregator:
    """The mean of messages that are rounded at random such that the errors of the clients cancel.

    The grid has k levels between ``low`` and ``high``.  Coordinate j of client i lies a part f_ij of a
    step above a level, and is rounded up if u_ij < f_ij with u_ij = (p_j(i) + g_ij) / n.  Here p_j is a
    permutation of the n ranks that all clients share, and g_ij is uniform in [0, 1) and the client's
    own.  Each u_ij is uniform, so that nothing is biased.  Together they fill [0, 1) evenly, so that
    the errors of clients that agree cancel.

    Guarantees:
        - Unbiased.
        - For n equal messages |error_j| < s / n, surely, with s the step.
        - The variance of error_j is then s^2 f (1 - f) / n^2 with f = frac(n x_j / s).  That of
          independent rounding is s^2 f (1 - f) / n with f = frac(x_j / s).
        - Every client that takes part counts alike.
        - The sum of codes is exact, and the same in every order.
        - Clients that drop out leave holes in the permutation: promises about n are promises about the
          number of clients that were invited.
        - A coordinate outside of the range is moved to its end; the share of such coordinates is the
          metric ``clipped``, which is NaN if nobody came.

    Bits:
        d * ceil(log2 k).

    Args:
        levels: number of levels k, 2 to 65536.
        low: lowest value on the grid.
        high: highest value on the grid.  The range is the same for all clients, and known beforehand.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves, which sums.

    Raises:
        TypeError: ``levels`` is not an integer, or ``low`` or ``high`` is not a Python number; a leaf
            of the message is not floating (from ``init``).
        ValueError: ``levels`` is out of range, or ``low`` is not below ``high``.

    Examples:
        Ten clients have 1/2; five of them round up and five down:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.correlated_quantization(2, low=0.0, high=1.0)
        >>> aggregators.aggregate(jax.random.key(0), a, jnp.full((10, 3), 0.5))[0].tolist()
        [0.5, 0.5, 0.5]

    References:
        Suresh, Sun, Ro, Yu, *Correlated Quantization for Distributed Mean Estimation and Optimization*,
        ICML 2022 (arXiv:2203.04925), algorithms 1 and 2.
    """
    levels = _validate.static_integer("levels", levels, at_least=2, at_most=2**16)
    low = _validate.static_number("low", low)
    high = _validate.static_number("high", high, above=low)
    step = np.float32((high - low) / (levels - 1))

    def codes(key: Key, vector: Array, public: Public) -> Array:
        ratio = (jnp.clip(vector.astype(jnp.float32), low, high) - np.float32(low)) / step
        level = jnp.minimum(jnp.floor(ratio), levels - 2)
        order = shuffle(jax.random.fold_in(public.key, 0))

        def place(j: Array) -> Array:
            return permute_by(reshuffle(order, j), public.rank, public.size)

        places = jax.vmap(place)(jnp.arange(vector.size, dtype=jnp.int32)).astype(jnp.float32)
        own = jax.lax.optimization_barrier(_random.uniform(key, vector.shape))
        # Compared as n f - p with g: a sum of p and g would be rounded to one where g is nearly one.
        above = (ratio - level) * public.size.astype(jnp.float32) - places > own
        return (level + above.astype(jnp.float32)).astype(jnp.int32)

    narrow = jnp.uint8 if levels <= 256 else jnp.uint16

    def encode(key: Key, vector: Array, public: Public) -> Observed:
        sent = Codes(codes(key, vector, public).astype(narrow), index_width(levels))
        outside = jnp.sum((vector < low) | (vector > high), dtype=jnp.int32)
        return Observed(sent, SideInformation(outside))

    def contribute(payload: Observed, weight: Array, public: Public) -> Tree:
        counts = weight > 0
        integers = payload.sent.codes.astype(jnp.int32)
        outside = payload.seen.value
        return (
            jnp.where(counts, integers, 0),
            counts.astype(jnp.int32),
            None if outside is None else jnp.where(counts, outside, 0),
        )

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        summed, count, outside = total
        n = jnp.maximum(count, 1).astype(jnp.float32)
        mean = jnp.where(count > 0, np.float32(low) + step * (summed.astype(jnp.float32) / n), 0.0)
        if outside is None:  # payloads from bytes do not say which values were moved
            return mean, public.state, {}
        share = _tree.mean_of(outside.astype(jnp.float32) / max(summed.size, 1), count)
        return mean, public.state, {"clipped": share}

    return as_vector(Aggregator(lambda like: (), contribute, finish, SUM, encode))
