"""Federated data in packed form: one client's examples after another's, and the offsets between them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Cohort, Examples, Tree
from fjx.data._collect import buffers, collect
from fjx.data._columns import arrays_of

_MOST_ROWS = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FederatedData:
    """Examples of all clients, packed without padding.

    The arrays are on the device, or on the host if they are NumPy arrays or memory maps.  For data
    on the host :func:`fjx.simulate` copies the examples of each cohort to the device while the
    previous round computes.  See :func:`on_host`, :func:`from_packed` and :func:`open`.

    Attributes:
        arrays: pytree of ``[total, ...]``, client after client.
        offsets: ``i32[num_clients + 1]``; client i owns rows ``offsets[i]`` to ``offsets[i + 1]``.  On
            the host they are ``i64``, so that there can be more than 2^31 examples.
        weights: ``f32[num_clients]``, weight of each client; by default its number of examples.
        test: pytree of ``[n, ...]``, central test examples, or None.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import data
        >>> dataset = data.from_clients([{"x": jnp.zeros((3, 2))}, {"x": jnp.ones((1, 2))}])
        >>> dataset.num_clients, dataset.sizes.tolist(), dataset.client(1)["x"].tolist()
        (2, [3, 1], [[1.0, 1.0]])
    """

    arrays: Tree
    offsets: Array | np.ndarray
    weights: Array | np.ndarray
    test: Tree | None = None

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return int(self.offsets.shape[0]) - 1

    @property
    def hosted(self) -> bool:
        """True if the examples are on the host, as NumPy arrays or memory maps."""
        return any(isinstance(x, np.ndarray) for x in jax.tree.leaves(self.arrays))

    @property
    def sizes(self) -> Array:
        """``i32[num_clients]``, number of examples of each client."""
        if self.hosted:
            return jnp.asarray(np.diff(self.offsets).astype(np.int32))
        return jnp.diff(jnp.asarray(self.offsets))

    def examples(self, ids: Array) -> Examples:
        """Windows on the examples of the clients ``ids`` (``i32[m]``).

        An id out of range has no examples.  If the data are on the host, the clients' examples are
        copied and the windows refer to the copy.

        Raises:
            ValueError: ``ids`` are traced and the data are on the host.
        """
        if self.hosted:
            return self._copied(ids)
        ids = jnp.asarray(ids, jnp.int32)
        known = (ids >= 0) & (ids < self.num_clients)
        at = jnp.where(known, ids, 0)
        offsets = jnp.asarray(self.offsets)
        start, end = (offsets.at[i].get(mode="clip") for i in (at, at + 1))
        return Examples(self.arrays, jnp.where(known, start, 0), jnp.where(known, end - start, 0))

    def windows(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and sizes of the examples of ``ids``, computed on the host, ``i64[m]`` each."""
        known = (ids >= 0) & (ids < self.num_clients)
        at = np.where(known, ids, 0)
        offsets = np.asarray(self.offsets)
        start, end = offsets[at].astype(np.int64), offsets[at + 1].astype(np.int64)
        return np.where(known, start, 0), np.where(known, end - start, 0)

    def _copied(self, ids: Array) -> Examples:
        """Windows on a copy of the clients' examples, for data on the host."""
        if not _validate.concrete(ids):
            raise ValueError(
                "a traced round cannot read examples on the host; use fjx.simulate, which copies "
                "each cohort's to the device, or data.on_device(dataset)"
            )
        start, size = self.windows(np.asarray(ids))
        arrays = buffers(self.arrays, int(size.sum()))
        offset = collect(self.arrays, start, size, arrays)
        windows = jax.tree.map(jnp.asarray, (arrays, offset, size.astype(np.int32)))
        return Examples(*windows)

    def _weights_of(self, ids: Array) -> Array:
        """Weights of the clients ``ids``; an id out of range has weight 0."""
        if self.hosted:  # only the cohort's weights are moved to the device
            last = self.num_clients - 1
            weights = jnp.asarray(self.weights[np.minimum(ids, last)])
            return jnp.where(ids <= last, weights, 0.0)
        return jnp.asarray(self.weights).at[ids].get(mode="fill", fill_value=0)

    def client(self, client_id: int) -> Tree:
        """Examples of one client: a pytree of NumPy views ``[size, ...]`` on the host."""
        _validate.integer("client_id", client_id, at_least=0, at_most=self.num_clients - 1)
        # Slices of JAX arrays would compile a program for each size.
        start, end = np.asarray(self.offsets)[[client_id, client_id + 1]].tolist()
        return jax.tree.map(lambda x: np.asarray(x)[start:end], self.arrays)

    def cohort(self, ids: Any, taking_part: Array | None = None) -> Cohort:
        """Cohort of a round.

        A client without examples has weight 0, whatever its weight in the dataset.  A client that
        drops out has weight 0 and keeps its examples.

        Args:
            ids: ``i32[m]``; ``num_clients`` marks a padding slot.
            taking_part: ``bool[m]``, False for a client that drops out; by default all take part.

        Returns:
            A :class:`fjx.Cohort`.

        Raises:
            TypeError: ids are not integers, or taking_part is not boolean.
            ValueError: ids are concrete, and one is out of range or repeated; a shape is wrong; or no
                client of the dataset has an example.
                Traced ids cannot raise: such a slot becomes padding and is counted in ``rejected``.
        """
        require_examples(self)
        if eager := _validate.concrete(ids):
            ids = np.asarray(ids)  # on the host, where ids of 64 bits do not wrap
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise TypeError(
                f"ids must be integers, got {ids.dtype}; for a mask use jnp.flatnonzero(mask)"
            )
        if ids.ndim != 1:
            raise ValueError(f"ids must be a vector, got shape {list(ids.shape)}")
        if not eager:
            ids = ids.astype(jnp.int32)
        population = self.num_clients
        known: Any = np.int32(population)  # a number while a round is traced, unlike jnp.int32
        impossible = impossible_ids(np if eager else jnp, ids, population)
        if eager and impossible.any():
            raise ValueError(
                f"ids must be distinct and in [0, {population}] ({population} marks padding); "
                f"got {ids[impossible].tolist()} out of range or repeated"
            )
        ids = jnp.where(impossible, population, jnp.asarray(ids, jnp.int32))
        examples = self.examples(ids)
        weights = self._weights_of(ids)
        present = ids < population
        if taking_part is not None:
            taking_part = jnp.asarray(taking_part)
            if taking_part.dtype != bool:
                raise TypeError(f"taking_part must be boolean, got {taking_part.dtype}")
            if taking_part.shape != ids.shape:
                raise ValueError(
                    f"taking_part must have one entry for each of {ids.shape[0]} ids, "
                    f"got shape {list(taking_part.shape)}"
                )
            present &= taking_part
        return Cohort(
            ids=ids,
            weights=jnp.where(present & (examples.size > 0), weights, 0.0),
            examples=examples,
            population=known,
            rejected=jnp.sum(impossible, dtype=jnp.int32),
            present=present,
        )

    def with_weights(self, weights: Array | np.ndarray) -> "FederatedData":
        """The same data with other weights, ``f32[num_clients]``, finite and not negative."""
        return dataclasses.replace(self, weights=_weights(weights, self.num_clients, self.hosted))


