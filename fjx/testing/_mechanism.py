"""The laws of private mechanisms: central, distributed and local."""

import jax
import jax.numpy as jnp

from fjx._base import TreeLike
from fjx.privacy import DistributedMechanism, LocalMechanism, Mechanism
from fjx.testing import _central, _distributed, _laws, _local
from fjx.testing._laws import Law


def check_mechanism(
    mechanism: Mechanism | DistributedMechanism | LocalMechanism, like: TreeLike | None = None
) -> None:
    """Checks every law of a private mechanism, up to the first that does not hold.

    Noise is drawn 4000 times, and its deviation is compared with the declared one, with bounds of 6
    standard errors.  An attack on these draws bounds epsilon from below: the bound must not pass what is
    accounted for the mechanism's ``event``.  Keys are fixed: a result does not change from one run to
    the next.  No finite number of draws proves a claim; the laws find wrong factors, not small leaks.

    Args:
        mechanism: a central, distributed or local mechanism.
        like: template of a message; None for a matrix and a vector, of 17 coordinates together.  A
            distributed mechanism is tried on vectors of its own dimension.

    Raises:
        TypeError: ``mechanism`` is none of the three.
        LawError: a law does not hold; the message names the law, the input and a remedy.

    Examples:
        >>> from fjx import privacy, testing
        >>> half = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.5)
        >>> claimed = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)._replace(
        ...     release=half.release)
        >>> testing.check_mechanism(claimed)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        fjx.testing.LawError: the law 'noise_is_as_wide_as_the_multiplier_says' does not hold
    """
    _laws.run(mechanism_laws(mechanism, like))


def mechanism_laws(
    mechanism: Mechanism | DistributedMechanism | LocalMechanism, like: TreeLike | None = None
) -> list[Law]:
    """The laws of a private mechanism, to be checked one by one.

    Args:
        mechanism: a central, distributed or local mechanism.
        like: template of a message; None for a matrix and a vector.

    Returns:
        A list of :class:`Law`.

    Raises:
        TypeError: ``mechanism`` is none of the three.

    Examples:
        >>> from fjx import privacy, testing
        >>> mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
        >>> testing.mechanism_laws(mechanism)[-1].name
        'an_attack_finds_no_more_than_epsilon'
    """
    like = update_like() if like is None else _laws.template(like)
    if isinstance(mechanism, Mechanism):
        return _laws.bind(_central.Central(mechanism, like), _central.LAWS)
    if isinstance(mechanism, DistributedMechanism):
        return _laws.bind(_distributed.Distributed(mechanism), _distributed.LAWS)
    if isinstance(mechanism, LocalMechanism):
        return _laws.bind(_local.Local(mechanism, like), _local.LAWS)
    raise TypeError(
        "mechanism must be a fjx.privacy.Mechanism, DistributedMechanism or LocalMechanism, got "
        f"{mechanism!r}"
    )


def update_like() -> TreeLike:
    """A message of floats alone: a matrix and a vector, of 17 coordinates together."""
    return {
        "matrix": jax.ShapeDtypeStruct((4, 3), jnp.float32),
        "vector": jax.ShapeDtypeStruct((5,), jnp.float32),
    }
