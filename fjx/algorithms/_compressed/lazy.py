"""CLAG: clients that keep silent while their gradient has hardly moved."""

from typing import NamedTuple

import jax.numpy as jnp

from fjx import _tree, _validate, clients
from fjx._base import Algorithm, Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._tree import ravel
from fjx.algorithms._refuse import CODEC, MEMORY, fixes
from fjx.clients import LossFn
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.rounds._compose import compose
from fjx.rounds._difference import accumulated
from fjx.servers._sgd import server_sgd
from fjx.wire import OneOf


class ClagState(NamedTuple):
    """Client state of :func:`clag`.

    Attributes:
        memory: h_i, the server's knowledge of the gradient.
        last: y_i, the gradient of the round before, sent or not.
        inner: state of the codec.
        begun: ``bool[]``, whether there was a gradient before.
    """

    memory: Tree
    last: Tree
    inner: Tree
    begun: Array


@fixes(aggregator=MEMORY, uplink=CODEC)
def clag(
    loss_fn: LossFn,
    codec: Compressor,
    *,
    num_clients: int,
    learning_rate: float | Array,
    batch_size: int,
    zeta: float | Array,
    downlink: Compressor | None = None,
) -> Algorithm:
    r"""CLAG: EF21 whose clients send only when it matters; with ``identity()`` as the codec, LAG.

    With x_i the gradient, y_i the one before and h_i the memory, a client sends m_i = C(x_i - h_i) if

    .. math:: \|x_i - h_i\|^2 > \zeta \|x_i - y_i\|^2

    and keeps h_i = h_i + m_i.  Otherwise it only sends that it does not, and m_i = 0.  It always sends
    its first message, because there is no gradient before.

    Guarantees:
        - With zeta = 0 it is :func:`ef21`.
        - With full gradients of all clients in every round it converges to the optimum at a constant
          step.
        - Nothing is proved if clients are away, because their y_i is then older than the round before.

    Bits:
        One byte up, and those of the codec if something is sent.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        codec: codec C of the messages, with delta > 0, such as ``top_k`` or ``identity``.
        num_clients: population size N.
        learning_rate: step size gamma; :func:`fjx.theory.clag` gives one that is proved.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        zeta: laziness of the clients, not negative; may be traced.
        downlink: codec of the broadcast; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.

    Examples:
        >>> from fjx import algorithms, compressors
        >>> algorithm = algorithms.clag(
        ...     lambda w, x, key: (w - x).mean(), compressors.top_k(0.1), num_clients=100,
        ...     learning_rate=0.1, batch_size=10, zeta=4.0)

    References:
        Richtarik, Sokolov, Fatkhullin, Gasanov, Li, Gorbunov, *3PC: Three Point Compressors for
        Communication-Efficient Distributed Training and a Better Theory for Lazy Aggregation*, ICML
        2022 (arXiv:2202.00998); Chen, Giannakis, Sun, Yin, *LAG*, NeurIPS 2018 (arXiv:1805.09965).
    """
    require_compressor("clag", codec)
    _validate.number("zeta", zeta, at_least=0)

    def init(message_like: TreeLike) -> ClagState:
        nothing = _tree.wide_zeros_like(message_like)
        return ClagState(nothing, nothing, codec.init(message_like), jnp.asarray(False))

    def encode(key: Key, message: Tree, state: ClagState) -> tuple[OneOf, ClagState]:
        wide = _tree.widened(message)
        change = _tree.in_dtypes_of(_tree.subtract(wide, state.memory), message)
        moved = _square(_tree.subtract(wide, state.last))
        sends = _square(change) > jnp.asarray(zeta).astype(moved.dtype) * moved
        sends = sends | ~state.begun
        payload, inner = codec.encode(key, change, state.inner)
        payload = _tree.where(sends, payload, _tree.zeros_like(payload_like(codec, change)))
        sent = OneOf(sends.astype(jnp.uint8), ((), payload))
        memory = _tree.add(state.memory, decode(sent))
        inner = _tree.where(sends, inner, state.inner)
        return sent, ClagState(memory, wide, inner, jnp.asarray(True))

    def decode(sent: OneOf) -> Tree:
        change = codec.decode(sent.parts[1])
        return _tree.where(sent.which == 1, change, _tree.zeros_like(change))

    return compose(
        client=clients.gradient(loss_fn, batch_size=batch_size),
        uplink=Compressor(init, encode, decode, lambda message_like: Contract()),
        aggregator=accumulated(num_clients),
        server=server_sgd(learning_rate),
        downlink=downlink,
    )


def _square(tree: Tree) -> Array:
    """Squared norm of the floats of a tree."""
    return jnp.sum(_tree.wide(ravel(tree)[0]) ** 2)