def require_examples(dataset: FederatedData) -> None:
    """Raise ValueError if no client has an example.

    Only the shape of the arrays is read, so that data may be traced.
    """
    if not jax.tree.leaves(dataset.arrays)[0].shape[0]:
        raise ValueError(
            f"none of the {dataset.num_clients} clients of the dataset has an example, so there is "
            "nothing to train on; look at the filter or the split that made it"
        )


def impossible_ids(xp: Any, ids: Any, population: int) -> Any:
    """Mask of the slots whose id is out of range or repeats an earlier one.

    ``xp`` is numpy or jax.numpy.  Equal ids are neighbours after sorting, so the cost is O(m log m) for
    any population.
    """
    order = xp.argsort(ids, stable=True)
    ranked = ids[order]
    follows = xp.concatenate([xp.zeros(1, bool), ranked[1:] == ranked[:-1]])[: ids.shape[0]]
    repeats = follows[xp.argsort(order)]  # back in the order given
    return (ids < 0) | (ids > population) | (repeats & (ids < population))


def from_clients(
    clients: Sequence[Tree],
    *,
    weights: Any = None,
    test: Tree | None = None,
    hosted: bool = False,
) -> FederatedData:
    """Federated dataset from one pytree of examples per client.

    Guarantees:
        - ``from_clients(clients).client(i)`` equals ``clients[i]``.
        - Without x64, float64 becomes float32 and int64 becomes int32 without a warning.  Other dtypes
          stay.

    Args:
        clients: one pytree of arrays per client.  The leading axis of an array is the client's examples
            and may be zero.  All clients have one structure, equal dtypes and equal trailing shapes.
            A table of pandas, Polars, Arrow or Hugging Face is read as a dict of its columns.
        weights: ``f32[num_clients]``, weight of each client; by default its number of examples.
        test: central test examples.
        hosted: True to keep the dataset on the host, for data larger than the device; see
            :func:`fjx.data.on_host`.

    Returns:
        A :class:`FederatedData`.

    Raises:
        TypeError: a leaf holds texts, dates or objects.
        ValueError: there are no clients; a column of a table has missing values; the trees differ in
            structure, dtypes or trailing shapes; the leaves of one client differ in their leading axes;
            integers do not fit 32 bits; or there are more than 2^31 - 1 examples on the device.

    Examples:
        >>> import numpy as np
        >>> from fjx import data
        >>> clients = [{"x": np.ones((n, 2)), "y": np.arange(n)} for n in (3, 0, 2)]
        >>> dataset = data.from_clients(clients)
        >>> dataset.sizes.tolist(), dataset.arrays["y"].tolist()
        ([3, 0, 2], [0, 1, 2, 0, 1])
    """
    trees = [arrays_of(client, f"client {i}") for i, client in enumerate(clients)]
    if not trees:
        raise ValueError("from_clients needs at least one client, got none")
    first = jax.tree_util.tree_flatten_with_path(trees[0])[0]
    structure = jax.tree.structure(trees[0])
    if not first:
        raise ValueError("from_clients needs arrays, got an empty pytree as client 0")
    sizes = np.zeros(len(trees), np.int64)
    for i, client in enumerate(trees):
        if jax.tree.structure(client) != structure:
            raise ValueError(
                f"all clients must have one structure: client {i} has "
                f"{jax.tree.structure(client)}, client 0 has {structure}"
            )
        leaves = jax.tree.leaves(client)
        for (path, want), leaf in zip(first, leaves, strict=True):
            where = jax.tree_util.keystr(path) or "the only leaf"
            if leaf.ndim == 0:
                raise ValueError(
                    f"leaves need a leading axis of examples: at {where} client {i} has a scalar; "
                    "give arrays, not lists (a list is a pytree of scalars)"
                )
            if leaf.shape[1:] != want.shape[1:] or leaf.dtype != want.dtype:
                raise ValueError(
                    f"all clients must agree in dtype and trailing shape: at {where} client {i} has "
                    f"{leaf.dtype}{list(leaf.shape)}, client 0 has {want.dtype}{list(want.shape)}"
                )
        lengths = {leaf.shape[0] for leaf in leaves}
        if len(lengths) != 1:
            raise ValueError(f"client {i} has leaves of unequal leading axes: {sorted(lengths)}")
        sizes[i] = lengths.pop()
    packed = jax.tree.map(lambda *parts: np.concatenate(parts), *trees)
    return pack(packed, sizes, weights=weights, test=test, hosted=hosted)


