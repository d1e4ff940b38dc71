"""The attacks of the literature, as functions of the honest messages."""

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key
from fjx.attacks._colluding import Attack, View


def sign_flip() -> Attack:
    r"""All attackers send the negative of the honest mean.

    .. math:: -\bar x

    Returns:
        An :data:`Attack` for :func:`colluding`.  :func:`reverse` is its form for a client that knows
        nothing but its own update.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0, 2.0], [3.0, 6.0]])
        >>> attacks.sign_flip()(jax.random.key(0), attacks.View.of(honest)).tolist()
        [-2.0, -4.0]

    References:
        Allen-Zhu, Ebrahimianghazani, Li, Alistarh, *Byzantine-Resilient Non-Convex Stochastic Gradient
        Descent*, ICLR 2021 (arXiv:2012.14368).
    """
    return ipm(1.0)


def ipm(epsilon: float | Array) -> Attack:
    r"""Inner product manipulation: all attackers send the honest mean times :math:`-\epsilon`.

    .. math:: -\epsilon \bar x

    A small epsilon hides among the honest messages and still turns the mean round, if the attackers are
    many; a large one breaks a plain mean.

    Args:
        epsilon: factor; may be traced.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        ValueError: ``epsilon`` is not finite.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0, 2.0], [3.0, 6.0]])
        >>> attacks.ipm(2.0)(jax.random.key(0), attacks.View.of(honest)).tolist()
        [-4.0, -8.0]

    References:
        Xie, Koyejo, Gupta, *Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
        Manipulation*, UAI 2019 (arXiv:1903.03936).
    """
    _validate.number("epsilon", epsilon)

    def attack(key: Key, view: View) -> Array:
        mean = view.mean()
        return -jnp.asarray(epsilon, mean.dtype) * mean

    return attack


def alie(z: float | Array | None = None) -> Attack:
    r"""A little is enough: all attackers send the honest mean, shifted by some standard deviations.

    .. math:: \bar x + z s

    with the deviation s of each coordinate (ddof = 1).  For an estimate by the attackers' own clean
    messages, as in the paper, make an attack of your own.

    Args:
        z: number of deviations; may be traced.  By default the paper's largest one that hides behind a
            majority: with n clients, f of them Byzantine, and s = floor(n / 2 + 1) - f, it is the
            quantile of (n - f - s) / (n - f) of a normal law.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        ValueError: ``z`` is not finite.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
        >>> attacks.alie(1.5)(jax.random.key(0), attacks.View.of(honest)).tolist()
        [8.5, 9.5, 10.5]

    References:
        Baruch, Baruch, Goldberg, *A Little Is Enough: Circumventing Defenses For Distributed Learning*,
        NeurIPS 2019 (arXiv:1902.06156), algorithm 3.
    """
    if z is not None:
        _validate.number("z", z)

    def attack(key: Key, view: View) -> Array:
        mean = view.mean()
        shift = _hidden(view) if z is None else jnp.asarray(z)
        return mean + shift.astype(mean.dtype) * view.deviation()

    return attack


def _hidden(view: View) -> Array:
    """The largest shift of :func:`alie` that s honest clients are expected to exceed."""
    honest, f = (jnp.sum(x, dtype=jnp.float32) for x in (view.honest, view.byzantine))
    supporters = jnp.floor((honest + f) / 2 + 1) - f
    # A majority of attackers needs no supporters, and one honest client gives no quantile.
    part = jnp.clip((honest - supporters) / jnp.maximum(honest, 1), 0.01, 0.99)
    return jax.scipy.special.ndtri(part)


def mimic(steps: int = 30) -> Attack:
    """All attackers send a copy of one honest message: the one that is farthest out.

    It is the message with the largest part along the direction in which honest messages vary most.  No
    message is unlike the honest ones, so nothing can be filtered; the copied client is overrepresented
    where clients differ.

    The paper learns that direction over the first rounds and then copies one client for good.  Here both
    are found anew in each round.

    Args:
        steps: steps of the power method.

    Returns:
        An :data:`Attack` for :func:`colluding`.

    Raises:
        ValueError: ``steps`` is below one.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> honest = jnp.array([[1.0, 0.0], [2.0, 0.0], [9.0, 0.0]])
        >>> attacks.mimic()(jax.random.key(0), attacks.View.of(honest)).tolist()
        [9.0, 0.0]

    References:
        Karimireddy, He, Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*,
        ICLR 2022 (arXiv:2006.09365), section 4.2 and appendix.
    """
    steps = _validate.static_integer("steps", steps, at_least=1)

    def attack(key: Key, view: View) -> Array:
        centred = view.centred()
        gram = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
        start = jax.random.normal(key, gram.shape[:1], gram.dtype)

        def step(_: int, u: Array) -> Array:
            u = gram @ u
            length = jnp.max(jnp.abs(u))
            return u / jnp.where(length > 0, length, 1.0)

        # Projections of the rows on the top direction are proportional to the top vector of the Gram
        # matrix.
        along = jnp.abs(jax.lax.fori_loop(0, steps, step, start))
        chosen = jnp.argmax(jnp.where(view.honest, along, -1.0))
        # Nobody to copy: NaN, and the lie is left out.
        return view.messages[chosen] + 0 * view.mean()

    return attack


def noise(std: float | Array) -> Attack:
    """Each attacker sends Gaussian noise of its own in place of a message.

    Args:
        std: standard deviation of a coordinate; may be traced.

    Returns:
        An :data:`Attack` for :func:`colluding`.  :func:`perturb` adds noise to the own update.

    Raises:
        ValueError: ``std`` is negative.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> view = attacks.View.of(jnp.ones((3, 500)), f=2)
        >>> lies = attacks.noise(10.0)(jax.random.key(0), view)
        >>> lies.shape, round(float(jnp.std(lies)))
        ((5, 500), 10)
    """
    _validate.number("std", std, at_least=0)

    def attack(key: Key, view: View) -> Array:
        drawn = jax.random.normal(key, view.messages.shape, view.messages.dtype)
        return jnp.asarray(std, drawn.dtype) * drawn

    return attack
