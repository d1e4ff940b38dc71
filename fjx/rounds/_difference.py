"""Compressed differences: a memory on each client, and the mean of the memories on the server."""

from typing import NamedTuple, TypedDict

import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import (
    SUM,
    Aggregator,
    Array,
    Compressor,
    Contract,
    Key,
    Metrics,
    Public,
    Tree,
    TreeLike,
)
from fjx.compressors._shapes import require_compressor


class Link(TypedDict):
    """The two ends of a wire, as parts of :func:`fjx.compose`."""

    uplink: Compressor
    aggregator: Aggregator


class DifferenceState(NamedTuple):
    """The client's state of :func:`difference`.

    Attributes:
        memory: memory h_i, shaped like the message.
        inner: state of the codec.
    """

    memory: Tree
    inner: Tree


def difference(
    codec: Compressor,
    *,
    num_clients: int,
    lam: Array | float = 1.0,
    nu: Array | float = 1.0,
) -> Link:
    """The two ends of a wire on which only changes travel: EF-BV, with EF21 and DIANA as settings.

    Each client has a memory h_i, and the server has their mean h over all N clients.  With C the codec,
    each client of the round sends m_i = C(x_i - h_i) of its message x_i, and

        g = h + (nu / N) sum m_i,   h_i = h_i + lam m_i,   h = h + (lam / N) sum m_i,

    where the sums are over the clients that came.  The aggregate message is g.

    - lam = nu = 1 is EF21, for contractive codecs.  It is EF21-PP if only some clients come.
    - nu = 1 with lam at most 1 / (1 + omega) is DIANA, for unbiased codecs.
    - nu = N / m makes g unbiased if C is, for a cohort of m clients drawn uniformly.

    Guarantees:
        - h stays the mean of the memories of all clients, to rounding.  A client that did not come, or
          whose message was not finite, changes neither.
        - As the memories approach the messages, the differences tend to zero, and the error of a codec
          with them.

    Bits:
        Those of the codec.

    Args:
        codec: contractive or unbiased codec, applied to differences.
        num_clients: population size N.
        lam: step size lam of the memories, in [0, 1]; may be traced.
        nu: step size nu of the aggregate, positive; may be traced.

    Returns:
        The parts ``uplink`` and ``aggregator`` of :func:`fjx.compose`, made together because they must
        agree: ``compose(client=..., server=..., **difference(codec, num_clients=100))``.

    Raises:
        TypeError: ``codec`` is not a Compressor, or another argument is not a number.
        ValueError: a number is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import clients, compressors, rounds
        >>> slots = rounds.difference(compressors.top_k(0.5), num_clients=2)
        >>> x = jnp.array([4.0, 1.0])
        >>> first, state = slots["uplink"].encode(jax.random.key(0), x, slots["uplink"].init(x))
        >>> second, state = slots["uplink"].encode(jax.random.key(1), x, state)
        >>> [compressors.top_k(0.5).decode(m).tolist() for m in (first, second)]
        [[4.0, 0.0], [0.0, 1.0]]

    References:
        Condat, Yi, Richtarik, *EF-BV: A Unified Theory of Error Feedback and Variance Reduction
        Mechanisms for Biased and Unbiased Compression in Distributed Optimization*, NeurIPS 2022
        (arXiv:2205.04180), algorithm 1.
    """
    require_compressor("difference", codec)
    _validate.number("lam", lam, at_least=0, at_most=1)

    def init(message_like: TreeLike) -> DifferenceState:
        return DifferenceState(_tree.wide_zeros_like(message_like), codec.init(message_like))

    def encode(key: Key, message: Tree, state: DifferenceState) -> tuple[Tree, DifferenceState]:
        change = _tree.subtract(_tree.widened(message), state.memory)
        change = _tree.in_dtypes_of(change, message)
        payload, inner = codec.encode(key, change, state.inner)
        moved = _tree.scale(jnp.asarray(lam), codec.decode(payload))
        return payload, DifferenceState(_tree.add(state.memory, moved), inner)

    uplink = Compressor(init, encode, codec.decode, lambda message_like: Contract())
    return Link(uplink=uplink, aggregator=accumulated(num_clients, lam=lam, nu=nu))


def accumulated(
    num_clients: int, *, lam: Array | float = 1.0, nu: Array | float = 1.0
) -> Aggregator:
    """The server's end of :func:`difference`, with h as its state."""
    num_clients = _validate.static_integer("num_clients", num_clients, at_least=1)
    _validate.number("nu", nu, above=0)

    def init(message_like: TreeLike) -> Tree:
        return _tree.scale(jnp.float32(0), _tree.zeros_like(message_like))

    def contribute(message: Tree, weight: Array, public: Public) -> Tree:
        return _tree.scale(weight > 0, message)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        mean = _tree.scale(jnp.asarray(1 / num_clients), total)
        aggregate, memory = (
            _tree.add(public.state, _tree.scale(jnp.asarray(factor), mean)) for factor in (nu, lam)
        )
        return aggregate, memory, {}

    return Aggregator(init, contribute, finish, SUM)
