"""Clients that send an average of their past messages."""

from typing import NamedTuple

import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Steps, Tree, Turn


class AveragedState(NamedTuple):
    """Client state of :func:`averaged`.

    Attributes:
        average: running average v, shaped like the message.
        inner: state of the averaged client.
    """

    average: Tree
    inner: Tree


def averaged(client: ClientUpdate, *, eta: Array | float) -> ClientUpdate:
    """Client momentum: send the running average v = (1 - eta) v + eta m in place of the message m.

    Averaging stochastic gradients reduces their noise.  Difference compression needs that: the
    memories of EF21 then follow v and not the noise.

    Guarantees:
        - With eta = 1 it is ``client``, bit for bit.
        - v is zero before the first round.

    Args:
        client: client whose messages are averaged, in float32 or wider.
        eta: weight of the new message, in (0, 1]; may be traced.

    Returns:
        A :class:`fjx.ClientUpdate` whose state holds one message.

    Raises:
        TypeError: ``client`` is not a ClientUpdate, or ``eta`` is not a number.
        ValueError: ``eta`` is out of range, or ``client`` has an ``on_sent`` or an
            ``on_aggregate``.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import clients
        >>> client = clients.averaged(
        ...     clients.gradient(lambda w, x, key: jnp.mean(w * x), batch_size=1), eta=0.25)
        >>> examples = fjx.Examples(jnp.array([8.0]), jnp.int32(0), jnp.int32(1))
        >>> state = client.init(jnp.array(0.0))
        >>> message, state, _ = client.update(
        ...     jax.random.key(0), jnp.array(0.0), state, examples, fjx.Turn())
        >>> message, state, _ = client.update(
        ...     jax.random.key(0), jnp.array(0.0), state, examples, fjx.Turn())
        >>> float(message)
        -3.5

    References:
        Fatkhullin, Tyurin, Richtarik, *Momentum Provably Improves Error Feedback!*, NeurIPS 2023
        (arXiv:2305.15155).
    """
    if not isinstance(client, ClientUpdate):
        raise TypeError(f"client must be a fjx.ClientUpdate, got {client!r}")
    if client.on_sent is not None or client.on_aggregate is not None:
        raise ValueError(
            "averaged replaces the client's message, so the client must have no on_sent and no "
            "on_aggregate"
        )
    _validate.number("eta", eta, above=0, at_most=1)

    def init(params: Tree) -> AveragedState:
        return AveragedState(_tree.wide_zeros_like(client.message(params)), client.init(params))

    def inputs(
        key: Key, broadcast: Tree, state: AveragedState, examples: Examples, turn: Turn
    ) -> tuple[Key, Tree, Tree, Examples, Turn]:
        return key, broadcast, state.inner, examples, turn

    def mix(
        key: Key,
        broadcast: Tree,
        state: AveragedState,
        examples: Examples,
        turn: Turn,
        trained: tuple[Tree, Tree, Metrics],
    ) -> tuple[Tree, AveragedState, Metrics]:
        message, inner, metrics = trained
        step = _tree.scale(jnp.asarray(eta), _tree.subtract(_tree.widened(message), state.average))
        average = _tree.add(state.average, step)
        return _tree.in_dtypes_of(average, message), AveragedState(average, inner), metrics

    def personal(broadcast: Tree, state: AveragedState) -> Tree:
        assert client.personal is not None
        return client.personal(broadcast, state.inner)

    return ClientUpdate(
        init,
        Steps.of(client.update).around(inputs, mix),
        client.message,
        rounds=client.rounds,
        personal=client.personal and personal,
    )
