"""Federated data, packed: every client's examples one after another, and where each begins."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Cohort, Examples, Tree

_MOST_ROWS = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FederatedData:
    """The examples of all clients, packed without padding.

    Attributes:
        arrays: pytree of ``[total, ...]``, client after client.
        offsets: ``i32[num_clients + 1]``; client i owns rows ``offsets[i]`` to ``offsets[i + 1]``.
        weights: ``f32[num_clients]``, what a client counts for; its number of examples by default.
        test: pytree of ``[n, ...]``, central held-out examples, or None.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import data
        >>> dataset = data.from_clients([{"x": jnp.zeros((3, 2))}, {"x": jnp.ones((1, 2))}])
        >>> dataset.num_clients, dataset.sizes.tolist(), dataset.client(1)["x"].tolist()
        (2, [3, 1], [[1.0, 1.0]])
    """

    arrays: Tree
    offsets: Array
    weights: Array
    test: Tree | None = None

    @property
    def num_clients(self) -> int:
        """The number of clients."""
        return int(self.offsets.shape[0]) - 1

    @property
    def sizes(self) -> Array:
        """``i32[num_clients]``, examples of each client."""
        return jnp.diff(jnp.asarray(self.offsets))

    def examples(self, ids: Array) -> Examples:
        """The windows of the clients ``ids`` (``i32[m]``); ids out of range have no examples."""
        ids = jnp.asarray(ids, jnp.int32)
        known = (ids >= 0) & (ids < self.num_clients)
        at = jnp.where(known, ids, 0)
        offsets = jnp.asarray(self.offsets)
        start, end = (offsets.at[i].get(mode="clip") for i in (at, at + 1))
        return Examples(self.arrays, jnp.where(known, start, 0), jnp.where(known, end - start, 0))

    def client(self, client_id: int) -> Tree:
        """The examples of one client: a pytree of ``[size, ...]``."""
        _validate.integer("client_id", client_id, at_least=0, at_most=self.num_clients - 1)
        start, end = (int(self.offsets[client_id + i]) for i in (0, 1))
        return jax.tree.map(lambda x: x[start:end], self.arrays)

    def cohort(self, ids: Array, taking_part: Array | None = None) -> Cohort:
        """The cohort of a round.

        Args:
            ids: ``i32[m]``; ``num_clients`` marks a slot of padding.
            taking_part: ``bool[m]``, False for a client that drops out; all take part by default.

        Returns:
            A :class:`fjx.Cohort`.  A client without examples has weight 0.

        Raises:
            TypeError: ids are not integers.
            ValueError: ids are concrete, and one is out of range or given twice.  Traced ids cannot
                raise: such a slot becomes padding and is counted in ``rejected``.
        """
        ids = jnp.asarray(ids)
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise TypeError(
                f"ids must be integers, got {ids.dtype}; of a mask they are jnp.flatnonzero(mask)"
            )
        ids = ids.astype(jnp.int32)
        population = self.num_clients
        outside = (ids < 0) | (ids > population)
        order = jnp.argsort(ids, stable=True)
        ranked = ids[order]
        follows = jnp.concatenate([jnp.zeros(1, bool), ranked[1:] == ranked[:-1]])[: ids.shape[0]]
        repeated = jnp.zeros_like(follows).at[order].set(follows) & (ids < population)
        impossible = outside | repeated
        if _validate.concrete(impossible) and bool(impossible.any()):
            raise ValueError(
                f"ids must be distinct and in [0, {population}] ({population} marks padding); "
                f"got {np.asarray(ids)[np.asarray(impossible)].tolist()} out of range or repeated"
            )
        ids = jnp.where(impossible, population, ids)
        examples = self.examples(ids)
        weights = jnp.asarray(self.weights).at[ids].get(mode="fill", fill_value=0)
        present = (examples.size > 0) & (True if taking_part is None else taking_part)
        return Cohort(
            ids=ids,
            weights=jnp.where(present, weights, 0.0),
            examples=examples,
            population=jnp.int32(population),
            rejected=jnp.sum(impossible, dtype=jnp.int32),
        )

    def with_weights(self, weights: Array | np.ndarray) -> "FederatedData":
        """The same data with other weights, ``f32[num_clients]``, finite and not negative."""
        return dataclasses.replace(self, weights=_weights(weights, self.num_clients))


def from_clients(
    clients: Sequence[Tree], *, weights: Any = None, test: Tree | None = None
) -> FederatedData:
    """Packs the examples of each client into one dataset.

    Guarantees: ``from_clients(clients).client(i)`` equals ``clients[i]``; 64-bit numbers become
        32-bit, other dtypes stay.

    Args:
        clients: for each client a pytree of arrays whose leading axis is its examples, possibly
            zero; all of one structure, with equal dtypes and trailing shapes.
        weights: ``f32[num_clients]``, what each client counts for; numbers of examples by default.
        test: central held-out examples.

    Returns:
        A :class:`FederatedData`.

    Raises:
        ValueError: no clients; trees that differ in structure, dtypes or trailing shapes; leaves of
            one client with unequal leading axes; more than 2^31 - 1 examples.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> clients = [{"x": np.ones((n, 2)), "y": np.arange(n)} for n in (3, 0, 2)]
        >>> dataset = data.from_clients(clients)
        >>> dataset.sizes.tolist(), dataset.arrays["y"].tolist()
        ([3, 0, 2], [0, 1, 2, 0, 1])
    """
    if not clients:
        raise ValueError("from_clients needs at least one client, got none")
    hosted = [jax.tree.map(np.asarray, client) for client in clients]
    first = jax.tree_util.tree_flatten_with_path(hosted[0])[0]
    structure = jax.tree.structure(hosted[0])
    if not first:
        raise ValueError("from_clients needs arrays, got a client that is an empty pytree")
    sizes = np.zeros(len(hosted), np.int64)
    for i, client in enumerate(hosted):
        if jax.tree.structure(client) != structure:
            raise ValueError(
                f"all clients must have one structure: client {i} has "
                f"{jax.tree.structure(client)}, client 0 has {structure}"
            )
        leaves = jax.tree.leaves(client)
        for (path, want), leaf in zip(first, leaves, strict=True):
            if leaf.ndim == 0 or leaf.shape[1:] != want.shape[1:] or leaf.dtype != want.dtype:
                raise ValueError(
                    f"all clients must agree in dtype and trailing shape: at "
                    f"{jax.tree_util.keystr(path) or 'the only leaf'} client {i} has "
                    f"{leaf.dtype}{list(leaf.shape)}, client 0 has {want.dtype}{list(want.shape)}"
                )
        lengths = {leaf.shape[0] for leaf in leaves}
        if len(lengths) != 1:
            raise ValueError(f"client {i} has leaves of unequal leading axes: {sorted(lengths)}")
        sizes[i] = lengths.pop()
    packed = jax.tree.map(lambda *parts: np.concatenate(parts), *hosted)
    return pack(packed, sizes, weights=weights, test=test)


def pack(
    arrays: Tree, sizes: np.ndarray, *, weights: Any = None, test: Tree | None = None
) -> FederatedData:
    """A dataset from rows already in order of their client, and how many each client has."""
    total = int(np.sum(sizes))
    if total > _MOST_ROWS:
        raise ValueError(f"a dataset holds at most 2^31 - 1 examples, got {total}")
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return FederatedData(
        arrays=jax.tree.map(to_device, arrays),
        offsets=jnp.asarray(offsets),
        weights=_weights(np.asarray(sizes, np.float32) if weights is None else weights, len(sizes)),
        test=jax.tree.map(to_device, test),
    )


def to_device(x: Any) -> Array:
    """An array as JAX keeps it without x64: 64-bit numbers become 32-bit, without a warning."""
    x = np.asarray(x)
    narrow = {"float64": np.float32, "int64": np.int32, "uint64": np.uint32}
    return jnp.asarray(x.astype(narrow.get(x.dtype.name, x.dtype)))


def _weights(weights: Any, num_clients: int) -> Array:
    if _validate.concrete(weights):
        weights = np.asarray(weights, np.float32)
        if weights.shape != (num_clients,):
            raise ValueError(
                f"weights must be one number for each of {num_clients} clients, "
                f"got shape {list(weights.shape)}"
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError("weights must be finite and not negative; drop clients by weight 0")
    return jnp.asarray(weights, jnp.float32)
