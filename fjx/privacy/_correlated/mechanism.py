"""Matrix mechanism: noise that is correlated between rounds, computed as a stream."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Key, Metrics, Tree, TreeLike
from fjx.privacy._mechanisms import grid
from fjx.privacy._mechanisms.gaussian import as_bound, deviation, gaussian_event
from fjx.privacy._types import Bound, Contribution, Mechanism, Participation, Places

_LARGER = 100.0
"""Largest deviation of a round's noise in units of fresh noise: forty of them fit 32 bits, in steps."""


class Strategy(NamedTuple):
    """Strategy matrix C, lower triangular and invertible, given as the stream of the rows of C^-1 Z.

    Attributes:
        init: ``(message_like) -> state``, called before the first round with a template of the message.
            The state is a pytree of arrays whose size does not depend on the round; it holds no key.
        step: ``(fresh, state) -> (noise, state)``.  It computes row t of C^-1 Z from row t of Z
            (``fresh``) and the earlier rows that the state summarises.  ``fresh`` and ``noise`` are
            float32 trees in the shapes of the message.  ``step`` is linear in both arguments and uses no
            randomness.
        deviation: ``(state) -> f32[]``, the standard deviation of the noise that the last ``step``
            returned, if ``fresh`` was standard normal; that is the norm of that row of C^-1.
        sensitivity: ``(Participation) -> float``, an upper bound on ||C G - C G'||_F over runs G, G' in
            which the rows of one client, of norm at most 1, are present or are zero.
        turn: None if no sampling amplifies the strategy.  Otherwise ``(Participation) -> float``, the
            largest norm s that the rounds of one client have if each gets a share of the noise for
            itself; see :func:`correlated`.
        place: None if random places do not amplify it.  Otherwise ``(Places) -> float``, the largest
            norm of what a client sends in one place, if each place gets a share of the noise.
    """

    init: Callable[[TreeLike], Tree]
    step: Callable[[Tree, Tree], tuple[Tree, Tree]]
    deviation: Callable[[Tree], Array]
    sensitivity: Callable[[Participation], float]
    turn: Callable[[Participation], float] | None = None
    place: Callable[[Places], float] | None = None


