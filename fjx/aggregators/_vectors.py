"""From an aggregator of vectors to one of messages, and an ordinary codec inside an aggregator."""

import jax

from fjx import _tree
from fjx._base import Aggregator, Array, Compressor, Key, Metrics, Public, Template, Tree, TreeLike
from fjx._tree import ravel, structure_of, unravel
from fjx.aggregators._around import releasing, require_aggregator
from fjx.aggregators._mean import mean


def as_vector(aggregator: Aggregator) -> Aggregator:
    """An aggregator of messages, from an aggregator of vectors.

    Each message is given to ``aggregator`` as one vector; the result has the message's shape again.  The
    vector is of float32, or of float64 if a leaf is.

    Args:
        aggregator: aggregator of vectors.

    Returns:
        An :class:`fjx.Aggregator` of messages of floating leaves.

    Raises:
        TypeError: ``aggregator`` is something else; a leaf is not floating (from ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators
        >>> a = aggregators.as_vector(aggregators.mean())
        >>> x = {"a": jnp.ones((2, 3)), "b": jnp.zeros(())}
        >>> public = fjx.Public.first(a, x, jax.random.key(0))
        >>> a.contribute(x, jnp.float32(2), public)[0].shape
        (7,)
        >>> stacked = jax.tree.map(lambda leaf: leaf[None], x)
        >>> aggregators.aggregate(jax.random.key(0), a, stacked)[0]["a"].tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    require_aggregator("as_vector", aggregator)

    def vector(message: Tree) -> Array:
        return _tree.wide(ravel(message)[0])

    def inside(public: Public) -> Public:
        return public._replace(template=Template.of(jax.eval_shape(vector, public.like)))

    def init(message_like: TreeLike) -> Tree:
        for path, leaf in jax.tree_util.tree_leaves_with_path(message_like):
            if not _tree.is_float(leaf):
                raise TypeError(
                    f"a message that is aggregated as a vector must be of floats, at "
                    f"{jax.tree_util.keystr(path)} got {leaf.dtype}; aggregate it by "
                    "aggregators.per_field"
                )
        return aggregator.init(jax.eval_shape(vector, _tree.like(message_like)))

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        assert aggregator.encode is not None
        return aggregator.encode(key, vector(message), inside(public))

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        if aggregator.encode is None:
            payload = vector(payload)  # the uplink codec's message is what was sent
        return aggregator.contribute(payload, weight, inside(public))

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        result, state, metrics = aggregator.finish(key, total, inside(public))
        structure = structure_of(public.like)
        nothing = structure.treedef.unflatten([None] * structure.treedef.num_leaves)
        shapes = tuple((leaf.shape, result.dtype.name) for leaf in jax.tree.leaves(public.like))
        return unravel(result, nothing, structure._replace(floats=shapes)), state, metrics

    encoded = None if aggregator.encode is None else encode
    wrapped = Aggregator(init, contribute, finish, aggregator.combine, encoded)
    return releasing(wrapped, *aggregator.mechanisms)


def compressed(codec: Compressor, aggregator: Aggregator | None = None) -> Aggregator:
    """An aggregator whose clients encode their messages by an ordinary codec.

    In the uplink a codec is given the message; here it is given the message as the aggregator around
    this one transforms it.  For instance, ``rotated(compressed(codec))`` encodes in rotated
    coordinates, and one inverse rotation a round suffices.

    Guarantees:
        - The result is that of ``aggregator`` on the decoded payloads.

    Bits:
        Those of the codec.

    Args:
        codec: codec without a state; it draws from the client's own key.
        aggregator: aggregator of the decoded messages; :func:`mean` by default.

    Returns:
        An :class:`fjx.Aggregator` whose ``encode`` is the codec's.

    Raises:
        TypeError: an argument is something else.
        ValueError: ``aggregator`` has an ``encode`` of its own; ``codec`` has a state (from ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, compressors, wire
        >>> a = aggregators.compressed(compressors.cast(jnp.bfloat16))
        >>> public = fjx.Public.first(a, jnp.ones(3), jax.random.key(0))
        >>> wire.bits(a.encode(jax.random.key(1), jnp.ones(3), public))
        48
    """
    if not isinstance(codec, Compressor):
        raise TypeError(
            f"compressed needs a fjx.Compressor such as compressors.drive(), got {codec!r}"
        )
    aggregator = mean() if aggregator is None else aggregator
    require_aggregator("compressed", aggregator)
    if aggregator.encode is not None:
        raise ValueError(
            "compressed needs an aggregator that does not say itself what clients send"
        )

    def init(message_like: TreeLike) -> Tree:
        if jax.tree.leaves(jax.eval_shape(codec.init, _tree.like(message_like))):
            raise ValueError(
                "compressed needs a codec without a state; put error_feedback in the uplink"
            )
        return aggregator.init(message_like)

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        return codec.encode(jax.random.fold_in(key, 0), message, codec.init(message))[0]

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        return aggregator.contribute(codec.decode(payload), weight, public)

    wrapped = Aggregator(init, contribute, aggregator.finish, aggregator.combine, encode)
    return releasing(wrapped, *aggregator.mechanisms)
