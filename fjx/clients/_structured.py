"""Structured updates: local training inside a subspace of few dimensions that a seed identifies."""

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
from fjx.wire import Seed


class Coordinates(Protocol):
    def __call__(self, params: TreeLike, /) -> TreeLike:
        """Shapes of the coordinates of an update of these parameters."""


class Expand(Protocol):
    def __call__(self, choice: Tree, coordinates: Tree, params: TreeLike, /) -> Tree:
        """Update with these coordinates in the subspace of a choice; linear in the coordinates."""


class Subspace(NamedTuple):
    """A subspace of the updates, which each client may choose anew in each round.

    Attributes:
        choose: function ``(key) -> choice``; the choice identifies the subspace: a seed, or
            nothing.
        coordinates: function ``(params) -> shapes``.
        expand: function ``(choice, coordinates, params) -> update``.
    """

    choose: Callable[[Key], Tree]
    coordinates: Coordinates
    expand: Expand


def random_mask(ratio: float) -> Subspace:
    """Subspace of k = ceil(ratio d) random coordinates of each array.

    Each client chooses the coordinates anew in each round.

    Args:
        ratio: share of the coordinates of each array, in (0, 1].

    Returns:
        A :class:`Subspace` whose choices are a seed.

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
    """Subspace of updates A B of low rank for each array, with A random and B trained.

    An array with two axes or more is treated as a matrix: its first axis gives the n rows, the
    other axes the columns.  A is ``[n, rank]`` with independent entries N(0, 1 / n).  Each client
    draws A anew in each round.  A^T A is then close to the identity, so that a step of SGD on B is
    close to the projection of a step on the array.

    An array of one axis, or of at most ``rank`` rows, is trained whole.

    Args:
        rank: rank of the updates, at least 1.

    Returns:
        A :class:`Subspace` whose choices are a seed.

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
    """Subspace of the coordinates that a mask selects, the same for all clients and rounds.

    Args:
        mask: tree like the parameters with concrete arrays of bool, True where a coordinate is
            trained.

    Returns:
        A :class:`Subspace` whose choices cost nothing.

    Raises:
        TypeError: a leaf of ``mask`` is not bool.
        ValueError: ``mask`` does not fit the parameters (when used).

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
            raise TypeError(f"mask must be of bool, got {leaf.dtype}; cast it with astype(bool)")
    treedef = jax.tree.structure(mask)

    def places(params: TreeLike) -> list[np.ndarray]:
        leaves, shape = jax.tree.flatten(params)
        if shape != treedef or any(m.shape != x.shape for m, x in zip(masks, leaves, strict=True)):
            raise ValueError(
                "mask must be a tree like the parameters, with arrays of the same shapes"
            )
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
    """Train the update in a subspace and send its coordinates, without any loss on the wire.

    w is the broadcast model.  ``local`` trains z, from zero, on the loss of w + expand(z).  The
    client thus moves only along directions that it can describe in few numbers; a codec would
    discard the other directions after training.

    The message is ``{"update": expand(z), "coordinates": z, "choice": choice}``.  Use it with
    :func:`fjx.aggregators.structured_mean`, which bills the coordinates and the choice.

    Guarantees:
        - The update lies in the subspace, exactly.
        - With all coordinates in a mask it is ``local(loss_fn)``, to rounding.

    Args:
        loss_fn: loss, as for :func:`fjx.clients.local_sgd`.
        local: function that makes a stateless local training from a loss, for example ``lambda
            loss: clients.local_sgd(loss, optax.sgd(0.1), epochs=1, batch_size=20)``; its message
            must be ``after - before``.
        subspace: subspace of the updates, from :func:`random_mask`, :func:`random_low_rank` or
            :func:`fixed_mask`.

    Returns:
        A :class:`fjx.ClientUpdate`.

    Raises:
        TypeError: the model has mutable state (when traced).
        ValueError: ``local`` has a state, or a mask does not fit (when traced).

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import aggregators, clients
        >>> def loss_fn(w, batch, key):
        ...     return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
        >>> subspace = clients.random_mask(0.25)
        >>> client = clients.structured(
        ...     loss_fn, lambda loss: clients.local_sgd(loss, optax.sgd(0.1), steps=3, batch_size=2),
        ...     subspace=subspace)
        >>> algorithm = fjx.compose(
        ...     client=client, aggregator=aggregators.structured_mean(subspace.expand))
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
            raise TypeError("structured trains parameters only, not a fjx.Stateful model")
        key_choice, key_train = (jax.random.fold_in(key, i) for i in range(2))
        choice = subspace.choose(key_choice)

        def evaluate(z: Tree, batch: Tree, mask: Array, key: Key) -> tuple[Array, Metrics, Tree]:
            model = _tree.add(broadcast, subspace.expand(choice, z, broadcast))
            return loss.evaluate(model, batch, mask, key)

        start = _tree.zeros_like(subspace.coordinates(broadcast))
        client = local(Loss(evaluate))
        if jax.tree.leaves(client.init(start)):
            raise ValueError("local must be a client without state, such as clients.local_sgd")
        z, _, metrics = client.update(key_train, start, client.init(start), examples, turn)
        moved = subspace.expand(choice, z, broadcast)
        return {"update": moved, "coordinates": z, "choice": choice}, state, metrics

    def message(params: Tree) -> TreeLike:
        return {
            "update": _tree.like(params),
            "coordinates": subspace.coordinates(params),
            "choice": jax.eval_shape(
                lambda: subspace.choose(jax.random.key(0, impl="threefry2x32"))
            ),
        }

    return ClientUpdate(lambda params: (), update, message)


def _of_leaves(like: Any, expand: Any) -> Subspace:
    """Subspace that treats each array by itself; its choice is a seed."""

    def choose(key: Key) -> Seed:
        return Seed.of(key)

    def coordinates(params: TreeLike) -> TreeLike:
        return tuple(like(leaf) for leaf in _floats(params))

    def expand_tree(choice: Seed, coordinates: Tree, params: TreeLike) -> Tree:
        key = choice.key
        parts = [
            expand(jax.random.fold_in(key, i), z, leaf)
            for i, (z, leaf) in enumerate(zip(coordinates, _floats(params), strict=True))
        ]
        return _with_zeros(parts, params)

    return Subspace(choose, coordinates, expand_tree)


def _floats(params: TreeLike) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(params) if _tree.is_float(leaf)]


def _with_zeros(parts: list[Array], params: TreeLike) -> Tree:
    """Tree like the parameters that holds ``parts``, and zeros in place of integers."""
    leaves, treedef = jax.tree.flatten(params)
    floating = iter(parts)
    return treedef.unflatten(
        [
            next(floating) if _tree.is_float(leaf) else jnp.zeros(leaf.shape, leaf.dtype)
            for leaf in leaves
        ]
    )
