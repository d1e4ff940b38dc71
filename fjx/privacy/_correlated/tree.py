"""Tree aggregation: the noise of a running sum is that of at most log2 T nodes."""

import collections
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Tree, TreeLike
from fjx.privacy._correlated.mechanism import Strategy, mix
from fjx.privacy._types import Participation


class TreeState(NamedTuple):
    """State of :func:`tree` and of :func:`honaker_tree`.

    Attributes:
        nodes: ``f32[heights, ...]`` for each leaf of the message: at index h, the noise of the last node
            of height h.
        round: ``i32[]``, the number of rounds so far.
    """

    nodes: Tree
    round: Array


def tree(restart: int) -> Strategy:
    """Binary tree aggregation, restarted every ``restart`` rounds.

    A node of height h holds the noised sum of 2^h rounds.  The sum of the first t rounds of a tree is
    the sum of the nodes in t's binary representation, so its noise has variance popcount(t).  The
    release of round t is the difference of two such sums:

    noise_t = N_t - N_{t-1},  N_t = sum_{h: bit h of t} (noise of the node of height h in t).

    Only the largest node that ends with round t is ever read.  One fresh number a round is therefore
    enough: C is the matrix of a Fenwick tree, whose row t adds up the last (t & -t) rounds.

    The state holds floor(log2(restart)) + 1 nodes, each as large as the message.

    Guarantees:
        - ``tree(1)`` is C = I.
        - The sensitivity is exact if a client is at most once in each node: with a single participation,
          or with a separation of at least the largest node.  A client that takes part once in a tree of
          T rounds is in ceil(log2(T + 1)) nodes, and the sensitivity is the square root of that.
        - Otherwise it is an upper bound: a client that is m times in a node moves it by m, and
          m^2 <= m ceil(2^h / b).

    Args:
        restart: number of rounds of a tree, at least 1.  A longer run has several trees, and sums over
            several trees add their noise.

    Returns:
        A :class:`Strategy`.

    Raises:
        TypeError: ``restart`` is not a Python integer.
        ValueError: ``restart`` is below 1.

    Examples:
        >>> once = Participation(rounds=16, separation=16, most=1)
        >>> print(f"{tree(16).sensitivity(once) ** 2:.1f}")
        5.0

    References:
        Dwork, Naor, Pitassi, Rothblum, *Differential Privacy under Continual Observation*, STOC 2010.
        Chan, Shi, Song, *Private and Continual Release of Statistics*, ICALP 2010.
        Kairouz et al., ICML 2021 (arXiv:2103.00039).
    """
    restart = _validate.static_integer("restart", restart, at_least=1)
    return _binary(restart, np.ones(restart.bit_length()), every=False)


def honaker_tree(restart: int) -> Strategy:
    """Tree aggregation with Honaker's estimator, which also uses the children of a node.

    A node is estimated by the average of its own noised sum and of its children's estimates, weighted by
    inverse variances.  At height h the estimate has variance v_h = 2^h / (2^{h+1} - 1) = 1, 2/3, 4/7,
    ...  instead of 1, at the same price in privacy.  It uses earlier rounds only, so it can be streamed.

    The fresh noise of all nodes that end with round t enters as one number, their weighted sum.  The
    noise has the same law, and the state is that of :func:`tree`.

    Guarantees:
        - The guarantees of :func:`tree` hold, with prefix variance sum_{h: bit h of t} v_h.
        - The sensitivity is that of the whole tree, including right children; the estimates are
          post-processing of its nodes.

    Args:
        restart: number of rounds of a tree, at least 1.

    Returns:
        A :class:`Strategy`.

    Raises:
        TypeError: ``restart`` is not a Python integer.
        ValueError: ``restart`` is below 1.

    Examples:
        >>> from fjx.privacy import prefix_error
        >>> once = Participation(rounds=16, separation=16, most=1)
        >>> print(f"{prefix_error(tree(16), once):.2f}, {prefix_error(honaker_tree(16), once):.2f}")
        3.21, 2.66

    References:
        Honaker, *Efficient Use of Differentially Private Binary Trees*, TPDP 2015.
        Kairouz et al., ICML 2021 (arXiv:2103.00039), "estimation from below".
    """
    restart = _validate.static_integer("restart", restart, at_least=1)
    size = 2.0 ** np.arange(restart.bit_length())
    return _binary(restart, size / (2 * size - 1), every=True)


