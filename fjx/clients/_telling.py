"""Clients that tell numbers beside their update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fjx import _tree
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Steps, Tree, TreeLike, Turn


class Trained(NamedTuple):
    """The facts that a client knows once its local work is done.

    Attributes:
        key: key of its own, apart from those of local work.
        broadcast: decoded broadcast.
        update: message of the local work, ``after - before``.
        examples: examples of the client.
        turn: round, id and rank.
        metrics: metrics of the local work, such as ``steps`` and ``loss``.
    """

    key: Key
    broadcast: Tree
    update: Tree
    examples: Examples
    turn: Turn
    metrics: Metrics


def telling(
    client: ClientUpdate,
    tell: Callable[[Trained], tuple[Tree, dict[str, Array]]],
    **numbers: Any,
) -> ClientUpdate:
    """Send numbers beside the update, such as the number of local steps or the loss of the broadcast.

    The message is ``{"update": update, **numbers}``.  ``tell`` may also replace the update, for example
    by one that is normalised.

    Guarantees:
        - Local work is that of ``client``, bit for bit.
        - A client without examples tells zeros.

    Bits:
        Those of the update, and of each number.  ``compressors.on("^update", codec)`` compresses the
        update and sends the numbers as they are.

    Args:
        client: client whose messages are updates.
        tell: ``(trained) -> (update, {name: number})``; ``trained`` is a :class:`Trained`.
        **numbers: dtype of each number, by name.

    Returns:
        A :class:`fjx.ClientUpdate` with the state of ``client``.

    Raises:
        TypeError: ``client`` is not a ClientUpdate.
        ValueError: ``client`` has an ``on_sent`` or an ``on_aggregate``; (when traced) ``tell`` returns
            other names.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import clients
        >>> local = clients.local_sgd(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2) / 2, optax.sgd(0.5), steps=2, batch_size=1)
        >>> client = clients.telling(
        ...     local, lambda trained: (trained.update, {"steps": trained.metrics["steps"]}),
        ...     steps=jnp.float32)
        >>> examples = fjx.Examples(jnp.array([4.0]), jnp.int32(0), jnp.int32(1))
        >>> message, _, _ = client.update(
        ...     jax.random.key(0), jnp.array(0.0), (), examples, fjx.Turn())
        >>> float(message["update"]), float(message["steps"])
        (3.0, 2.0)
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"client must be a fjx.ClientUpdate, got {client!r}")
    if client.on_sent is not None or client.on_aggregate is not None:
        raise ValueError(
            "telling changes the client's message, so the client must have no on_sent and no "
            "on_aggregate"
        )

    def inputs(
        key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Any, ...]:
        return key, broadcast, state, examples, turn

    def message(
        key: Key,
        broadcast: Tree,
        state: Tree,
        examples: Examples,
        turn: Turn,
        done: tuple[Tree, Tree, Metrics],
    ) -> tuple[Tree, Tree, Metrics]:
        update, state, metrics = done
        own = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)  # apart from those of local work
        update, told = tell(Trained(own, broadcast, update, examples, turn, metrics))
        if set(told) != set(numbers):
            raise ValueError(f"tell must return numbers {sorted(numbers)}, got {sorted(told)}")
        sent = {"update": update, **{name: told[name].astype(numbers[name]) for name in numbers}}
        return _tree.where(examples.size > 0, sent, _tree.zeros_like(sent)), state, metrics

    def message_like(params: Tree) -> TreeLike:
        alone = {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in numbers.items()}
        return {"update": client.message(params), **alone}

    told = Steps.of(client.update).around(inputs, message)
    return client._replace(update=told, message=message_like)