def correlated(
    strategy: Strategy, *, clip_norm: Array | float | Bound, noise_multiplier: Array | float
) -> Mechanism:
    r"""Matrix mechanism on the sums of a run: each round's noise partly cancels that of earlier rounds.

    Let G be the sums of clipped updates, one row for each of T rounds, and let Z be standard normal:

    .. math:: \mathrm{release}_t = G_t + z \, C_{\mathrm{clip}} \, (C^{-1} Z)_t

    A model that adds up the rounds then sees the noise A C^-1 Z, with A the lower triangle of ones,
    which is much smaller than A Z.  Use it if cohorts are not sampled at random (DP-FTRL).  With C = I
    it is :func:`gaussian`.

    *Privacy.*  All rounds together are one Gaussian release of C G + z C_clip Z, to which C^-1 is
    applied.  Nothing is composed round by round.  Assume that a client
    takes part in at most k rounds, which are at least b apart.  It then moves C G by at most
    ``strategy.sensitivity`` times C_clip in the Frobenius norm, even if its updates depend on earlier
    releases.  Absence is meant in the zero-out sense (``REPLACE_SPECIAL``): the client's updates are
    zero, and the rounds of the other clients stay as they are.  If its data are replaced, everything
    moves twice as far.

    *Amplification by Poisson and fixed-size sampling.*  The noise of each row of C G + z C_clip Z can be
    divided among the rounds of one client that are in the row, in proportion to their entries of \|C\|.
    The run is then post-processing of one Gaussian release for each round in which the client may take
    part, of noise multiplier z / s with s = ``strategy.turn``.  These releases are amplified like those
    of :func:`gaussian`.  With b bands, and the rounds of a client b apart as in
    :func:`fjx.samplers.cyclic_poisson`, s is the norm of a column, and nothing is lost.  If the memory
    is longer, s is larger; :func:`fjx.privacy.epsilon` takes the lower of the two claims.

    *Amplification by random places.*  With :func:`fjx.samplers.min_separation` and
    :func:`fjx.samplers.balls_in_bins` a client draws one of several rounds of a period.  The noise is
    divided among these in the same way, and the claim is that of a client in a random one of several
    bins (``strategy.place``).

    *The state is secret.*  It holds past noise.  From it, the noise of the next round can be predicted
    in part, and that of the last rounds can be removed.  It belongs to the server, which is trusted.
    Clients' code can reach it in a simulation; a deployment must not send it to them.

    Sums and fresh noise are whole steps of a grid, as with :func:`gaussian`.  The recursion is computed
    in float32 and accounted as if it were exact; the claim says so.

    Guarantees:
        - The noise is linear in the fresh normal numbers, which are those of :func:`gaussian` for the
          same key.  With C = I the noise is that of :func:`gaussian`, bit for bit.
        - The state has a constant size and holds no key.
        - Noise is added once a round, also if no client took part.
        - A round whose noise is more than 100 times as large as fresh noise gives NaN, for all messages:
          its integers would not fit.  That is so of coefficients that begin with less than 1/100, or
          whose C^-1 grows without end.

    Args:
        strategy: strategy C, such as :func:`tree`, :func:`toeplitz` or :func:`buffered_toeplitz`.
        clip_norm: clip norm C_clip > 0, or a :class:`Bound` in the L2 norm; may be traced.
        noise_multiplier: noise multiplier z >= 0 of the fresh noise; may be traced.  The run is
            accounted as one release, ``event(moves * correlation(participation))``.

    Returns:
        A :class:`Mechanism` with a ``correlation``.  Its metric ``noise_std`` is the standard deviation
        of the round's noise on a coordinate of the sum, z C_clip ||(C^-1)_t||.

    Raises:
        TypeError: ``strategy`` is not a :class:`Strategy`, or another argument is not a number.
        ValueError: as in :func:`gaussian`.

    Examples:
        >>> from fjx.privacy import toeplitz
        >>> mechanism = correlated(toeplitz([1.0, 0.5]), clip_norm=1.0, noise_multiplier=4.0)
        >>> once = Participation(rounds=100, separation=100, most=1)
        >>> print(f"{mechanism.correlation(once):.3f}")  # the norm of (1, 1/2)
        1.118
        >>> mechanism.event(mechanism.correlation(once)).noise_multiplier
        3.577...

    References:
        Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, *Practical and Private (Deep) Learning without
        Sampling or Shuffling*, ICML 2021 (arXiv:2103.00039).
        Denisov, McMahan, Rush, Smith, Thakurta, *Improved Differential Privacy for SGD via Optimal
        Private Linear Operators on Adaptive Streams*, NeurIPS 2022 (arXiv:2202.08312), theorem 2.1.
        Choquette-Choo, McMahan, Rush, Thakurta, *Multi-Epoch Matrix Factorization Mechanisms for
        Private Machine Learning*, ICML 2023 (arXiv:2211.06530).
        Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, *(Amplified) Banded Matrix
        Factorization: A Unified Approach to Private Training*, NeurIPS 2023 (arXiv:2306.08153), theorem
        4, for the amplification of banded matrices.
    """
    if not isinstance(strategy, Strategy):
        raise TypeError(
            f"strategy must be a fjx.privacy.Strategy such as privacy.tree(16), got {strategy!r}"
        )
    bound = as_bound(clip_norm)
    noise_multiplier = _validate.scalar("noise_multiplier", noise_multiplier, at_least=0)

    grid.require_range(noise_multiplier, bound.radius)

    def release(key: Key, total: Contribution, state: Tree) -> tuple[Tree, Tree, Metrics]:
        scale = noise_multiplier, bound.radius
        step = grid.step_of(grid.GAUSSIAN, *scale)
        leaves, dtypes, treedef = grid.parts(grid.GAUSSIAN, total.update, *scale)
        drawn = grid.draw(grid.GAUSSIAN, key, grid.shapes_of(leaves))
        fresh = treedef.unflatten(
            [step * grid.shrunk(x, noise_multiplier).astype(jnp.float32) for x in drawn]
        )
        noise, state = strategy.step(fresh, state)
        larger = strategy.deviation(state)
        # Cut noise would hide nothing: the conversion to integers saturates.
        whole = [jnp.round(x / step).astype(jnp.int32) for x in jax.tree.leaves(noise)]
        noised = grid.assemble(leaves, whole, step, total.clients, dtypes, treedef)
        fits = larger <= _LARGER
        noised = jax.tree.map(lambda x: jnp.where(fits, x, jnp.nan), noised)
        std = deviation(noise_multiplier, bound.radius)
        return noised, state, {"noise_std": std * larger}

    return Mechanism(
        init=strategy.init,
        clip=lambda update, weight, state: bound.clip(update, weight),
        release=release,
        noise_multiplier=noise_multiplier,
        sensitivity=bound.sensitivity,
        event=lambda moves: gaussian_event(noise_multiplier, moves),
        correlation=strategy.sensitivity,
        turn=strategy.turn,
        place=strategy.place,
        to_steps=lambda update, state: grid.in_steps(
            grid.GAUSSIAN, update, noise_multiplier, bound.radius
        ),
        distance=grid.DISTANCE,
    )


