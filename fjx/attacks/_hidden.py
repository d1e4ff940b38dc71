"""Attacks that hide within the spread of the honest messages."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from fjx._base import Array, Key
from fjx.attacks._colluding import Attack, View

Direction = Literal["deviation", "mean", "sign"]
"""The direction of :func:`min_max` and :func:`min_sum`."""


def min_max(direction: Direction = "deviation") -> Attack:
    r"""The largest step away from the honest mean that is no farther from anybody than they are apart.

    .. math:: \bar x + \gamma p, \quad
        \max_i \|\bar x + \gamma p - x_i\| \le \max_{i, j} \|x_i - x_j\|

    Each honest message bounds gamma by the root of a quadratic.  The smallest root is exact, without a
    search.

    Args:
        direction: p is minus the deviation of each coordinate, minus the mean scaled to length one, or
            minus the sign of the mean.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        ValueError: ``direction`` is none of these.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0], [3.0]])  # a distance of 2, so -1 is too far from 3
        >>> attacks.min_max()(jax.random.key(0), attacks.View.of(honest)).round(4).tolist()
        [1.0]

    References:
        Shejwalkar, Houmansadr, *Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
        Defenses for Federated Learning*, NDSS 2021, section IV.
    """
    require_direction(direction)

    def attack(key: Key, view: View) -> Array:
        p, centred = _directed(view, direction), view.centred()
        farthest = jnp.max(_distances(view))
        # |gamma p - c|^2 <= D^2 for each centred message c.
        a, b = _square(p), centred @ p
        room = jnp.maximum(farthest - jnp.sum(jnp.square(centred), axis=1), 0.0)
        roots = (b + jnp.sqrt(jnp.square(b) + a * room)) / jnp.where(a > 0, a, 1.0)
        gamma = jnp.min(jnp.where(view.honest, roots, jnp.inf))
        return view.mean() + jnp.where((a > 0) & jnp.isfinite(gamma), gamma, 0.0) * p

    return attack


def min_sum(direction: Direction = "deviation") -> Attack:
    r"""The largest step away from the honest mean whose summed squared distances nobody honest exceeds.

    .. math:: \bar x + \gamma p, \quad
        \sum_i \|\bar x + \gamma p - x_i\|^2 \le \max_i \sum_j \|x_i - x_j\|^2

    Centred messages add up to zero, so gamma is a square root and no search.

    Args:
        direction: as in :func:`min_max`.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        ValueError: ``direction`` is none of these.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0], [3.0]])
        >>> attacks.min_sum()(jax.random.key(0), attacks.View.of(honest)).round(4).tolist()
        [1.0]

    References:
        Shejwalkar, Houmansadr, *Manipulating the Byzantine*, NDSS 2021, section IV.
    """
    require_direction(direction)

    def attack(key: Key, view: View) -> Array:
        p, centred = _directed(view, direction), view.centred()
        a, count = _square(p), jnp.sum(view.honest).astype(p.dtype)
        most = jnp.max(jnp.sum(_distances(view), axis=1))
        room = jnp.maximum(most - jnp.sum(jnp.square(centred)), 0.0)
        gamma = jnp.sqrt(room / jnp.where(a > 0, a * jnp.maximum(count, 1), 1.0))
        return view.mean() + jnp.where(a > 0, gamma, 0.0) * p

    return attack


def require_direction(direction: object) -> None:
    """Raise ValueError unless ``direction`` is one of :data:`Direction`."""
    if direction not in get_args(Direction):
        raise ValueError(f"direction must be one of {get_args(Direction)}, got {direction!r}")


def _directed(view: View, direction: Direction) -> Array:
    """The direction p; zero if it is not defined."""
    if direction == "deviation":
        return -view.deviation()
    mean = view.mean()
    if direction == "sign":
        return -jnp.sign(mean)
    length = jnp.sqrt(_square(mean))
    return -mean / jnp.where(length > 0, length, 1.0)


def _square(x: Array) -> Array:
    return jnp.sum(jnp.square(x))


def _distances(view: View) -> Array:
    """``f[m, m]``: squared distances between honest messages; zeros elsewhere."""
    both = view.honest[:, None] & view.honest[None, :]
    rows = jax.lax.map(  # differences, not a product: near messages cancel
        lambda x: jnp.sum(jnp.square(view.messages - x[None]), axis=1), view.messages
    )
    return jnp.where(both, rows, 0.0)
