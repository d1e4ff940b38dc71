"""Training a part of the model: some units of each layer, and what hangs on them.

A layer's units (neurons, channels, heads) are the coordinates of an axis that arrays share: the columns
of one kernel, its bias, the rows of the next kernel.  Give that axis a name in all of them, and a choice
of units is a choice of coordinates in every array.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Tree, TreeLike, Turn
from fjx._kernels.permutation import permute
from fjx._kernels.select import share_of
from fjx.clients._loss import Loss, LossFn, as_loss

Sizes = dict[str, int]
"""How many units each named axis has."""


Local = Callable[[Loss], ClientUpdate]
"""What makes the local training of a loss."""


class ChooseUnits(Protocol):
    def __call__(self, key: Key, examples: Examples, /) -> Tree:
        """What this client trains this round, in a few numbers that travel with its message."""


class UnitsOf(Protocol):
    def __call__(self, choice: Tree, sizes: Sizes, /) -> dict[str, Array]:
        """``bool[size]`` for each named axis: which units a choice holds."""


class Units(NamedTuple):
    """How clients choose units, and how everybody knows what a choice holds.

    Attributes:
        choose: ``(key, examples) -> choice``.
        masks: ``(choice, sizes) -> {axis: bool[size]}``.
        choice_like: the shapes and dtypes of a choice.
    """

    choose: ChooseUnits
    masks: UnitsOf
    choice_like: TreeLike


def ordered_dropout(
    widths: Sequence[float], *, of: Callable[[Key, Examples], Array] | None = None
) -> Units:
    """The first units of every layer, as many as a width says: nested sub-models.

    A client of width r holds the first ceil(r n) units of an axis of n, so that what a narrow client
    holds every wider one holds too.  A width is drawn anew in each round, all alike, unless ``of`` says
    which one a client has.

    Args:
        widths: shares in (0, 1].
        of: ``(key, examples) -> i32[]``, the number of the client's width; a phone's class may stand in
            its examples.

    Returns:
        A :class:`Units`, of choices that cost 8 bits.

    Raises:
        TypeError: a width is not a Python number.
        ValueError: there are none, more than 256, or one is out of range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import clients
        >>> units = clients.ordered_dropout([1.0, 0.5])
        >>> units.masks(jnp.uint8(1), {"hidden": 5})["hidden"].tolist()
        [True, True, True, False, False]

    References:
        Diao, Ding, Tarokh, *HeteroFL*, ICLR 2021 (arXiv:2010.01264); Horvath, Laskaridis, Almeida,
        Leontiadis, Venieris, Lane, *FjORD*, NeurIPS 2021 (arXiv:2102.13451), where a client's width is
        drawn among those that it can bear.
    """
    shares = [_validate.static_number("widths", r, above=0, at_most=1) for r in widths]
    if not 1 <= len(shares) <= 256:
        raise ValueError(f"widths must be 1 to 256 shares, got {len(shares)}")

    def choose(key: Key, examples: Examples) -> Array:
        if of is not None:
            return jnp.clip(of(key, examples), 0, len(shares) - 1).astype(jnp.uint8)
        return jax.random.randint(key, (), 0, len(shares)).astype(jnp.uint8)

    def masks(choice: Array, sizes: Sizes) -> dict[str, Array]:
        def first(size: int) -> Array:
            held = np.array([share_of(r, size) for r in shares], np.int32)
            return jnp.arange(size) < jnp.asarray(held)[choice.astype(jnp.int32)]

        return {name: first(size) for name, size in sizes.items()}

    return Units(choose, masks, jax.ShapeDtypeStruct((), jnp.uint8))


def federated_dropout(ratio: float) -> Units:
    """As many units of every layer as a ratio says, chosen anew by each client in each round.

    Args:
        ratio: of the units of each axis, in (0, 1].

    Returns:
        A :class:`Units`, of choices that are a seed.

    Raises:
        TypeError: ``ratio`` is not a Python number.
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax
        >>> from fjx import clients
        >>> units = clients.federated_dropout(0.5)
        >>> choice = units.choose(jax.random.key(0), None)
        >>> int(units.masks(choice, {"hidden": 8})["hidden"].sum())
        4

    References:
        Caldas, Konecny, McMahan, Talwalkar, *Expanding the Reach of Federated Learning by Reducing
        Client Resource Requirements*, 2018 (arXiv:1812.07210), where this is federated dropout.
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)

    def choose(key: Key, examples: Examples) -> Array:
        return jax.random.bits(key, (2,), jnp.uint32)

    def masks(choice: Array, sizes: Sizes) -> dict[str, Array]:
        # The generator is named, because the server reads the same seed.
        key = jax.random.wrap_key_data(choice, impl="threefry2x32")

        def some(i: int, size: int) -> Array:
            chosen = permute(jax.random.fold_in(key, i), jnp.arange(share_of(ratio, size)), size)
            return jnp.zeros(size, bool).at[chosen].set(True)

        return {name: some(i, size) for i, (name, size) in enumerate(sorted(sizes.items()))}

    return Units(choose, masks, jax.ShapeDtypeStruct((2,), jnp.uint32))


