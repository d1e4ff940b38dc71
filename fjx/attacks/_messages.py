"""Attacks on a client's own message, before it is encoded."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Key, Steps, Tree, Turn
from fjx.attacks._data import require_client
from fjx.attacks._who import Byzantine, require_byzantine

MessageChange = Callable[[Key, Tree, Turn], Tree]
"""A function ``(key, message, turn) -> message``: the message of a Byzantine client."""


def lying(client: ClientUpdate, change: MessageChange, *, byzantine: Byzantine) -> ClientUpdate:
    """A client update whose Byzantine clients send another message than they trained.

    The attackers do not collude: each knows its own update and the model.  The message is encoded,
    clipped and counted like every other.

    Guarantees:
        - Honest clients are not changed by a bit.
        - A claim about single examples (:func:`fjx.privacy.examples_epsilon`) is withdrawn.

    Args:
        client: any client update.
        change: change of the message, such as :func:`model_replacement`; it keeps the shapes.  A message
            that is not finite is left out by the round and counted in ``nonfinite``.
        byzantine: predicate of the Byzantine clients.

    Returns:
        A :class:`fjx.ClientUpdate`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: (when traced) ``change`` returns other shapes.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from fjx import attacks, clients
        >>> client = clients.local_sgd(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), optax.sgd(0.1), epochs=1, batch_size=4)
        >>> bad = attacks.ids([3], num_clients=10)
        >>> client = attacks.lying(client, attacks.model_replacement(10.0), byzantine=bad)
    """
    require_client("lying", client)
    require_byzantine(byzantine)
    if not callable(change):
        raise TypeError(
            "lying needs a function (key, message, turn) -> message such as "
            f"attacks.model_replacement(10.0), got {change!r}"
        )

    def before(*inputs: Any) -> tuple[Any, ...]:
        return inputs

    def after(*inputs_and_output: Any) -> Any:
        key, _, _, _, turn, (message, state, metrics) = inputs_and_output
        # Apart from all that the client's own work splits off.
        own = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
        lie = change(own, message, turn)
        _validate.same_shapes("the changed message", lie, "the message", message)
        lie = _tree.in_dtypes_of(jax.tree.map(jnp.asarray, lie), message)
        return _tree.where(byzantine(turn), lie, message), state, metrics

    return client._replace(update=Steps.of(client.update).around(before, after))


def model_replacement(boost: float | Array) -> MessageChange:
    """Send the own update times ``boost``.

    With boost = n / (server step) the average of n messages becomes the attacker's own model, if the
    others have nearly converged.  A bound on norms undoes it.

    Args:
        boost: factor; may be traced.

    Returns:
        A :data:`MessageChange` for :func:`lying`.

    Raises:
        ValueError: ``boost`` is not finite.

    Examples:
        >>> import fjx, jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> change = attacks.model_replacement(10.0)
        >>> change(jax.random.key(0), jnp.array([1.0, -2.0]), fjx.Turn()).tolist()
        [10.0, -20.0]

    References:
        Bagdasaryan, Veit, Hua, Estrin, Shmatikov, *How To Backdoor Federated Learning*, AISTATS 2020
        (arXiv:1807.00459), section 4.2.
    """
    _validate.number("boost", boost)
    return lambda key, message, turn: _tree.scale(jnp.asarray(boost, jnp.float32), message)


def reverse(scale: float | Array = 1.0) -> MessageChange:
    """Send the own update with the sign changed, times ``scale``.

    :func:`sign_flip` is its colluding form, made of the honest mean.

    Args:
        scale: factor; may be traced.

    Returns:
        A :data:`MessageChange` for :func:`lying`.

    Raises:
        ValueError: ``scale`` is not finite.

    Examples:
        >>> import fjx, jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> change = attacks.reverse()
        >>> change(jax.random.key(0), jnp.array([1.0, -2.0]), fjx.Turn()).tolist()
        [-1.0, 2.0]
    """
    _validate.number("scale", scale)
    return lambda key, message, turn: _tree.scale(-jnp.asarray(scale, jnp.float32), message)


def perturb(std: float | Array) -> MessageChange:
    """Send the own update with Gaussian noise of deviation ``std`` on each coordinate.

    Args:
        std: standard deviation of the noise; may be traced.

    Returns:
        A :data:`MessageChange` for :func:`lying`.

    Raises:
        ValueError: ``std`` is negative.

    Examples:
        >>> import fjx, jax, jax.numpy as jnp
        >>> from fjx import attacks
        >>> noisy = attacks.perturb(0.1)(jax.random.key(0), jnp.zeros(1000), fjx.Turn())
        >>> round(float(jnp.std(noisy)), 1)
        0.1
    """
    _validate.number("std", std, at_least=0)

    def change(key: Key, message: Tree, turn: Turn) -> Tree:
        vector, others, structure = _tree.ravel(message)
        drawn = jax.random.normal(key, vector.shape, jnp.float32)
        noisy = vector + (jnp.asarray(std, jnp.float32) * drawn).astype(vector.dtype)
        return _tree.unravel(noisy, others, structure)

    return change
