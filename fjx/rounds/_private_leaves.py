"""Private leaves: a part of the model that stays on each client."""

import re
from typing import NamedTuple, TypedDict

import jax
import optax

from fjx import _tree
from fjx._base import ClientUpdate, ServerUpdate, Tree
from fjx.clients._parts import keeping
from fjx.servers import from_optax


class Ends(TypedDict):
    """The client and the server, as parts of :func:`fjx.compose`."""

    client: ClientUpdate
    server: ServerUpdate


class SharedState(NamedTuple):
    """The server's state of :func:`private_leaves`.

    Attributes:
        inner: state of the server update, which moves the shared leaves.
        first: the private leaves as they were at first, with None in place of the others.
    """

    inner: Tree
    first: Tree

    @property
    def params(self) -> Tree:
        """The model of a client that has not trained yet."""
        return _tree.joined(self.inner.params, self.first)


def private_leaves(
    *,
    client: ClientUpdate,
    server: ServerUpdate | optax.GradientTransformation,
    pattern: str | None,
) -> Ends:
    """The client and the server of a model with leaves that stay on each client.

    Each client trains the shared leaves, which the server sends, together with its own copy of the
    private leaves, which is kept in its state.  Codecs, aggregator and server see the shared leaves
    only.

    Guarantees:
        - Private leaves are neither sent, clipped, noised nor billed.
        - A client that does not take part keeps its private leaves bit for bit.
        - ``algorithm.model_of(state, row)`` is the model of a client: shared leaves from the server,
          private leaves from its row.

    Args:
        client: local work on the whole model.
        server: server update, or optax transformation, of the shared leaves.  Its broadcast is the
            model and nothing else.
        pattern: regular expression of the private leaves, searched for in the path of a leaf with ``/``
            between keys, such as ``"^head/"``.  In a :class:`fjx.Stateful` model paths begin with
            ``params/`` or ``state/``.  None shares every leaf.

    Returns:
        The parts ``client`` and ``server`` of :func:`fjx.compose`, made together because they must
        agree.  ``params`` of the algorithm is the model of a client that has not trained yet: the
        private leaves are those of the initial model.

    Raises:
        re.error: ``pattern`` is not a regular expression.
        ValueError: ``client`` has an ``on_sent`` or an ``on_aggregate``; ``pattern`` matches no leaf, or
            every floating parameter (when the model is given).

    Examples:
        >>> import jax.numpy as jnp, optax, fjx
        >>> from fjx import clients, rounds
        >>> def loss_fn(params, x, key):
        ...     return jnp.mean((x @ params["body"] - params["head"]) ** 2)
        >>> algorithm = fjx.compose(**rounds.private_leaves(
        ...     client=clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=2),
        ...     server=optax.sgd(1.0), pattern="^head"))
        >>> algorithm.traffic({"body": jnp.ones(3), "head": jnp.zeros(())})
        Traffic(uplink=96, downlink=96)

    References:
        Arivazhagan et al., *Federated Learning with Personalization Layers*, 2019 (arXiv:1912.00818).
    """
    if isinstance(server, optax.GradientTransformation):
        server = from_optax(server)
    if pattern is None:
        return Ends(client=client, server=server)
    re.compile(pattern)  # raises

    def divide(model: Tree) -> tuple[Tree, Tree]:
        """Shared and private leaves."""
        return _tree.divide_by_path(model, pattern, where="private_leaves", left="share")

    def own(params: Tree) -> Tree:
        return divide(params)[1]

    def begin(params: Tree) -> SharedState:
        shared, first = divide(params)
        return SharedState(server.init(shared), first)

    def step(state: SharedState, message: Tree) -> SharedState:
        return state._replace(inner=server.update(state.inner, message))

    return Ends(
        client=keeping(client, own=own, join=_join, split=divide, uses=_join),
        server=ServerUpdate(begin, lambda state: server.broadcast(state.inner), step),
    )


def _join(shared: Tree, own: Tree) -> Tree:
    """The whole model; the private leaves of a whole model are replaced."""
    return jax.tree.map(
        lambda mine, theirs: theirs if mine is None else mine,
        own, _tree.joined(shared, own), is_leaf=lambda x: x is None,
    )  # fmt: skip
