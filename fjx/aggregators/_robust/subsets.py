"""Rules that try every subset of n - f messages: minimum diameter, smallest largest eigenvalue."""

import itertools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from fjx import _validate
from fjx._base import Aggregator, Array, Metrics, Tree
from fjx.aggregators._robust.products import Products, mean_of, products
from fjx.aggregators._robust.stack import Stack, admitted, stacking

DIAMETERS, EIGENVALUES = 1 << 16, 1 << 13
"""Largest numbers of subsets that the two rules try."""


def mda(f: int) -> Aggregator:
    """The mean of the n - f messages with the smallest diameter, found among all subsets.

    The diameter of a set is the largest distance between two of its messages.

    Guarantees:
        - (f, kappa)-robust for f < n / 2: :func:`fjx.theory.kappa_mda`.
        - Exact: every subset is tried.  Of equal diameters the first in lexicographic order wins.
        - With f = 0 it is the mean of the messages.
        - Zero if nobody takes part.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.
        - If the n messages that came are too few, f becomes the largest number with 2 f < n, and the
          metric ``f_lowered`` is 1.

    Args:
        f: number of Byzantine clients to withstand, at least 0.  It decides the number of subsets, so
            it may not be traced.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: ``f`` is not an integer.
        ValueError: ``f`` is negative; or, from ``finish``, the cohort has no 2 f + 1 slots, or more
            than 65,536 subsets.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 2.0, 3.0, 9.0])
        >>> float(aggregators.aggregate(jax.random.key(0), aggregators.mda(1), x)[0])
        2.0

    References:
        Rousseeuw, *Multivariate Estimation with High Breakdown Point*, 1985; El Mhamdi, Guerraoui,
        Guirguis, Hoang, Rouault, *Genuinely Distributed Byzantine Machine Learning*, PODC 2020
        (arXiv:1905.03853).
    """

    def diameter(found: Products, kept: Array) -> Array:
        both = kept[:, None] & kept[None, :]
        return jnp.max(jnp.where(both, found.squares, 0.0))

    return _best_subset("mda", f, diameter, DIAMETERS)


def smea(f: int) -> Aggregator:
    """The mean of the n - f messages whose covariance has the smallest largest eigenvalue.

    Every subset is tried.  The eigenvalues are those of the inner products, n by n.

    Guarantees:
        - (f, kappa)-robust for f < n / 2: :func:`fjx.theory.kappa_smea`.
        - Of equal eigenvalues the first subset in lexicographic order wins, up to rounding.
        - With f = 0 it is the mean of the messages.
        - Zero if nobody takes part.
        - A message that is not finite, or whose squared norm overflows, is left out, and counted in the
          metric ``left_out``.
        - If the n messages that came are too few, f becomes the largest number with 2 f < n, and the
          metric ``f_lowered`` is 1.

    Args:
        f: number of Byzantine clients to withstand, at least 0.  It decides the number of subsets, so
            it may not be traced.

    Returns:
        An :class:`fjx.Aggregator` that stacks.

    Raises:
        TypeError: ``f`` is not an integer.
        ValueError: ``f`` is negative; or, from ``finish``, the cohort has no 2 f + 1 slots, or more
            than 8,192 subsets.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> x = jnp.array([1.0, 2.0, 3.0, 9.0])
        >>> float(aggregators.aggregate(jax.random.key(0), aggregators.smea(1), x)[0])
        2.0

    References:
        Allouah, Guerraoui, Gupta, Pinot, Stephan, *On the Privacy-Robustness-Utility Trilemma in
        Distributed Learning*, ICML 2023 (arXiv:2302.04787).
    """

    def largest_eigenvalue(found: Products, kept: Array) -> Array:
        centred = centred_products(found.inner, kept.astype(found.inner.dtype))
        return jnp.linalg.eigvalsh(jnp.where(kept[:, None] & kept[None, :], centred, 0.0))[-1]

    return _best_subset("smea", f, largest_eigenvalue, EIGENVALUES)


def centred_products(inner: Array, weights: Array) -> Array:
    """Inner products about the weighted mean of the messages."""
    share = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(inner.dtype).tiny)
    about = inner @ share
    return inner - about[:, None] - about[None, :] + share @ about


def _best_subset(
    name: str, f: int, cost: Callable[[Products, Array], Array], most: int
) -> Aggregator:
    """The mean of the cheapest subset of n - f messages.

    Args:
        name: name of the rule.
        f: number of messages to leave out.
        cost: ``(products, kept) -> number``, for ``kept`` of ``bool[m]``.
        most: largest number of subsets.
    """
    f = _validate.static_integer(f"{name}: f", f, at_least=0)

    def rule(stack: Stack) -> tuple[Tree, Metrics]:
        lowered, metrics = admitted(name, f, stack)
        removed = _removals(name, stack.slots, f, most)
        found = lax.stop_gradient(products(stack))

        def price(places: Array) -> Array:
            gone = jnp.zeros(stack.slots, bool).at[places].set(True)
            # Absent clients fill up the f places, if f had to be lowered.
            fits = jnp.sum(gone & stack.present) == lowered
            return jnp.where(fits, cost(found, stack.present & ~gone), jnp.inf)

        prices = lax.map(price, removed, batch_size=256)
        gone = jnp.zeros(stack.slots, bool).at[removed[jnp.argmin(prices)]].set(True)
        return mean_of(~gone, stack), metrics

    return stacking(rule)


def _removals(name: str, slots: int, f: int, most: int) -> Array:
    """The places of the f messages that each subset leaves out, ``i32[subsets, f]``.

    The subsets that are kept are in lexicographic order, so those left out are in the opposite one.

    Raises:
        ValueError: there are too many.
    """
    f = min(f, max(slots - 1, 0))
    number = math.comb(slots, f)
    if number > most:
        raise ValueError(
            f"{name}: f = {f} of {slots} slots makes {number} subsets, and at most {most} are tried; "
            "lower f, let fewer clients take part, or use "
            "nearest_neighbour_mixing(multi_krum(f), f), which needs no subsets"
        )
    places = list(itertools.combinations(range(slots), f))[::-1]
    return jnp.asarray(np.array(places, np.int32).reshape(number, f))
