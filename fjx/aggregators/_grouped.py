"""One aggregate for each group of clients."""

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import SUM, Aggregator, Array, Key, Metrics, Public, Template, Tree, TreeLike
from fjx.aggregators._around import releasing, require_aggregator, sent
from fjx.privacy import Mechanism
from fjx.wire import SideInformation


def grouped(aggregator: Aggregator, groups: int) -> Aggregator:
    """The aggregate of each group of clients, stacked: a tree of ``[groups, ...]``.

    Its messages are dicts: ``"group"`` is the number of the client's group, an integer below
    ``groups``, and ``"update"`` is the message for ``aggregator``.  A number that the server knows is a
    :class:`fjx.wire.SideInformation`, and costs nothing.

    Guarantees:
        - The result of a group is that of ``aggregator`` for the messages of that group alone.
        - A privacy claim of ``aggregator`` stays: a client's message is in the sum of one group, and
          every group's sum is noised, that of an empty group as well.

    Bits:
        Those of ``aggregator`` or of the uplink's codec, and those of the group's number.

    Args:
        aggregator: aggregator of one group, which sums.
        groups: number of groups.

    Returns:
        An :class:`fjx.Aggregator`.  A metric of group 0 is named ``group0/metric``.

    Raises:
        TypeError: ``aggregator`` is something else.
        ValueError: ``aggregator`` stacks, or its noise is that of the clients; ``groups`` is below one;
            the message is another (from ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import aggregators
        >>> a = aggregators.grouped(aggregators.mean(), 3)
        >>> x = {"update": jnp.array([1.0, 3.0, 7.0]), "group": jnp.array([0, 0, 2])}
        >>> aggregators.aggregate(jax.random.key(0), a, x)[0].tolist()
        [2.0, 0.0, 7.0]
    """
    require_aggregator("grouped", aggregator)
    groups = _validate.static_integer("groups", groups, at_least=1)
    if aggregator.combine is not SUM:
        raise ValueError(
            "grouped needs an aggregator that sums, such as mean() or private(...): a stack has rows "
            "of other groups, which a median would count"
        )

    if not all(isinstance(mechanism, Mechanism) for mechanism in aggregator.mechanisms):
        raise ValueError(
            "grouped needs noise that the server adds, as private(...) does: noise of the clients is "
            "made for a whole cohort, and a group would have too little of it"
        )

    def init(message_like: TreeLike) -> Tree:
        if not (isinstance(message_like, dict) and set(message_like) == {"update", "group"}):
            raise ValueError("grouped needs messages that are dicts of 'update' and 'group'")
        state = aggregator.init(message_like["update"])
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (groups, *jnp.shape(x))), state)

    def inside(public: Public, state: Tree) -> Public:
        """The round as one group sees it; its noise may not depend on who came to it."""
        like = Template.of(public.like["update"])
        return public._replace(state=state, template=like)

    def of(public: Public, group: Array) -> Public:
        return inside(public, jax.tree.map(lambda x: x[group], public.state))

    def encode(key: Key, message: Tree, public: Public) -> Tree:
        update = sent(aggregator, key, message["update"], of(public, _number(message["group"])))
        return {"update": update, "group": message["group"]}

    def contribute(payload: Tree, weight: Array, public: Public) -> Tree:
        group = _number(payload["group"])
        share = aggregator.contribute(payload["update"], weight, of(public, group))
        return jax.tree.map(
            lambda x: jnp.zeros((groups, *x.shape), x.dtype).at[group].set(x), share
        )

    def finish(key: Key, total: Tree, public: Public) -> tuple[Tree, Tree, Metrics]:
        def one(key: Key, total: Tree, state: Tree) -> tuple[Tree, Tree, Metrics]:
            return aggregator.finish(key, total, inside(public, state))

        keys = jax.random.split(key, groups)
        message, state, metrics = jax.vmap(one)(keys, total, public.state)
        named = {f"group{g}/{k}": x[g] for k, x in metrics.items() for g in range(groups)}
        return message, state, named

    encoded = None if aggregator.encode is None else encode
    return releasing(Aggregator(init, contribute, finish, SUM, encoded), *aggregator.mechanisms)


def _number(group: Tree) -> Array:
    """The number of a group, without its wrapper."""
    number = group.value if isinstance(group, SideInformation) else group
    return number.astype(jnp.int32)
