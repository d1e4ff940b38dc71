"""DASHA: variance reduction without rounds of whole gradients."""

from typing import NamedTuple

import jax.numpy as jnp

from fjx import _tree, _validate, clients
from fjx._base import Algorithm, Array, Compressor, Contract, Key, Tree, TreeLike
from fjx.algorithms._refuse import CODEC, MEMORY, fixes
from fjx.clients import LossFn
from fjx.compressors._shapes import require_compressor
from fjx.rounds._compose import compose
from fjx.rounds._difference import accumulated
from fjx.servers._sgd import server_sgd


class DashaState(NamedTuple):
    """Client state of :func:`dasha`.

    Attributes:
        last: h_i, the gradient of the round before.
        estimate: g_i, the server's estimate of it.
        inner: state of the codec.
    """

    last: Tree
    estimate: Tree
    inner: Tree


@fixes(aggregator=MEMORY, uplink=CODEC)
def dasha(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    momentum: Array | float,
    downlink: Compressor | None = None,
) -> Algorithm:
    """DASHA: variance reduction as in MARINA, without rounds in which whole gradients are sent.

    From the gradient h_i^+ at the new model each client sends m_i and keeps g_i = g_i + m_i.  The server
    moves by the mean of all g_i, which it knows.

    .. math:: m_i = C(h_i^+ - h_i - a (g_i - h_i))

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, unbiased with an omega.
        num_clients: population size N; all clients take part.
        learning_rate: step size gamma; :func:`fjx.theory.dasha` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        momentum: momentum a in (0, 1]; 1 / (2 omega + 1) in the paper.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.dasha(
        ...     lambda w, x, key: (w - x).mean(), compressors.rand_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10, momentum=1 / 19)

    References:
        Tyurin, Richtarik, *DASHA: Distributed Nonconvex Optimization with Communication Compression,
        Optimal Oracle Complexity, and No Client Synchronization*, ICLR 2023 (arXiv:2202.01268).
    """
    require_compressor("dasha", codec)
    _validate.number("momentum", momentum, above=0, at_most=1)

    def init(message_like: TreeLike) -> DashaState:
        nothing = _tree.wide_zeros_like(message_like)
        return DashaState(nothing, nothing, codec.init(message_like))

    def encode(key: Key, message: Tree, state: DashaState) -> tuple[Tree, DashaState]:
        error = _tree.scale(jnp.asarray(momentum), _tree.subtract(state.estimate, state.last))
        wide = _tree.widened(message)
        change = _tree.subtract(_tree.subtract(wide, state.last), error)
        payload, inner = codec.encode(key, _tree.in_dtypes_of(change, message), state.inner)
        estimate = _tree.add(state.estimate, codec.decode(payload))
        return payload, DashaState(wide, estimate, inner)

    return compose(
        client=clients.gradient(loss_fn, batch_size=batch_size),
        uplink=Compressor(init, encode, codec.decode, lambda message_like: Contract()),
        aggregator=accumulated(num_clients),
        server=server_sgd(learning_rate),
        downlink=downlink,
    )
