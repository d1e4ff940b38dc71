"""The mean of updates that clients send as few coordinates."""

from collections.abc import Callable

from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Tree, TreeLike
from fjx.aggregators._mean import mean


def structured_mean(expand: Callable[[Tree, Tree, TreeLike], Tree]) -> Aggregator:
    """The weighted mean of updates, each of which travels as its coordinates in a subspace.

    Its messages are those of :func:`fjx.clients.structured`: ``{"update", "coordinates", "choice"}``.
    A client sends its coordinates and its choice, from which the server makes the update as the client
    did.

    Guarantees:
        - The result is the :func:`mean` of the updates.

    Bits:
        Those of the coordinates and of the choice.

    Args:
        expand: ``(choice, coordinates, update_like) -> update``, that of the clients' subspace, such as
            ``clients.random_mask(0.25).expand``.

    Returns:
        An :class:`fjx.Aggregator` that sums.  Its result is like ``"update"``.

    Raises:
        ValueError: the message is another (from ``init``).

    Examples:
        Every client sends one number, the second of four coordinates:

        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from fjx import aggregators, clients
        >>> subspace = clients.fixed_mask(np.array([False, True, False, False]))
        >>> a = aggregators.structured_mean(subspace.expand)
        >>> x = {"update": jnp.zeros((2, 4)).at[:, 1].set(jnp.array([1.0, 3.0])),
        ...      "coordinates": (jnp.array([[1.0], [3.0]]),), "choice": ()}
        >>> aggregators.aggregate(jax.random.key(0), a, x)[0].tolist()
        [0.0, 2.0, 0.0, 0.0]

    References:
        Konecny, McMahan, Yu, Richtarik, Suresh, Bacon, 2016 (arXiv:1610.05492).
    """
    inner = mean()

    def init(message_like: TreeLike) -> Tree:
        wanted = {"update", "coordinates", "choice"}
        if not (isinstance(message_like, dict) and set(message_like) == wanted):
            raise ValueError(
                f"structured_mean needs the messages of fjx.clients.structured, dicts of "
                f"{sorted(wanted)}"
            )
        return inner.init(message_like["update"])

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        like = public.like["update"]
        update = expand(payload["choice"], payload["coordinates"], like)
        return inner.contribute(update, weight, public)

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        return inner.finish(key, total, public)

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        return {"coordinates": message["coordinates"], "choice": message["choice"]}

    return Aggregator(init, contribute, finish, SUM, encode)