def submodel(loss_fn: LossFn, local: Local, *, axes: Tree, units: Units) -> ClientUpdate:
    """Trains the sub-model that a client's units make, as if the other units were not there.

    Coordinates of units that are not held are zero in the model that the client starts from and in its
    loss, so that they have no gradient, and in its message.  Nothing is rescaled.

    Its message is ``{"update": after - before, "held": which coordinates, "choice": of the units}``, and
    wants :func:`fjx.aggregators.submodel_mean`, which also prices what travels.

    Guarantees: a coordinate that is not held is not trained, whatever the activation functions; with all
        units held it is ``local(loss_fn)``, bit for bit.

    Args:
        loss_fn: as clients take it.
        local: makes the local training of a loss, say
            ``lambda loss: clients.local_sgd(loss, optax.sgd(0.1), epochs=1, batch_size=20)``; its
            message is after - before, and it has no state.
        axes: a tree like the parameters, with a tuple in place of each array: for each axis the name of
            its units or None.  Axes of one name have one size.
        units: such as :func:`ordered_dropout` and :func:`federated_dropout` make.

    Returns:
        A :class:`fjx.ClientUpdate`.

    Raises:
        ValueError: (when the message is described or traced) ``axes`` does not fit the parameters, or
            ``local`` has a state.

    Examples:
        Two hidden units, of which each client of this round holds the first:

        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import aggregators, clients
        >>> def loss_fn(w, batch, key):
        ...     return jnp.mean((jnp.tanh(batch["x"] @ w["in"]) @ w["out"] - batch["y"]) ** 2)
        >>> client = clients.submodel(
        ...     loss_fn, lambda loss: clients.local_sgd(loss, optax.sgd(0.1), steps=3, batch_size=2),
        ...     axes={"in": (None, "hidden"), "out": ("hidden",)},
        ...     units=clients.ordered_dropout([0.5]))
        >>> algorithm = fjx.compose(client=client, aggregator=aggregators.submodel_mean())
        >>> data = fjx.data.from_clients([{"x": jnp.ones((2, 3)), "y": jnp.ones(2)}] * 4)
        >>> params = {"in": jnp.ones((3, 2)), "out": jnp.ones(2)}
        >>> result = fjx.simulate(jax.random.key(0), algorithm, params, data,
        ...     sampler=fjx.samplers.full(), rounds=1)
        >>> (result.params["in"] == 1.0).all(0).tolist()
        [False, True]
        >>> result.ledger.uplink == 4 * (4 * 32 + 32 + 8)  # four floats, their number, the width
        True

    References:
        Caldas, Konecny, McMahan, Talwalkar, 2018 (arXiv:1812.07210); Diao, Ding, Tarokh, ICLR 2021
        (arXiv:2010.01264); Horvath et al., NeurIPS 2021 (arXiv:2102.13451).
    """
    loss = as_loss(loss_fn)

    def update(
        key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        key_units, key_train = (jax.random.fold_in(key, i) for i in range(2))
        choice = units.choose(key_units, examples)
        held = held_coordinates(axes, units, choice, broadcast)

        def evaluate(
            model: Tree, batch: Tree, mask: Array, key: Key
        ) -> tuple[Array, Metrics, Tree]:
            return loss.evaluate(_only(held, model), batch, mask, key)

        client = local(Loss(evaluate))
        if jax.tree.leaves(client.init(broadcast)):
            raise ValueError("submodel needs local training without a state, such as local_sgd")
        message, _, metrics = client.update(
            key_train, _only(held, broadcast), client.init(broadcast), examples, turn
        )
        return {"update": _only(held, message), "choice": choice}, state, metrics

    def message(params: Tree) -> TreeLike:
        # Raises if the axes do not fit.
        jax.eval_shape(
            lambda choice, params: held_coordinates(axes, units, choice, params),
            units.choice_like,
            params,
        )
        return {"update": _tree.like(params), "choice": units.choice_like}

    return ClientUpdate(lambda params: (), update, message)


def held_coordinates(axes: Tree, units: Units, choice: Tree, params: Tree) -> Tree:
    """Which coordinates of the parameters a choice of units holds: a tree of ``bool`` arrays.

    Args:
        axes: as in :func:`submodel`.
        units: how the choice is read.
        choice: of a client.
        params: the parameters, or their shapes.

    Returns:
        A tree like ``params``.  A coordinate is held if all units that it belongs to are.

    Raises:
        ValueError: ``axes`` does not fit the parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import clients
        >>> held = clients.held_coordinates(
        ...     {"in": (None, "hidden"), "out": ("hidden",)}, clients.ordered_dropout([0.5]),
        ...     jnp.uint8(0), {"in": jnp.ones((2, 4)), "out": jnp.ones(4)})
        >>> held["in"].sum(0).tolist(), held["out"].tolist()
        ([2, 2, 0, 0], [True, True, False, False])
    """
    leaves, treedef = jax.tree.flatten(params)
    try:
        named = treedef.flatten_up_to(axes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"axes must be a tree like the parameters: {error}") from error
    sizes: Sizes = {}
    for leaf, names in zip(leaves, named, strict=True):
        if not isinstance(names, tuple) or len(names) != len(leaf.shape):
            raise ValueError(
                f"axes must name each axis of an array of shape {leaf.shape}, or say None; got {names}"
            )
        for size, name in zip(leaf.shape, names, strict=True):
            if name is not None and sizes.setdefault(name, size) != size:
                raise ValueError(f"axes of the name {name!r} have {sizes[name]} units and {size}")
    masks = units.masks(choice, sizes)

    def of(leaf: Any, names: tuple[str | None, ...]) -> Array:
        held = jnp.ones(leaf.shape, bool)
        for axis, name in enumerate(names):
            if name is not None:
                held = held & jnp.expand_dims(
                    masks[name], [i for i in range(len(names)) if i != axis]
                )
        return held

    return treedef.unflatten(map(of, leaves, named))


def _only(held: Tree, tree: Tree) -> Tree:
    """The coordinates that are held, and zeros in place of the others."""
    return jax.tree.map(lambda yes, x: jnp.where(yes, x, jnp.zeros_like(x)), held, tree)
