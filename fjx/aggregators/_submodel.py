"""The mean of sub-models: each coordinate over the clients that hold it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx._tree import ravel, structure_of, unravel
from fjx.wire import SubModel


def submodel_mean(held: Callable[[Tree, TreeLike], Tree]) -> Aggregator:
    r"""The weighted mean of each coordinate over the clients that hold it.

    Its messages are those of :func:`fjx.clients.submodel`: ``{"update", "choice"}``.  A client sends the
    coordinates that it holds, one after another, and its choice; the server puts them in their places.

    .. math:: x_j = \sum_i w_i h_{ij} x_{ij} / \sum_i w_i h_{ij}

    with h_ij = 1 if client i holds coordinate j, and 0 if not.

    Guarantees:
        - A coordinate that nobody holds is zero: it is not moved.
        - If all clients hold everything, the result is :func:`mean`, bit for bit.

    Bits:
        32 for each coordinate that a client holds, 32 for their number, and its choice.  The broadcast
        is billed whole, though a client needs no more of it than it sends.

    Args:
        held: ``(choice, update_like) -> tree of bool``, the coordinates that a choice holds: for
            instance ``functools.partial(clients.held_coordinates, axes, units)``.

    Returns:
        An :class:`fjx.Aggregator` that sums.  Its result is like ``"update"``.

    Raises:
        ValueError: the message is another (from ``init``).
        TypeError: a leaf of the update is not floating (from ``init``).

    Examples:
        The first client holds the first two of three coordinates, the second only the first:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.submodel_mean(lambda choice, like: jnp.arange(3) < choice)
        >>> x = {"update": jnp.array([[1.0, 2.0, 0.0], [4.0, 0.0, 0.0]]),
        ...      "choice": jnp.array([2, 1])}
        >>> aggregators.aggregate(jax.random.key(0), a, x, weights=jnp.array([2.0, 1.0]))[0].tolist()
        [2.0, 2.0, 0.0]

    References:
        Diao, Ding, Tarokh, *HeteroFL*, ICLR 2021 (arXiv:2010.01264), equation 3.
    """

    def init(message_like: TreeLike) -> Tree:
        wanted = {"update", "choice"}
        if not (isinstance(message_like, dict) and set(message_like) == wanted):
            raise ValueError(
                f"submodel_mean needs the messages of fjx.clients.submodel, dicts of {sorted(wanted)}"
            )
        _tree.require_floating("the update of a sub-model", message_like["update"])
        return ()

    def encode(key: Key, message: Tree, public: Public) -> SubModel:
        mask = _flat(held(message["choice"], public.like["update"]))
        values = _tree.wide(ravel(message["update"])[0])
        places = jnp.where(mask, jnp.cumsum(mask) - 1, mask.size)
        packed = jnp.zeros_like(values).at[places].set(values, mode="drop", unique_indices=False)
        return SubModel(jnp.sum(mask, dtype=jnp.int32), packed, message["choice"])

    def contribute(payload: SubModel, weight: Array, public: Public) -> Tree:
        like = public.like["update"]
        mask = held(payload.choice, like)
        flat, values = _flat(mask), payload.values
        if flat.size:
            values = jnp.where(flat, values[jnp.cumsum(flat) - 1], 0.0)
        update = unravel(values, None, structure_of(like))
        return _tree.scale(weight, update), _tree.scale(weight, mask)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        return mean_of_holders(*total), public.state, {}

    return Aggregator(init, contribute, finish, SUM, encode)


def mean_of_holders(summed: Tree, weight: Tree) -> Tree:
    """Each sum over its own weight; zero where nobody holds a coordinate."""
    return jax.tree.map(lambda s, w: _tree.divide(s, jnp.where(w > 0, w, 1.0)), summed, weight)


def _flat(held: Tree) -> Array:
    """One mask of all coordinates, in the order of :func:`fjx._tree.ravel`."""
    parts = [mask.reshape(-1) for mask in jax.tree.leaves(held)]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, bool)
