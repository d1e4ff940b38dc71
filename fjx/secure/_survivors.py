"""The clients in a sum as arrays: which dropouts a protocol survives."""

import jax
import jax.numpy as jnp

from fjx._base import Array


def survivors(near: Array, threshold: Array | int, there: Array, summed: int) -> Array:
    """The clients whose vectors are in a sum; none if the protocol gives up.

    A client stops where fewer than ``threshold`` of its neighbours, itself counted, are left.  The
    server gives up where fewer clients than that send, where paths over neighbours do not lead from each
    client in the sum to all others, or where fewer clients than the threshold hold a share of a secret
    that it needs: that of a client in the sum, or of one that has left a neighbour of its own there.
    Protocols in which everybody needs everybody are those of a graph with all edges.

    Args:
        near: ``bool[n, n]``, true for neighbours, and on the diagonal.
        threshold: number of clients that must stay.
        there: ``bool[steps, n]``, true for the clients that have not left before a step.
        summed: number of the step in which vectors are sent.

    Returns:
        ``bool[n]``.
    """
    sets = [there[0]]
    for at in there[1:]:
        sets.append(sets[-1] & at & (_held(near, sets[-1]) >= threshold))
    came, shared = sets[summed], sets[max(summed - 1, 0)]
    enough = jnp.all(jnp.stack([jnp.sum(one) >= threshold for one in sets]))
    enough &= _connected(near, came)
    wanted = shared & (_held(near, came) > 0)
    enough &= jnp.all(~wanted | (_held(near, sets[-1]) >= threshold))
    return came & enough


def _connected(near: Array, clients: Array) -> Array:
    """True if paths over neighbours lead from each of some clients to all others of them."""

    def spread(reached: Array) -> Array:
        return clients & (_held(near, reached) > 0)

    def grows(reached: Array) -> Array:
        return jnp.any(spread(reached) != reached)

    first = clients & (jnp.cumsum(clients) == 1)
    return jnp.all(jax.lax.while_loop(grows, spread, first) == clients)


def _held(near: Array, clients: Array) -> Array:
    """The number of some clients around each."""
    return jnp.sum(near & clients[None, :], axis=1)
