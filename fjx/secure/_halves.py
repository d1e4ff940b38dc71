"""A round cut in two where its executor stands: the clients before it, the server behind it."""

import functools
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Algorithm, Cohort, Executor, Key, Steps, Tree, TreeLike
from fjx._kernels.inner import right_options
from fjx.simulation import vectorized


class Halves(NamedTuple):
    """A round as two compiled functions with the sum over clients between them.

    Attributes:
        clients: ``(key, state, rows, cohort) -> (each, kept)``: the trees that are summed, one row for
            each client, and what the clients keep.
        server: ``(key, state, rows, cohort, total, kept) -> (state, rows, metrics)``.
    """

    clients: Any
    server: Any


def halves(algorithm: Algorithm, executor: Executor | None = None) -> Halves:
    """The two halves of a round of an algorithm, each compiled by itself.

    :func:`run` plays both in one process.  Take the halves if clients and server are processes of your
    own.

    Args:
        algorithm: algorithm whose round runs its clients once.
        executor: executor of the clients' half; :func:`fjx.simulation.vectorized` by default.

    Returns:
        The :class:`Halves`.

    Raises:
        ValueError: the round runs its clients twice (from the first call of a half).

    Examples:
        >>> import jax, jax.numpy as jnp, fjx
        >>> from fjx import aggregators, secure
        >>> dataset = fjx.data.from_clients([jnp.array([x]) for x in (1.0, 2.0, 6.0)])
        >>> algorithm = fjx.algorithms.fedavg(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2), client_lr=0.5, batch_size=1,
        ...     aggregator=aggregators.integer_mean(0.5, bits=8, clients=3))
        >>> w, cohort = jnp.array(0.0), dataset.cohort(jnp.arange(3))
        >>> rows = jax.tree.map(lambda x: jnp.stack([x] * 3), algorithm.init_client(w))
        >>> inputs = jax.random.key(0), algorithm.init(w), rows, cohort
        >>> each, _ = secure.halves(algorithm).clients(*inputs)
        >>> layout = secure.Layout.of_round(secure.halves(algorithm), *inputs)
        >>> layout.vectors(each, bits=8).tolist()
        [[2, 1], [4, 1], [12, 1]]
    """
    return _halves(algorithm, cast(Hashable, executor))


@functools.lru_cache(maxsize=8)  # a second run of the same algorithm compiles nothing
def _halves(algorithm: Algorithm, executor: Any) -> Halves:
    inner = vectorized() if executor is None else executor

    def clients(key: Key, state: Tree, rows: Tree, cohort: Cohort) -> tuple[Tree, Tree]:
        found = []

        def execute(client: Any, shared: Tree, slots: Tree, cost: Any) -> tuple[Tree, Tree]:
            # A client's part of the sum is stacked beside what it keeps.  So nothing is summed here.
            apart = Steps.of(client).around(lambda *inputs: inputs, lambda _, __, out: ((), out))
            _, (each, kept) = inner(apart, shared, slots, cost)
            found.append((each, kept))
            return jax.tree.map(lambda x: x[0], each), kept

        algorithm.round(key, state, rows, cohort, executor=execute)
        if len(found) != 1:
            raise ValueError(
                f"a secure sum needs an algorithm whose round runs its clients once, got {len(found)} "
                "times"
            )
        return found[0]

    def server(
        key: Key, state: Tree, rows: Tree, cohort: Cohort, total: Tree, kept: Tree
    ) -> tuple[Tree, Tree, Tree]:
        return algorithm.round(key, state, rows, cohort, executor=lambda *_: (total, kept))

    return Halves(
        jax.jit(clients, compiler_options=right_options()),
        jax.jit(server, compiler_options=right_options()),
    )


def needed(
    parts: Halves, key: Key, state: Tree, rows: Tree, cohort: Cohort
) -> tuple[TreeLike, tuple[bool, ...], frozenset[str]]:
    """The total's shapes, the leaves on which the next state depends, and the metrics that follow.

    Nothing else is sent.  A metric that needs more, such as the mean loss, is not known to the server.
    """
    each, kept = jax.eval_shape(parts.clients, key, state, rows, cohort)
    total = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), each)
    first = len(jax.tree.leaves((key, state, rows, cohort)))
    places = range(first, first + len(jax.tree.leaves(total)))
    server = getattr(
        parts.server, "__wrapped__", parts.server
    )  # a program within another has no options
    closed, out = jax.make_jaxpr(server, return_shape=True)(key, state, rows, cohort, total, kept)
    moved, kept_rows, metrics = out
    count = len(jax.tree.leaves((moved, kept_rows)))

    def sources(outputs: range) -> set[int]:
        return _sources(closed.jaxpr, set(outputs)) & set(places)

    used = sources(range(count))
    names = [name for name in sorted(metrics) for _ in jax.tree.leaves(metrics[name])]
    known = {name for i, name in enumerate(names, start=count) if sources(range(i, i + 1)) <= used}
    return total, tuple(place in used for place in places), frozenset(known)


