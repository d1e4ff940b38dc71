"""Gossip of whole models: decentralised SGD, and gradient tracking."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Algorithm, Array, ClientUpdate, Key, Tree
from fjx.rounds._gossip import Told, network, pull
from fjx.rounds._graphs import period_of, require_connected


class NodeRow(NamedTuple):
    """One node's state.

    Attributes:
        model: model x_i.
        client: state of the client update.
    """

    model: Tree
    client: Tree


def gossip(client: ClientUpdate, *, mixing: Array) -> Algorithm:
    """Gossip averaging: nodes work locally, and then average their models with their neighbours.

    In round t every node does x_i = sum_j w_ij (x_j + message_j), with the weights W of that round.

    Guarantees:
        - The mean of all models moves by the mean of the messages, to rounding.
        - A node that is absent in a round, or whose message is not finite, rests.  Its neighbours'
          weight of it falls to themselves, and the mean stays.
        - With the identity for W every node trains alone.

    Bits:
        The model, once for each neighbour of the round.  To send less use :func:`choco`: sums of
        compressed models do not converge.

    Args:
        client: local work, begun at x_i; its message is added to x_i.
        mixing: mixing matrix W, ``f[n, n]``, symmetric with rows that sum to one; or the matrices
            ``f[T, n, n]`` of a graph that changes, of which round t uses number t mod T.

    Returns:
        An :class:`fjx.Algorithm` without a server, like that of :func:`choco`.

    Raises:
        TypeError: ``client`` is something else; the model holds more than floating parameters (from
            ``init_client``).
        ValueError: a matrix is not such a matrix; the graph is not connected over its period; ``client``
            has an ``on_sent`` or ``on_aggregate``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import clients, rounds
        >>> algorithm = rounds.gossip(
        ...     clients.gradient(lambda w, x, key: (w - x).mean(), batch_size=1), mixing=rounds.ring(5))
        >>> algorithm.traffic(jnp.zeros(100))
        Traffic(uplink=6400, downlink=0)

    References:
        Lian, Zhang, Zhang, Hsieh, Zhang, Liu, *Can Decentralized Algorithms Outperform Centralized
        Algorithms?*, NeurIPS 2017 (arXiv:1705.09056), algorithm 1, with the average after the step.
    """
    matrices = require_connected(period_of(mixing), "gossip")

    def tell(key: Key, row: NodeRow, message: Tree, memory: Tree) -> Told:
        moved = _tree.add(row.model, message)
        return Told(NodeRow(moved, memory), moved, moved)

    def listen(rows: NodeRow, weights: Array) -> NodeRow:
        return rows._replace(model=_averaged(rows.model, weights))

    return network(
        "gossip",
        client,
        matrices,
        begin=lambda params: NodeRow(params, client.init(params)),
        tell=tell,
        listen=listen,
        payload_like=_tree.like,
    )


class TrackingRow(NamedTuple):
    """One node's state in gradient tracking.

    Attributes:
        model: model x_i.
        tracker: estimate y_i of the mean gradient.
        gradient: the node's own gradient that y_i contains.
        client: state of the client update.
    """

    model: Tree
    tracker: Tree
    gradient: Tree
    client: Tree


def tracking(client: ClientUpdate, *, mixing: Array, step_size: float | Array) -> Algorithm:
    """Gradient tracking: nodes step along an estimate of the mean gradient, which they gossip as well.

    With g_i the gradient at x_i, and W the weights of the round, every node does

        y_i = y_i + g_i - (its gradient before),   x_i = sum_j w_ij (x_j - gamma y_j),
        y_i = sum_j w_ij y_j.

    Guarantees:
        - The sum of the y_i over all nodes is that of their last gradients, to rounding.  So a node at
          which all agree rests only where the mean gradient is zero.
        - A node that is absent in a round, or whose message is not finite, rests.

    Bits:
        The model, and the estimate in float32 or wider, once for each neighbour of the round.

    Args:
        client: local work with the message -g_i, such as :func:`fjx.clients.gradient`.
        mixing: mixing matrix W, or those of a period, as for :func:`gossip`.
        step_size: step size gamma.

    Returns:
        An :class:`fjx.Algorithm` without a server, like that of :func:`choco`.

    Raises:
        TypeError: ``client`` is something else; the model holds more than floating parameters (from
            ``init_client``).
        ValueError: a matrix is not such a matrix; the graph is not connected over its period;
            ``step_size`` is not positive; ``client`` has an ``on_sent`` or ``on_aggregate``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import clients, rounds
        >>> algorithm = rounds.tracking(
        ...     clients.gradient(lambda w, x, key: (w - x).mean(), batch_size=1), mixing=rounds.ring(5),
        ...     step_size=0.1)
        >>> algorithm.traffic(jnp.zeros(100))
        Traffic(uplink=12800, downlink=0)

    References:
        Nedic, Olshevsky, Shi, *Achieving Geometric Convergence for Distributed Optimization over
        Time-Varying Graphs*, SIAM Journal on Optimization 2017 (arXiv:1607.03218), here with the step
        before the average; Qu, Li, *Harnessing Smoothness to Accelerate Distributed Optimization*, IEEE
        Transactions on Control of Network Systems 2018 (arXiv:1605.07112).
    """
    _validate.number("step_size", step_size, above=0)
    matrices = require_connected(period_of(mixing), "tracking")

    def begin(params: Tree) -> TrackingRow:
        nothing = _tree.wide_zeros_like(params)
        return TrackingRow(params, nothing, nothing, client.init(params))

    def tell(key: Key, row: TrackingRow, message: Tree, memory: Tree) -> Told:
        gradient = jax.tree.map(lambda m: -_tree.wide(m), message)
        tracker = _tree.add(row.tracker, _tree.subtract(gradient, row.gradient))
        moved = _tree.subtract(row.model, _tree.scale(jnp.asarray(step_size), tracker))
        sent = moved, tracker
        return Told(TrackingRow(moved, tracker, gradient, memory), sent, sent)

    def listen(rows: TrackingRow, weights: Array) -> TrackingRow:
        model, tracker = (_averaged(x, weights) for x in (rows.model, rows.tracker))
        return rows._replace(model=model, tracker=tracker)

    def payload_like(params: Tree) -> Tree:
        return _tree.like(params), jax.eval_shape(_tree.widened, params)

    return network(
        "tracking",
        client,
        matrices,
        begin=begin,
        tell=tell,
        listen=listen,
        payload_like=payload_like,
    )


def _averaged(rows: Tree, weights: Array) -> Tree:
    """x_i + sum_j w_ij (x_j - x_i) of each node."""
    return jax.tree.map(lambda x: x + pull(weights, x).astype(x.dtype), rows)
