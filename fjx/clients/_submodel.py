"""Training a part of the model: some units of each layer, and all parameters attached to them.

The units of a layer (neurons, channels, heads) are the coordinates of an axis that several arrays
share: the columns of one kernel, its bias, the rows of the next kernel.  Give that axis the same
name in all of these arrays; a choice of units is then a choice of coordinates in every array.
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
from fjx.wire import Seed

Sizes = dict[str, int]
"""Number of units of each named axis."""


Local = Callable[[Loss], ClientUpdate]
"""A function that makes the local training of a loss."""


class ChooseUnits(Protocol):
    def __call__(self, key: Key, examples: Examples, /) -> Tree:
        """Choice of the client's units in this round: a few numbers, sent with its message."""


class UnitsOf(Protocol):
    def __call__(self, choice: Tree, sizes: Sizes, /) -> dict[str, Array]:
        """Masks ``bool[size]``, one for each named axis: True at the units that a choice holds."""


class Units(NamedTuple):
    """A rule by which clients choose units, and by which everybody reads a choice.

    Attributes:
        choose: function ``(key, examples) -> choice``.
        masks: function ``(choice, sizes) -> {axis: bool[size]}``.
        choice_like: shapes and dtypes of a choice.
    """

    choose: ChooseUnits
    masks: UnitsOf
    choice_like: TreeLike


def ordered_dropout(
    widths: Sequence[float], *, of: Callable[[Key, Examples], Array] | None = None
) -> Units:
    """Nested sub-models: the first units of every layer, as many as a width allows.

    A client of width r holds the first ceil(r n) units of an axis of n.  A wider client therefore
    holds every unit that a narrower client holds.  By default a width is drawn uniformly in each
    round; ``of`` assigns widths to clients instead.

    Args:
        widths: shares in (0, 1].
        of: function ``(key, examples) -> i32[]`` that returns the index of the client's width; a
            device class may be stored with its examples.

    Returns:
        A :class:`Units` whose choices cost 8 bits.

    Raises:
        TypeError: a width is not a Python number.
        ValueError: ``widths`` is empty or longer than 256, or a width is out of range.

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
    """Random sub-models: a share of the units of every layer, drawn anew by each client in each round.

    Args:
        ratio: share of the units of each axis, in (0, 1].

    Returns:
        A :class:`Units` whose choices are a :class:`fjx.wire.Seed`.

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

    def choose(key: Key, examples: Examples) -> Seed:
        return Seed.of(key)

    def masks(choice: Seed, sizes: Sizes) -> dict[str, Array]:
        key = choice.key

        def some(i: int, size: int) -> Array:
            chosen = permute(jax.random.fold_in(key, i), jnp.arange(share_of(ratio, size)), size)
            return jnp.zeros(size, bool).at[chosen].set(True)

        return {name: some(i, size) for i, (name, size) in enumerate(sorted(sizes.items()))}

    return Units(choose, masks, Seed.like())


def submodel(loss_fn: LossFn, local: Local, *, axes: Tree, units: Units) -> ClientUpdate:
    """Train the sub-model of the units that a client holds, as if the other units did not exist.

    Coordinates of units that are not held are zero in the initial model, in the model that the loss
    sees, and in the message; they therefore have no gradient.  Nothing is rescaled.

    The message is ``{"update": after - before, "choice": of the units}``.  Use it with
    :func:`fjx.aggregators.submodel_mean`, which also bills the parts that are sent.

    Guarantees:
        - A coordinate that is not held is not trained, whatever the activation functions.
        - With all units held it is ``local(loss_fn)``, bit for bit.

    Args:
        loss_fn: loss, as for :func:`fjx.clients.local_sgd`.
        local: function that makes a stateless local training from a loss, for example ``lambda
            loss: clients.local_sgd(loss, optax.sgd(0.1), epochs=1, batch_size=20)``; its message
            must be ``after - before``.
        axes: tree like the parameters, with a tuple in place of each array.  The tuple has one
            entry for each axis: the name of its units, or None.  Axes with the same name have the
            same size.
        units: rule that chooses units, from :func:`ordered_dropout` or :func:`federated_dropout`.

    Returns:
        A :class:`fjx.ClientUpdate`.

    Raises:
        ValueError: ``axes`` does not fit the parameters, or ``local`` has a state (when the message
            is described or traced).

    Examples:
        Two hidden units, of which each client of this round holds the first:

        >>> import functools, jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import aggregators, clients
        >>> def loss_fn(w, batch, key):
        ...     return jnp.mean((jnp.tanh(batch["x"] @ w["in"]) @ w["out"] - batch["y"]) ** 2)
        >>> axes = {"in": (None, "hidden"), "out": ("hidden",)}
        >>> units = clients.ordered_dropout([0.5])
        >>> client = clients.submodel(
        ...     loss_fn, lambda loss: clients.local_sgd(loss, optax.sgd(0.1), steps=3, batch_size=2),
        ...     axes=axes, units=units)
        >>> held = functools.partial(clients.held_coordinates, axes, units)
        >>> algorithm = fjx.compose(client=client, aggregator=aggregators.submodel_mean(held))
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
            raise ValueError("local must be a client without state, such as clients.local_sgd")
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
    """Masks of the parameters that a choice of units holds: a tree of ``bool`` arrays.

    Args:
        axes: names of the axes, as in :func:`submodel`.
        units: rule that reads the choice.
        choice: choice of a client.
        params: parameters, or their shapes.

    Returns:
        A tree like ``params``.  A coordinate is held if all units that it belongs to are held.

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
                f"axes must name each axis of an array of shape {leaf.shape}, or give None; got {names}"
            )
        for size, name in zip(leaf.shape, names, strict=True):
            if name is not None and sizes.setdefault(name, size) != size:
                raise ValueError(
                    f"axes with the same name must have the same size: {name!r} has "
                    f"{sizes[name]} units and {size}"
                )
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