def _sources(jaxpr: Any, outputs: set[int]) -> set[int]:
    """The numbers of the inputs on which some outputs of a program depend."""
    live = {v for i, v in enumerate(jaxpr.outvars) if i in outputs and not _literal(v)}
    for equation in reversed(jaxpr.eqns):
        hit = {i for i, v in enumerate(equation.outvars) if v in live}
        if not hit:
            continue
        called = equation.params.get("jaxpr") if equation.primitive.name in _CALLS else None
        everything = set(range(len(equation.invars)))
        inputs = everything if called is None else _sources(called.jaxpr, hit)
        live |= {v for i, v in enumerate(equation.invars) if i in inputs and not _literal(v)}
    return {i for i, v in enumerate(jaxpr.invars) if v in live}


_CALLS = ("jit", "pjit")
"""Names of the primitive that calls a program with the same inputs and outputs."""


def _literal(variable: Any) -> bool:
    return hasattr(variable, "val")


class Layout(NamedTuple):
    """The place of the leaves that are sent in one vector of numbers.

    Attributes:
        total: shapes of the total.
        sent: for each leaf, True if it is sent.
        metrics: names of the metrics that follow from the leaves that are sent.
        reals: True if floats are sent.
    """

    total: TreeLike
    sent: tuple[bool, ...]
    metrics: frozenset[str]
    reals: bool = False

    @classmethod
    def of(
        cls, total: TreeLike, sent: tuple[bool, ...], metrics: frozenset[str], reals: bool = False
    ) -> "Layout":
        """The layout of a total.

        Raises:
            TypeError: a leaf that is sent is not of integers, nor of floats where these are allowed.
        """
        for (path, leaf), goes in zip(
            jax.tree_util.tree_leaves_with_path(total), sent, strict=True
        ):
            allowed = [jnp.integer, jnp.floating] if reals else [jnp.integer]
            if goes and not any(jnp.issubdtype(leaf.dtype, kind) for kind in allowed):
                raise TypeError(
                    "a secure sum adds integers, and the server needs the sum of "
                    f"{leaf.dtype} at {jax.tree_util.keystr(path)} of a client's contribution; take an "
                    "aggregator of integers, such as aggregators.integer_mean(...) or "
                    "aggregators.distributed(...), or a protocol of floats, secure.ckks()"
                )
        return cls(total, sent, metrics, reals)

    @classmethod
    def of_round(
        cls,
        parts: Halves,
        key: Key,
        state: Tree,
        rows: Tree,
        cohort: Cohort,
        *,
        reals: bool = False,
    ) -> "Layout":
        """The layout of a round, of whose inputs only the shapes are read.

        Only leaves on which the next state depends are sent.

        Raises:
            TypeError: a leaf that is sent is not of integers, nor of floats where these are allowed.
        """
        return cls.of(*needed(parts, key, state, rows, cohort), reals)

    @property
    def size(self) -> int:
        """The numbers that one client sends."""
        return sum(int(np.prod(like.shape)) for like in self._leaves(self.total))

    def zeros(self) -> Tree:
        """The total of nobody."""
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.total)

    def _leaves(self, tree: Tree) -> Iterator[Any]:
        return (x for x, goes in zip(jax.tree.leaves(tree), self.sent, strict=True) if goes)

    @property
    def wide(self) -> bool:
        """True if a leaf has 64 bits."""
        return any(x.dtype.itemsize > 4 for x in self._leaves(self.total))

    def vectors(self, each: Tree, bits: int) -> np.ndarray:
        """The numbers of each client, ``[m, d]``.

        Raises:
            ValueError: integers of these clients could add up to more than b bits.
        """
        rows = [np.asarray(x).reshape(len(x), -1) for x in self._leaves(each)]
        if self.reals:
            return np.concatenate([x.astype(np.float64) for x in rows], axis=1)
        for row in rows:
            width = 8 * row.dtype.itemsize
            if bits >= width or not row.size:
                continue  # the sum wraps where that of the compiled round does
            most = max(abs(int(row.min())), abs(int(row.max()))) * len(row)
            if most >= 1 << (bits - (row.dtype.kind == "i")):
                raise ValueError(
                    f"{len(row)} contributions may add up to {most}, which does not fit into "
                    f"bits={bits}; take more bits"
                )
        word = np.int64 if self.wide else np.int32
        return np.concatenate([x.astype(word) for x in rows], axis=1)

    def totals(self, unsigned: np.ndarray, signed: np.ndarray) -> Tree:
        """The total as a tree; leaves that were not sent are zeros."""
        leaves, place = [], 0
        for like, goes in zip(jax.tree.leaves(self.total), self.sent, strict=True):
            if not goes:
                leaves.append(np.zeros(like.shape, like.dtype))
                continue
            size = int(np.prod(like.shape))
            source = signed if like.dtype.kind == "i" else unsigned
            if self.reals and jnp.issubdtype(like.dtype, jnp.integer):
                source = np.rint(source)
            leaves.append(source[place : place + size].astype(like.dtype).reshape(like.shape))
            place += size
        return jax.tree.structure(self.total).unflatten(leaves)