def noise_matrix(strategy: Strategy, rounds: int) -> np.ndarray:
    """Leading T x T block of C^-1, computed by applying ``strategy.step`` to the unit vectors.

    Args:
        strategy: strategy C.
        rounds: number of rounds T.

    Returns:
        ``f64[T, T]``, computed in float32.

    Raises:
        TypeError: ``rounds`` is not a Python integer.
        ValueError: ``rounds`` is below 1.

    Examples:
        >>> from fjx.privacy import toeplitz
        >>> print(noise_matrix(toeplitz([1.0, 0.5]), 3))
        [[ 1.    0.    0.  ]
         [-0.5   1.    0.  ]
         [ 0.25 -0.5   1.  ]]
    """
    rounds = _validate.static_integer("rounds", rounds, at_least=1)

    @jax.jit
    def rows(unit: Array) -> Array:
        def step(state: Tree, fresh: Array) -> tuple[Tree, Array]:
            noise, state = strategy.step(fresh, state)
            return state, noise

        return jax.lax.scan(step, strategy.init(unit[0]), unit)[1]

    return np.asarray(rows(jnp.eye(rounds, dtype=jnp.float32)), np.float64)


def prefix_error(strategy: Strategy, participation: Participation) -> float:
    r"""Noise on the running sums of a run at equal privacy; the figure by which to choose a strategy.

    .. math:: \mathrm{sens}(C) \sqrt{\mathrm{mean}_t \|(A C^{-1})_t\|^2}

    with A the lower triangle of ones.  It is the root mean squared noise on a coordinate of the sums of
    rounds 1 to t, in units of the clip norm, if the whole run is one release with noise multiplier 1.
    Without correlation it is sqrt(k (T + 1) / 2).

    Args:
        strategy: strategy C.
        participation: number of rounds T, and limits on how often one client takes part.

    Returns:
        The error.

    Raises:
        ValueError: the run has no rounds.

    Examples:
        >>> from fjx.privacy import square_root_coefficients, toeplitz
        >>> once = Participation(rounds=16, separation=16, most=1)
        >>> for coefficients in ([1.0], square_root_coefficients(16)):
        ...     print(f"{prefix_error(toeplitz(coefficients), once):.3f}")
        2.915
        1.797

    References:
        Henzinger, Upadhyay, Upadhyay, *Almost Tight Error Bounds on Differentially Private Continual
        Counting*, SODA 2023 (arXiv:2211.05006).
    """
    prefix = np.cumsum(noise_matrix(strategy, participation.rounds), axis=0)
    mean = np.square(prefix).sum() / participation.rounds
    return float(strategy.sensitivity(participation) * np.sqrt(mean))


def mix(weights: Array, past: Array) -> Array:
    """Weighted sum sum_i weights_i past_i, in full precision on every device."""
    return jnp.tensordot(weights, past, axes=1, precision=jax.lax.Precision.HIGHEST)
