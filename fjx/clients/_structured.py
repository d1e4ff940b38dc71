"""Structured updates: local training inside a subspace of few dimensions, which a seed names."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Stateful, Tree, TreeLike, Turn
from fjx._kernels.permutation import permute
from fjx._kernels.select import share_of
from fjx.clients._loss import Loss, LossFn, as_loss
from fjx.clients._submodel import Local


class Coordinates(Protocol):
    def __call__(self, params: TreeLike, /) -> TreeLike:
        """The shapes of the coordinates of an update of these parameters."""


class Expand(Protocol):
    def __call__(self, choice: Tree, coordinates: Tree, params: TreeLike, /) -> Tree:
        """The update that has these coordinates in the subspace of a choice; linear in them."""


class Subspace(NamedTuple):
    """Where updates may lie.

    Attributes:
        choose: ``(key) -> choice``, what names the subspace of a client and a round: a seed or nothing.
        coordinates: ``(params) -> shapes``.
        expand: ``(choice, coordinates, params) -> update``.
    """

    choose: Callable[[Key], Tree]
    coordinates: Coordinates
    expand: Expand


def random_mask(ratio: float) -> Subspace:
    """Updates of k = ceil(ratio d) coordinates of each array, chosen anew by each client in each round.

    Args:
        ratio: of the coordinates of each array, in (0, 1].

    Returns:
        A :class:`Subspace`, of choices that are a seed.

    Raises:
        TypeError: ``ratio`` is not a Python number.
        ValueError: ``ratio`` is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import clients
        >>> subspace = clients.random_mask(0.5)
        >>> w = jnp.zeros(6)
        >>> ones = jax.tree.map(lambda z: jnp.ones(z.shape), subspace.coordinates(w))
        >>> sorted(subspace.expand(subspace.choose(jax.random.key(0)), ones, w).tolist())
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]

    References:
        Konecny, McMahan, Yu, Richtarik, Suresh, Bacon, *Federated Learning: Strategies for Improving
        Communication Efficiency*, 2016 (arXiv:1610.05492), section 2.
    """
    ratio = _validate.static_number("ratio", ratio, above=0, at_most=1)

    def like(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((share_of(ratio, math.prod(leaf.shape)),), leaf.dtype)

    def expand(key: Key, z: Array, leaf: Any) -> Array:
        size = math.prod(leaf.shape)
        places = permute(key, jnp.arange(z.size, dtype=jnp.int32), size)
        return jnp.zeros(size, z.dtype).at[places].set(z, unique_indices=True).reshape(leaf.shape)

    return _of_leaves(like, expand)


def random_low_rank(rank: int) -> Subspace:
    """Updates A B of each array, A of so many columns being random and B trained.

    An array with two axes or more is seen as a matrix of n rows, its first axis, and m columns.  A is
    ``[n, rank]``, of independent numbers N(0, 1 / n), drawn anew by each client in each round, so that
    A^T A is nearly the identity and a step of SGD is nearly the projection of one.  An array of one
    axis, or of no more than ``rank`` rows, is trained whole.

    Args:
        rank: at least 1.

    Returns:
        A :class:`Subspace`, of choices that are a seed.

    Raises:
        TypeError: ``rank`` is not an integer.
        ValueError: ``rank`` is less than 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import clients
        >>> subspace = clients.random_low_rank(2)
        >>> params = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
        >>> [z.shape for z in subspace.coordinates(params)]
        [(10,), (2, 10)]

    References:
        Konecny, McMahan, Yu, Richtarik, Suresh, Bacon, 2016 (arXiv:1610.05492), section 2.
    """
    rank = _validate.static_integer("rank", rank, at_least=1)

    def thin(leaf: Any) -> bool:
        return len(leaf.shape) >= 2 and leaf.shape[0] > rank and math.prod(leaf.shape) > 0

    def like(leaf: Any) -> Any:
        shape = (rank, math.prod(leaf.shape[1:])) if thin(leaf) else leaf.shape
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    def expand(key: Key, z: Array, leaf: Any) -> Array:
        if not thin(leaf):
            return z
        a = jax.random.normal(key, (leaf.shape[0], rank)) / math.sqrt(leaf.shape[0])
        return (a.astype(z.dtype) @ z).reshape(leaf.shape)

    return _of_leaves(like, expand)


def fixed_mask(mask: Tree) -> Subspace:
    """Updates of the coordinates that a mask names, the same for all clients and rounds.

    Args:
        mask: a tree like the parameters, of concrete arrays of bool: True where they are trained.

    Returns:
        A :class:`Subspace`, of choices that cost nothing.

    Raises:
        TypeError: a leaf of ``mask`` is not bool.
        ValueError: (when used) ``mask`` does not fit the parameters.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from fjx import clients
        >>> subspace = clients.fixed_mask({"w": np.array([True, False, True])})
        >>> subspace.expand((), (jnp.array([5.0, 7.0]),), {"w": jnp.zeros(3)})["w"].tolist()
        [5.0, 0.0, 7.0]
    """
    masks = [np.asarray(leaf) for leaf in jax.tree.leaves(mask)]
    for leaf in masks:
        if leaf.dtype != bool:
            raise TypeError(f"mask must be of bool, got {leaf.dtype}")
    treedef = jax.tree.structure(mask)

    def places(params: TreeLike) -> list[np.ndarray]:
        leaves, shape = jax.tree.flatten(params)
        if shape != treedef or any(m.shape != x.shape for m, x in zip(masks, leaves, strict=True)):
            raise ValueError("mask must be a tree of arrays like the parameters")
        return [np.flatnonzero(m) for m, x in zip(masks, leaves, strict=True) if _tree.is_float(x)]

    def coordinates(params: TreeLike) -> TreeLike:
        floats = zip(places(params), _floats(params), strict=True)
        return tuple(jax.ShapeDtypeStruct((where.size,), leaf.dtype) for where, leaf in floats)

    def expand(choice: Tree, coordinates: Tree, params: TreeLike) -> Tree:
        def one(z: Array, where: np.ndarray, leaf: Any) -> Array:
            flat = jnp.zeros(math.prod(leaf.shape), z.dtype)
            return flat.at[where].set(z, unique_indices=True).reshape(leaf.shape)

        parts = map(one, coordinates, places(params), _floats(params))
        return _with_zeros(list(parts), params)

    return Subspace(lambda key: (), coordinates, expand)


def structured(loss_fn: LossFn, local: Local, *, subspace: Subspace) -> ClientUpdate:
    """Trains the coordinates of the update in a subspace, and sends them: nothing is lost on the wire.

    From the model w of the broadcast, ``local`` trains z, from zero, on the loss of w + expand(z).  What
    the client moves, it can say in few numbers, where a codec would throw away what it cannot.

    Its message is ``{"update": expand(z), "coordinates": z, "choice": of the subspace}``, and wants
    :func:`fjx.aggregators.structured_mean`, which prices the last two.

    Guarantees: the update lies in the subspace, exactly; with all coordinates in a mask it is
        ``local(loss_fn)``, to rounding.

    Args:
        loss_fn: as clients take it.
        local: makes the local training of a loss, say
            ``lambda loss: clients.local_sgd(loss, optax.sgd(0.1), epochs=1, batch_size=20)``; its
            message is after - before, and it has no state.
        subspace: such as :func:`random_mask`, :func:`random_low_rank` and :func:`fixed_mask` make.

    Returns:
        A :class:`fjx.ClientUpdate`.

    Raises:
        TypeError: (when traced) the model has mutable state.
        ValueError: (when traced) ``local`` has a state, or a mask does not fit.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import aggregators, clients
        >>> def loss_fn(w, batch, key):
        ...     return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
        >>> client = clients.structured(
        ...     loss_fn, lambda loss: clients.local_sgd(loss, optax.sgd(0.1), steps=3, batch_size=2),
        ...     subspace=clients.random_mask(0.25))
        >>> algorithm = fjx.compose(client=client, aggregator=aggregators.structured_mean())
        >>> algorithm.traffic(jnp.zeros(8))
        Traffic(uplink=128, downlink=256)

    References:
        Konecny, McMahan, Yu, Richtarik, Suresh, Bacon, *Federated Learning: Strategies for Improving
        Communication Efficiency*, 2016 (arXiv:1610.05492), section 2.
    """
    loss = as_loss(loss_fn)

    def update(
        key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        if isinstance(broadcast, Stateful):
            raise TypeError("structured trains parameters alone, not a fjx.Stateful model")
        key_choice, key_train = (jax.random.fold_in(key, i) for i in range(2))
        choice = subspace.choose(key_choice)

        def evaluate(z: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
            model = _tree.add(broadcast, subspace.expand(choice, z, broadcast))
            return loss.evaluate(model, batch, mask, key)

        start = _tree.zeros_like(subspace.coordinates(broadcast))
        client = local(Loss(evaluate))
        if jax.tree.leaves(client.init(start)):
            raise ValueError("structured needs local training without a state, such as local_sgd")
        z, _, metrics = client.update(key_train, start, client.init(start), examples, turn)
        moved = subspace.expand(choice, z, broadcast)
        return {"update": moved, "coordinates": z, "choice": choice}, state, metrics

    def message(params: Tree) -> TreeLike:
        return {
            "update": _tree.like(params),
            "coordinates": subspace.coordinates(params),
            "choice": jax.eval_shape(subspace.choose, jax.eval_shape(jax.random.key, 0)),
        }

    return ClientUpdate(lambda params: (), update, message)


def _of_leaves(like: Any, expand: Any) -> Subspace:
    """A subspace of each array by itself, whose choice is a seed."""

    def choose(key: Key) -> Array:
        return jax.random.bits(key, (2,), jnp.uint32)

    def coordinates(params: TreeLike) -> TreeLike:
        return tuple(like(leaf) for leaf in _floats(params))

    def expand_tree(choice: Array, coordinates: Tree, params: TreeLike) -> Tree:
        # The generator is named, because the server reads the same seed.
        key = jax.random.wrap_key_data(choice, impl="threefry2x32")
        parts = [
            expand(jax.random.fold_in(key, i), z, leaf)
            for i, (z, leaf) in enumerate(zip(coordinates, _floats(params), strict=True))
        ]
        return _with_zeros(parts, params)

    return Subspace(choose, coordinates, expand_tree)


def _floats(params: TreeLike) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(params) if _tree.is_float(leaf)]


def _with_zeros(parts: list[Array], params: TreeLike) -> Tree:
    """A tree like the parameters, of the parts given and of zeros in place of integers."""
    leaves, treedef = jax.tree.flatten(params)
    floating = iter(parts)
    return treedef.unflatten(
        [
            next(floating) if _tree.is_float(leaf) else jnp.zeros(leaf.shape, leaf.dtype)
            for leaf in leaves
        ]
    )
