"""Attacks made of attacks: the strongest of a family, and one of several."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from fjx._base import Array, Key
from fjx.attacks._colluding import Attack, View, require_attack
from fjx.attacks._rules import ipm


def line_search(make: Callable[[Array], Attack], scales: Sequence[float] | Array) -> Attack:
    """The strongest of a family of attacks against the very aggregator of the round.

    The attackers try each scale on the aggregator and send the one that moves the aggregate farthest
    from the honest mean.  They even know the server's randomness of the round.

    Args:
        make: function ``(scale) -> attack``, such as :func:`ipm` or :func:`alie`; the scale is traced.
        scales: scales to try, one aggregation each.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        TypeError: ``make`` is not callable.
        ValueError: there are no scales.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0], [2.0], [3.0]])
        >>> attack = attacks.line_search(attacks.ipm, [0.5, 1.0, 8.0])
        >>> attack(jax.random.key(0), attacks.View.of(honest)).tolist()
        [-16.0]

    References:
        Xie, Koyejo, Gupta, *Fall of Empires*, UAI 2019 (arXiv:1903.03936); Shejwalkar, Houmansadr, NDSS
        2021; Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, *Fixing by Mixing*, AISTATS 2023
        (arXiv:2302.01772), section 6, for the search.
    """
    require_attack("line_search", make)
    scales = jnp.asarray(scales, jnp.float32)
    if scales.ndim != 1 or not scales.size:
        raise ValueError(f"scales must be a vector of at least one number, got {scales.shape}")

    def attack(key: Key, view: View) -> Array:
        def lies(scale: Array) -> Array:
            found = make(scale)(jax.random.clone(key), view)
            return jnp.broadcast_to(found, view.messages.shape)

        def damage(scale: Array) -> Array:
            moved = jnp.sum(jnp.square(view.aggregate(lies(scale)) - view.mean()))
            return jnp.where(jnp.isnan(moved), -1.0, moved)

        # One after another, so that memory is that of one aggregation.
        best = scales[jnp.argmax(jax.lax.map(damage, scales))]
        return make(best)(key, view)

    return attack


def foe(scales: Sequence[float] | Array = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)) -> Attack:
    """Fall of Empires with a line search: :func:`ipm` with the factor that moves the aggregate most.

    Args:
        scales: factors to try, one aggregation each.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        ValueError: there are no factors.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0], [2.0], [3.0]])
        >>> attacks.foe()(jax.random.key(0), attacks.View.of(honest)).tolist()
        [-20.0]

    References:
        Xie, Koyejo, Gupta, *Fall of Empires*, UAI 2019 (arXiv:1903.03936).
    """
    return line_search(ipm, scales)


def one_of(index: int | Array, *options: Attack) -> Attack:
    """One of several attacks, by a number that may be traced: a table of attacks is then one program.

    Args:
        index: number of the attack, clamped to those that exist.
        *options: the attacks.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        TypeError: an option is not callable.
        ValueError: there are no options.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> view = attacks.View.of(jnp.array([[1.0], [3.0]]))  # the last row is the attacker's
        >>> def lie(index):
        ...     attack = attacks.one_of(index, attacks.sign_flip(), attacks.ipm(2.0))
        ...     return attack(jax.random.key(0), view)[-1, 0]
        >>> jax.vmap(lie)(jnp.arange(2)).tolist()
        [-2.0, -4.0]
    """
    for option in options:
        require_attack("one_of", option)
    if not options:
        raise ValueError("one_of needs at least one attack, got none")

    def attack(key: Key, view: View) -> Array:
        def of(option: Attack) -> Callable[[], Array]:
            return lambda: jnp.broadcast_to(
                option(jax.random.clone(key), view), view.messages.shape
            )

        return jax.lax.switch(index, [of(option) for option in options])

    return attack