def pack(
    arrays: Tree,
    sizes: np.ndarray,
    *,
    weights: Any = None,
    test: Tree | None = None,
    hosted: bool = False,
) -> FederatedData:
    """Dataset from rows that are in the order of their clients, and each client's number of rows."""
    total = int(np.sum(sizes))
    if total > _MOST_ROWS and not hosted:
        raise ValueError(
            f"a dataset on the device holds at most 2^31 - 1 examples, got {total}; "
            "keep it on the host with hosted=True, or data.from_packed"
        )
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    weights = np.asarray(sizes, np.float32) if weights is None else weights

    def placed(name: str, tree: Tree) -> Tree:
        def place(path: Any, x: Any) -> Any:
            x = narrow(x, name + jax.tree_util.keystr(path))
            return x if hosted else jnp.asarray(x)

        return jax.tree_util.tree_map_with_path(place, tree)

    return FederatedData(
        arrays=placed("examples", arrays),
        offsets=offsets if hosted else jnp.asarray(offsets.astype(np.int32)),
        weights=_weights(weights, len(sizes), hosted),
        test=placed("test", arrays_of(test, "test")),
    )


def kept(dtype: np.dtype) -> np.dtype:
    """Dtype in which JAX stores numbers of a dtype; with x64 it is that dtype itself."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def narrow(x: Any, name: str = "examples") -> np.ndarray:
    """NumPy array of the dtype in which JAX stores ``x``; copied only if the dtype changes.

    Without x64, 64-bit numbers become 32-bit without a warning.
    """
    x = x if isinstance(x, np.ndarray) else np.asarray(x)
    if x.dtype.kind in "OSUMm":
        raise TypeError(f"{name} must be numbers, got {x.dtype}; encode texts and dates first")
    native = x.dtype.newbyteorder("=")  # a memory map from another machine may have another order
    if kept(native) == native:
        return x.astype(native, copy=False)
    with np.errstate(over="ignore"):
        y = x.astype(kept(native))
    if x.dtype.kind == "f" and not np.array_equal(np.isinf(x), np.isinf(y)):
        raise ValueError(
            f"{name}: floats must fit float32, got up to {np.abs(x).max()}; scale them down"
        )
    if x.dtype.kind in "iu" and not np.array_equal(x, y):
        raise ValueError(
            f"{name}: integers must fit {y.dtype}, got {x.min()} to {x.max()}; renumber them, "
            "for example by np.unique(x, return_inverse=True)"
        )
    return y


def _weights(weights: Any, num_clients: int, hosted: bool) -> Any:
    """Weights as float32 after a check of their shape and range."""
    if _validate.concrete(weights):
        weights = np.asarray(weights, np.float32)
        if weights.shape != (num_clients,):
            raise ValueError(
                f"weights must be one number for each of {num_clients} clients, "
                f"got shape {list(weights.shape)}"
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ValueError(
                "weights must be finite and not negative; give weight 0 to clients to leave out"
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(weights.sum()):
                raise ValueError("weights must have a finite sum in float32; scale them down")
    return weights if hosted else jnp.asarray(weights, jnp.float32)