def _binary(restart: int, own: np.ndarray, *, every: bool) -> Strategy:
    """Strategy of a tree whose node of height h weights its own noise by ``own[h]``.

    Its children get the remaining weight.  The left one of two siblings is always read, and the right
    one only if ``every`` node is.  Unroll the estimate along the right edge of the new node of height h,
    with fresh z_j of variance 1 at height j and left siblings e_j:

    sum_{j <= h} own_j R_{j,h} z_j + sum_{j < h} R_{j,h} e_j,  R_{j,h} = prod_{j < i <= h} (1 - own_i).

    The z_j are read nowhere else, so their weighted sum is drawn as one number.
    """
    heights = own.size
    below = np.tril(np.ones((heights, heights)), -1)
    rest = np.array(
        [[np.prod(1 - own[j + 1 : h + 1]) for j in range(heights)] for h in range(heights)]
    ) * (below + np.eye(heights))
    fresh_std = np.linalg.norm(rest * own, axis=1)
    left = rest * below
    node_variance = np.linalg.solve(np.eye(heights) - left**2, fresh_std**2)
    # N_t - N_{t-1}: round t replaces the nodes of the trailing ones of t - 1 by the new node.
    step_std = np.sqrt(fresh_std**2 + (left - below) ** 2 @ node_variance)

    def height(round: Array) -> Array:
        """Height of the largest node that ends with a round from 1 on: the round's trailing zeros."""
        t = (round - 1) % restart + 1
        return jax.lax.population_count((t & -t) - 1)

    def init(message_like: TreeLike) -> TreeState:
        nodes = jax.tree.map(lambda x: jnp.zeros((heights, *x.shape), jnp.float32), message_like)
        return TreeState(nodes, jnp.zeros((), jnp.int32))

    def step(fresh: Tree, state: TreeState) -> tuple[Tree, TreeState]:
        h = height(state.round + 1)
        scale, kept, dropped = (
            jnp.asarray(table, jnp.float32)[h] for table in (fresh_std, left, below)
        )
        new = jax.tree.map(lambda x, e: scale * x + mix(kept, e), fresh, state.nodes)
        noise = jax.tree.map(lambda x, e: x - mix(dropped, e), new, state.nodes)
        nodes = jax.tree.map(lambda e, x: e.at[h].set(x), state.nodes, new)
        return noise, TreeState(nodes, state.round + 1)

    def squares(participation: Participation) -> np.ndarray:
        """For each round, the number of rounds of one client in its nodes, at most."""
        rounds, separation, most = participation
        most = min(most, -(-rounds // separation))
        room = np.minimum(most, -(-(2 ** np.arange(heights)) // separation))
        return _membership(restart, rounds, heights, every) @ room

    def sensitivity(participation: Participation) -> float:
        return math.sqrt(heaviest(squares(participation), participation))

    def turn(participation: Participation) -> float:
        # The rounds of a client in a node share its noise equally.
        return math.sqrt(max(squares(participation), default=0.0))

    return Strategy(
        init=init,
        step=step,
        deviation=lambda state: jnp.asarray(step_std, jnp.float32)[height(state.round)],
        sensitivity=sensitivity,
        turn=turn,
    )


def _membership(restart: int, rounds: int, heights: int, every: bool) -> np.ndarray:
    """``bool[rounds, heights]``, true if a round is in a complete node of that height that is read."""
    t, h = np.arange(rounds)[:, None], np.arange(heights)
    leaf = t % restart
    leaves = np.minimum(restart, rounds - (t - leaf))  # the last tree may have fewer
    node = leaf >> h
    return ((node + 1) << h <= leaves) & (every | (node % 2 == 0))


def heaviest(weights: np.ndarray, participation: Participation) -> float:
    """Largest sum of ``weights`` (``f64[rounds]``) over the rounds in which one client may take part.

    Dynamic programming over the first t rounds, with at most j of them chosen:
    best_t(j) = max(best_{t-1}(j), w_t + best_{t-b}(j - 1)).
    """
    _, separation, most = participation
    most = min(most, -(-weights.size // separation))
    best = collections.deque([np.zeros(most + 1)] * separation, maxlen=separation)
    for weight in weights:
        row = best[-1].copy()
        row[1:] = np.maximum(row[1:], best[0][:-1] + weight)
        best.append(row)
    return float(best[-1][-1])
