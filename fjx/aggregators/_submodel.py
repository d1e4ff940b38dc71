"""The mean of sub-models: each coordinate over the clients that hold it."""

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx._tree import ravel
from fjx.wire import SubModel


def submodel_mean() -> Aggregator:
    """The weighted mean of each coordinate over those who hold it; what nobody holds is not moved.

    Its messages are those of :func:`fjx.clients.submodel`: ``{"update", "held", "choice"}``.

    Guarantees: x_j = sum_i w_i h_ij x_ij / sum_i w_i h_ij with h_ij whether client i holds coordinate j,
        and zero if nobody does; where all hold all it is :func:`mean`, bit for bit; bits of a client:
        32 for each coordinate it holds, 32 for their number, and its choice.  The broadcast is billed
        whole, though a client needs no more of it than it sends.

    Returns:
        An :class:`fjx.Aggregator` that sums, whose result is like ``"update"``.

    Raises:
        ValueError: from ``init``, if the message is another.

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators
        >>> a = aggregators.submodel_mean()
        >>> public = fjx.Public((), jax.random.key(0), None, jnp.int32(2))
        >>> held = jnp.array([[True, True, False], [True, False, False]])
        >>> update = jnp.where(held, jnp.array([[1.0, 2.0, 0.0], [4.0, 0.0, 0.0]]), 0.0)
        >>> share = jax.vmap(lambda x, h, w: a.contribute(
        ...     None, {"update": x, "held": h, "choice": ()}, w, public))(
        ...     update, held, jnp.array([2.0, 1.0]))
        >>> a.finish(None, jax.tree.map(lambda s: s.sum(0), share), public)[0].tolist()
        [2.0, 2.0, 0.0]

    References:
        Diao, Ding, Tarokh, *HeteroFL*, ICLR 2021 (arXiv:2010.01264), equation 3.
    """

    def init(message_like: TreeLike) -> Tree:
        wanted = {"update", "held", "choice"}
        if not (isinstance(message_like, dict) and set(message_like) == wanted):
            raise ValueError(
                f"submodel_mean needs the messages of fjx.clients.submodel, dicts of {sorted(wanted)}"
            )
        return ()

    def contribute(key: Key, message: Tree, weight: Array, public: Public) -> Tree:
        holding = _tree.scale(weight, message["held"])
        only = jax.tree.map(
            lambda held, x: jnp.where(held, x, jnp.zeros_like(x)),
            message["held"],
            message["update"],
        )
        return _tree.scale(weight, only), holding

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        def mean(summed: Array, weight: Array) -> Array:
            return _tree.divide(summed, jnp.where(weight > 0, weight, 1.0))

        return jax.tree.map(mean, *total), public.state, {}

    def encode(key: Key, message: Tree, public: Public) -> SubModel:
        leaves = zip(
            jax.tree.leaves(message["update"]), jax.tree.leaves(message["held"]), strict=True
        )
        floats = [(x, held) for x, held in leaves if _tree.is_float(x)]
        if not floats:
            return SubModel(jnp.int32(0), jnp.zeros(0), message["choice"])
        values = _tree.wide(ravel([x for x, _ in floats])[0])
        held = jnp.concatenate([held.reshape(-1) for _, held in floats])
        places = jnp.where(held, jnp.cumsum(held) - 1, held.size)
        packed = jnp.zeros_like(values).at[places].set(values, mode="drop", unique_indices=False)
        return SubModel(jnp.sum(held, dtype=jnp.int32), packed, message["choice"])

    return Aggregator(init, contribute, finish, SUM, encode)
