"""A mask for each client of the round, such that every coordinate has the same number of owners."""

import math

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx._kernels.permutation import permute
from fjx._tree import ravel, structure_of, unravel
from fjx.aggregators._submodel import mean_of_holders


def assigned_mean(*, clients: int, owners: int) -> Aggregator:
    """The mean of each coordinate over its owners: s of the c clients of the round.

    A client sends the coordinates that it owns.  The owners of coordinate k are the clients at places
    k s, ..., k s + s - 1 (mod c) of a random order, which follows from the round's public key.  So any
    s of the c clients own a coordinate with equal probability, and no client owns more than
    ceil(d s / c) coordinates.

    Guarantees:
        - Unbiased, with E||result - mean||^2 = (c - s) / (s (c - 1)) mean ||x_i - mean||^2.  This is
          zero for equal messages and for s = c.
        - For s = c the result is that of ``uniform(mean())``, bit for bit.
        - If some owners of a coordinate do not come, the mean is over the others; a coordinate without
          an owner that comes is zero.
        - Clients of rank c and above own nothing.

    Bits:
        32 ceil(d s / c).

    Args:
        clients: cohort size c.
        owners: number of owners s of each coordinate, 1 to c.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves, which sums.

    Raises:
        TypeError: an argument is not an integer; a leaf is not floating (from ``init``).
        ValueError: an argument is out of range; d s is 2^32 or more (from ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, wire
        >>> a = aggregators.assigned_mean(clients=4, owners=2)
        >>> x = jnp.arange(6.0)
        >>> aggregators.aggregate(jax.random.key(0), a, jnp.tile(x, (4, 1)))[0].tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        >>> public = fjx.Public.first(a, x, jax.random.key(0), size=4)
        >>> wire.bits(a.encode(jax.random.key(1), x, public))
        96

    References:
        Condat, Agarsky, Richtarik, *Provably Doubly Accelerated Federated Learning: The First
        Theoretically Successful Combination of Local Training and Communication Compression*, 2022
        (arXiv:2210.13277), figure 1.
    """
    clients = _validate.static_integer("clients", clients, at_least=1, at_most=2**16)
    owners = _validate.static_integer("owners", owners, at_least=1, at_most=clients)

    def init(message_like: TreeLike) -> Tree:
        leaves = jax.tree_util.tree_leaves_with_path(message_like)
        for path, leaf in leaves:
            if not _tree.is_float(leaf):
                raise TypeError(
                    f"assigned_mean needs messages of floats, at {jax.tree_util.keystr(path)} got "
                    f"{leaf.dtype}; aggregate it by aggregators.per_field"
                )
        if owners * sum(math.prod(leaf.shape) for _, leaf in leaves) >= 2**32:
            raise ValueError(
                f"assigned_mean deals fewer than 2^32 parts; owners={owners} is too many"
            )
        return ()

    def mine(size: int, public: Public) -> Array:
        """The coordinates that a client is dealt; some may lie beyond the message."""
        parts = jnp.arange(-(-size * owners // clients), dtype=jnp.uint32) * clients
        return (parts + _column(public, clients)) // owners

    def encode(key: Key, message: Tree, public: Public) -> Array:
        vector = ravel(message)[0]
        return vector.at[mine(vector.size, public)].get(mode="fill", fill_value=0)

    def contribute(values: Array, weight: Array, public: Public) -> Tree:
        structure, counts = structure_of(public.like), (weight > 0).astype(jnp.float32)
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(public.like))
        spread = jnp.zeros(size, values.dtype).at[mine(size, public)].set(values, mode="drop")
        held = owned(public.like, public, clients=clients, owners=owners)
        update = jax.tree.map(
            lambda yes, x: jnp.where(yes, x, jnp.zeros_like(x)),
            held,
            unravel(spread, None, structure),
        )
        return _tree.scale(counts, update), _tree.scale(counts, held)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        return mean_of_holders(*total), public.state, {}

    return Aggregator(init, contribute, finish, SUM, encode)


def owned(message_like: TreeLike, public: Public, *, clients: int, owners: int) -> Tree:
    """The coordinates of a message that are this client's, as bools in the shape of the message."""
    column, c = _column(public, clients), jnp.uint32(clients)
    leaves, treedef = jax.tree.flatten(message_like)
    masks, start = [], 0
    for leaf in leaves:
        size = math.prod(leaf.shape)
        coordinates = jnp.arange(start, start + size, dtype=jnp.uint32).reshape(leaf.shape)
        # Coordinate k is dealt to the columns k s, ..., k s + s - 1; all of it is modulo c.
        behind = column + c - coordinates % c * owners % c
        masks.append((behind % c < owners) & (public.rank < clients))
        start += size
    return treedef.unflatten(masks)


def _column(public: Public, clients: int) -> Array:
    """This client's place in the random order of the round."""
    return permute(jax.random.fold_in(public.key, 0), public.rank, clients).astype(jnp.uint32)
