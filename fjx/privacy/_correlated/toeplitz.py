"""Toeplitz strategies: the same correlation in every round, with few bands or few buffers."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Tree, TreeLike
from fjx.privacy._correlated.mechanism import Strategy, mix
from fjx.privacy._types import Participation, Places


class ToeplitzState(NamedTuple):
    """State of :func:`toeplitz` and of :func:`buffered_toeplitz`.

    Attributes:
        buffer: past noise, ``f32[slots, ...]`` for each leaf of the message, and ``f32[slots]`` for the
            impulse response, the noise that fresh numbers 1, 0, 0, ... would give.
        variance: ``f32[]``, the sum of squares of the impulse response so far; that is the squared norm
            of a row of C^-1.
        round: ``i32[]``, the number of rounds so far.
    """

    buffer: Tree
    variance: Array
    round: Array


def toeplitz(coefficients: Sequence[float] | np.ndarray) -> Strategy:
    r"""Banded Toeplitz strategy of b bands: C_{t,s} = c_{t-s}, with c_k = 0 for k >= b.

    .. math:: \mathrm{noise}_t = (\mathrm{fresh}_t - \sum_{k=1}^{b-1} c_k \, \mathrm{noise}_{t-k}) / c_0

    The state holds the noise of the last b - 1 rounds, each as large as the message.  With as many bands
    as rounds it is the full square root, if the memory suffices.

    Guarantees:
        - ``toeplitz([1.0])`` is C = I, also with zeros after the one.
        - The sensitivity is exact for a client that takes part once, and is then ||c||.
        - It is exact for a client whose rounds are at least b apart, and is then sqrt(k) ||c|| unless
          the end of the run cuts a column short.
        - It is exact if c_0 >= c_1 >= ... >= 0.
        - In all other cases it is an upper bound: the sensitivity of the smallest non-increasing
          sequence above \|c\|.

    Args:
        coefficients: first column c_0, c_1, ... of C, b numbers with c_0 > 0.

    Returns:
        A :class:`Strategy`.

    Raises:
        TypeError: ``coefficients`` is not a sequence of concrete real numbers.
        ValueError: ``coefficients`` is empty or not finite, or c_0 is not positive.

    Examples:
        >>> from fjx.privacy import square_root_coefficients
        >>> strategy = toeplitz(square_root_coefficients(8))
        >>> twice = Participation(rounds=64, separation=32, most=2)
        >>> print(f"{strategy.sensitivity(twice) ** 2 / 2:.6f}")
        1.718379

    References:
        Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, *(Amplified) Banded Matrix
        Factorization: A Unified Approach to Private Training*, NeurIPS 2023 (arXiv:2306.08153).
        Kalinin, Lampert, *Banded Square Root Matrix Factorization for Differentially Private Model
        Training*, NeurIPS 2024 (arXiv:2405.13763), theorem 2 on the sensitivity.
    """
    c = _numbers("coefficients", coefficients)
    if c[0] <= 0:
        raise ValueError(f"coefficients must begin with a positive number, got {c[0]}")
    past = c[1:] if c.size > 1 else np.zeros(1)  # at least one slot, so that there is one to index
    slots = past.size

    def step(fresh: Tree, buffer: Tree, round: Array) -> tuple[Tree, Tree]:
        # Ring buffer: slot j holds the noise of the last round t with t % slots == j.
        lag = (round - 1 - jnp.arange(slots, dtype=jnp.int32)) % slots
        weights = jnp.asarray(past, jnp.float32)[lag]

        def one(x: Array, noise: Array) -> Array:
            return (x - mix(weights, noise)) / jnp.float32(c[0])

        noise = jax.tree.map(one, fresh, buffer)
        return noise, jax.tree.map(lambda b, x: b.at[round % slots].set(x), buffer, noise)

    return _strategy(slots, step, lambda rounds: c[:rounds])


def buffered_toeplitz(
    scales: Sequence[float] | np.ndarray, decays: Sequence[float] | np.ndarray
) -> Strategy:
    """Buffered linear Toeplitz (BLT) strategy: c_0 = 1, c_k = sum_i omega_i theta_i^{k-1}.

    noise_t = fresh_t - sum_i omega_i S_i;  then S_i <- theta_i S_i + noise_t.

    The state holds the d buffers S_i, each as large as the message.  Three buffers come within a percent
    of the best Toeplitz matrix for a thousand rounds (:func:`optimal_buffers`).  The number of rounds
    need not be known in advance.

    Guarantees:
        - Without scales it is C = I.
        - The sensitivity is exact for a client that takes part once.
        - It is exact if the scales are non-negative and add up to at most 1.
        - In all other cases it is an upper bound, as in :func:`toeplitz`.

    Args:
        scales: scales omega, d numbers.
        decays: decays theta, d numbers in [0, 1).

    Returns:
        A :class:`Strategy`.

    Raises:
        TypeError: an argument is not a sequence of concrete real numbers.
        ValueError: the numbers of scales and decays differ, or a decay is out of range.

    Examples:
        >>> strategy = buffered_toeplitz(scales=[0.3, 0.1], decays=[0.5, 0.95])
        >>> once = Participation(rounds=100, separation=100, most=1)
        >>> print(f"{strategy.sensitivity(once):.3f}")
        1.156

    References:
        Dvijotham, McMahan, Pillutla, Steinke, Thakurta, *Efficient and Near-Optimal Noise Generation for
        Streaming Differential Privacy*, FOCS 2024 (arXiv:2404.16706).
        McMahan, Xu, Zhang, *A Hassle-free Algorithm for Private Learning in Practice: Don't Use Tree
        Aggregation, Use BLTs*, EMNLP 2024 (arXiv:2408.08868).
    """
    omega, theta = _numbers("scales", scales, least=0), _numbers("decays", decays, least=0)
    if omega.size != theta.size:
        raise ValueError(
            f"there must be as many decays as scales, got {theta.size} decays and {omega.size} scales"
        )
    if not ((theta >= 0) & (theta < 1)).all():
        raise ValueError(f"decays must be at least 0 and less than 1, got {theta.tolist()}")

    def step(fresh: Tree, buffer: Tree, round: Array) -> tuple[Tree, Tree]:
        scale, decay = jnp.asarray(omega, jnp.float32), jnp.asarray(theta, jnp.float32)
        noise = jax.tree.map(lambda x, s: x - mix(scale, s), fresh, buffer)

        def absorb(s: Array, x: Array) -> Array:
            return decay.reshape(-1, *[1] * x.ndim) * s + x[None]

        return noise, jax.tree.map(absorb, buffer, noise)

    return _strategy(omega.size, step, lambda rounds: blt_coefficients(omega, theta, rounds))


def blt_coefficients(omega: np.ndarray, theta: np.ndarray, rounds: int) -> np.ndarray:
    """First ``rounds`` coefficients c_0 = 1, c_k = sum_i omega_i theta_i^{k-1}."""
    powers = theta[:, None] ** np.arange(max(rounds - 1, 0))
    return np.concatenate([np.ones(min(rounds, 1)), omega @ powers])


def _strategy(
    slots: int,
    step: Callable[[Tree, Tree, Array], tuple[Tree, Tree]],
    column: Callable[[int], np.ndarray],
) -> Strategy:
    """Strategy of a recursion ``(fresh, buffer, round) -> (noise, buffer)``, with its own variance.

    All rows of a Toeplitz C^-1 hold the same numbers: the response to an impulse in the first round.
    That impulse is sent through the recursion beside the noise, and its squares add up to the variance.
    """

    def init(message_like: TreeLike) -> ToeplitzState:
        buffer = jax.tree.map(
            lambda x: jnp.zeros((slots, *x.shape), jnp.float32),
            (message_like, jax.ShapeDtypeStruct((), jnp.float32)),
        )
        return ToeplitzState(buffer, jnp.zeros(()), jnp.zeros((), jnp.int32))

    def advance(fresh: Tree, state: ToeplitzState) -> tuple[Tree, ToeplitzState]:
        impulse = (state.round == 0).astype(jnp.float32)
        (noise, response), buffer = step((fresh, impulse), state.buffer, state.round)
        variance = state.variance + jnp.square(response)
        return noise, ToeplitzState(buffer, variance, state.round + 1)

    return Strategy(
        init=init,
        step=advance,
        deviation=lambda state: jnp.sqrt(state.variance),
        sensitivity=lambda participation: sensitivity(column(participation.rounds), participation),
        turn=lambda participation: turn(column(participation.rounds), participation),
        place=lambda places: place(column(places.rounds), places),
    )


def sensitivity(column: np.ndarray, participation: Participation) -> float:
    """L2 sensitivity of the Toeplitz matrix with that first column, or an upper bound on it.

    Assume that all products of columns are non-negative.  The worst client then contributes the same
    unit vector whenever it takes part.  If the columns do not increase, they are worst, alone and in
    pairs, when they begin as early and as close together as allowed: ||C_{:,1} + C_{:,1+b} + ... +
    C_{:,1+(k-1)b}|| (Kalinin and Lampert 2024, theorem 2).  Columns without common rows are orthogonal
    for any signs, and a single column is longest when it is not cut short.  If none of this applies, the
    column is replaced by the smallest non-increasing sequence above its absolute values.
    """
    if participation.most > 1 and participation.separation < column.size:
        column = np.maximum.accumulate(np.abs(column)[::-1])[::-1]
    return float(np.linalg.norm(overlay(column, participation)))


def turn(column: np.ndarray, participation: Participation) -> float:
    """Largest norm of one round of a client, if the rounds share the noise of each row.

    The round of column j gets the part |C_tj| / sum_i |C_ti| of the variance of row t, where i runs over
    the rounds of the client.  In units of that noise its column has the squared norm sum_t |C_tj| sum_i
    |C_ti|.  This is largest for a client that begins with the first round.
    """
    size = np.abs(column)
    total = overlay(size, participation._replace(most=participation.rounds))
    squares = [
        size[: total.size - start] @ total[start : start + size.size]
        for start in range(0, total.size, participation.separation)
    ]
    return float(np.sqrt(max(squares, default=0.0)))


def place(column: np.ndarray, places: Places) -> float:
    r"""Largest norm of what a client sends in one place, if places of a class share the noise of a row.

    Let O_u be the sum of the columns of \|C\| that belong to place u: one column, or one for each period
    if the place is kept.  Place u gets the part O_u / sum_v O_v of the variance of each row, with v in
    the places of its class in all periods.  In units of that noise O_u has the squared norm
    sum_t O_u(t) sum_v O_v(t).  The classes of other periods are drawn independently, so their largest
    sum in each row is taken.
    """
    rounds, period, count, apart, kept = places
    size, starts = np.trim_zeros(np.abs(column), "b"), range(0, rounds + count - 1, period)
    if kept:
        size = overlay(size, Participation(rounds, period, rounds))
        starts = range(1)
    rows = rounds if kept else rounds + count - 1  # the run may begin at any place
    if not rows:
        return 0.0

    def of_class(first: int) -> np.ndarray:
        total = np.zeros(rows)
        for start in range(first, min(count, rows), apart):
            part = size[: rows - start]
            total[start : start + part.size] += part
        return total

    widest = np.max([of_class(first) for first in range(apart)], axis=0)
    everybody = np.zeros(rows)
    for start in starts:
        everybody[start:] += widest[: rows - start]
    largest = 0.0
    for first in range(min(apart, rows)):
        own = of_class(first) - widest
        for start in starts:
            total = np.zeros(rows - start + size.size)
            total[: rows - start] = everybody[start:] + own[: rows - start]
            shared = np.lib.stride_tricks.sliding_window_view(total, size.size)
            largest = max(
                largest,
                float((shared[first : min(count, rows - start) : apart] @ size).max(initial=0.0)),
            )
    return math.sqrt(largest)


def overlay(column: np.ndarray, participation: Participation) -> np.ndarray:
    """Sum of the columns of a client that takes part as early and as often as it may."""
    rounds, separation, most = participation
    total = np.zeros(rounds)
    for start in range(0, rounds, separation)[:most]:
        part = column[: rounds - start]
        total[start : start + part.size] += part
    return total


def square_root_coefficients(bands: int) -> np.ndarray:
    """First coefficients of the square root of the lower triangle of ones.

    c_0 = 1, c_k = c_{k-1} (2k - 1) / (2k).  These are the Taylor coefficients of (1 - x)^{-1/2}, whose
    square is 1 + x + x^2 + ...

    Args:
        bands: number of coefficients, at least 1.

    Returns:
        ``f64[bands]``.

    Raises:
        TypeError: ``bands`` is not a Python integer.
        ValueError: ``bands`` is below 1.

    Examples:
        >>> print(square_root_coefficients(5))
        [1.        0.5       0.375     0.3125    0.2734375]

    References:
        Fichtenberger, Henzinger, Upadhyay, *Constant Matters: Fine-grained Complexity of Differentially
        Private Continual Observation*, ICML 2023 (arXiv:2202.11205).
    """
    bands = _validate.static_integer("bands", bands, at_least=1)
    k = np.arange(1, bands)
    return np.cumprod(np.concatenate([[1.0], (2 * k - 1) / (2 * k)]))


def _numbers(name: str, values: Sequence[float] | np.ndarray, least: int = 1) -> np.ndarray:
    """Vector of at least ``least`` finite numbers, in float64.

    Raises:
        TypeError: the numbers are traced.
        ValueError: there are fewer numbers, or one is not finite.
    """
    if not all(map(_validate.concrete, jax.tree.leaves(values))):
        raise TypeError(
            f"{name} must be concrete: privacy is accounted from them, on the host; call this outside "
            "jit and vmap"
        )
    if np.ndim(values) != 1 or len(values) < least:
        raise ValueError(f"{name} must be a sequence of at least {least} numbers, got {values!r}")
    for value in values:
        _validate.number(name, value)
    return np.array(values, np.float64)  # a copy, so that no caller can change it
