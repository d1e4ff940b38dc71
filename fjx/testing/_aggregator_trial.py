"""An aggregator on trial: what it makes of a cohort in several scenarios."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import SUM, Aggregator, Array, Public, Template, Tree, TreeLike
from fjx.privacy import DistributedMechanism
from fjx.testing import _laws
from fjx.testing._laws import attempt

WEIGHTS = np.array([3.0, 1.0, 0.0, 2.5, 1.0, 0.0, 0.0], np.float32)
CLIENTS, SLOTS, UNCOUNTED = 5, 7, 2
"""Five clients, of whom the third does not count, and two slots of padding."""


BASE = "five clients"
ORDER = "five clients in other slots"
OTHER = "five clients, one of them with another message"
NOBODY = "five clients of weight zero"

RUNS = (
    "encode, contribute and finish run inside jax.jit and jax.vmap: use jax.numpy, no Python branches "
    "on values, and no store outside the state"
)


def stacked(tree: Tree) -> Tree:
    return jax.tree.map(np.asarray, tree)


class Trial:
    """An aggregator, and what it makes of a cohort in several scenarios.

    One program is that of all clients, another one that of the server; payloads go from one to the
    other as bytes.
    """

    def __init__(
        self, aggregator: Aggregator, like: TreeLike, messages: Tree | None, result: TreeLike | None
    ) -> None:
        self.aggregator, self.like = aggregator, like
        self.result = _laws.cast(like, jnp.float32) if result is None else _laws.template(result)
        drawn = [_laws.normal(like, seed) for seed in range(CLIENTS)]
        self.drawn = _laws.stack(drawn) if messages is None else stacked(messages)

    @functools.cached_property
    def state(self) -> Tree:
        with attempt(
            "the template of a message", "init(message_like) needs shapes and dtypes only"
        ):
            return self.aggregator.init(self.like)

    def public(self, state: Tree, rank: Array | None) -> Public:
        """A round in which five clients take part."""
        template = Template.of(self.like)
        return Public(
            state, jax.random.key(3), rank, jnp.int32(CLIENTS), jnp.int32(0), template, rank
        )

    @functools.cached_property
    def scenarios(self) -> dict[str, tuple[Tree, np.ndarray, np.ndarray]]:
        """By name: the messages ``[7, ...]``, the weights and the ranks of a cohort."""
        pad = SLOTS - CLIENTS
        counted = np.arange(SLOTS) != UNCOUNTED

        def slots(x: np.ndarray) -> np.ndarray:
            x = np.concatenate([x, np.zeros((pad, *x.shape[1:]), x.dtype)])
            return np.where(counted.reshape(-1, *[1] * (x.ndim - 1)), x, np.zeros_like(x))

        base, ranks = jax.tree.map(slots, self.drawn), np.arange(SLOTS, dtype=np.int32)

        def change(client: int, function: Any) -> Tree:
            """The cohort with another message of one client, of floats that are as many and as large."""
            own = np.arange(SLOTS) == client

            def leaf(x: np.ndarray) -> np.ndarray:
                where = own.reshape(-1, *[1] * (x.ndim - 1))
                return np.where(where, function(x), x).astype(x.dtype)

            return jax.tree.map(leaf, base)

        order = np.array([5, 3, 0, 4, 2, 6, 1])
        return {
            BASE: (base, WEIGHTS, ranks),
            ORDER: (jax.tree.map(lambda x: x[order], base), WEIGHTS[order], ranks[order]),
            OTHER: (change(0, lambda x: x[[1]]), WEIGHTS, ranks),
            NOBODY: (jax.tree.map(np.zeros_like, base), np.zeros_like(WEIGHTS), ranks),
        }

    @functools.cached_property
    def payloads(self) -> dict[str, Tree]:
        """What the clients of each scenario send, ``[7, ...]``."""
        aggregator, state = self.aggregator, self.state
        if aggregator.encode is None:
            return {given: messages for given, (messages, _, _) in self.scenarios.items()}

        def one(rank: Array, message: Tree) -> Tree:
            key = jax.random.fold_in(jax.random.key(1), rank)
            return aggregator.encode(key, message, self.public(state, rank))  # type: ignore[misc]

        messages, _, ranks = zip(*self.scenarios.values(), strict=True)
        with attempt("messages under jax.vmap", RUNS):
            program = _laws.jit(jax.vmap(jax.vmap(one)))
            found = _laws.numpy(program(np.stack(ranks), _laws.stack(messages)))
        return {given: _laws.row(found, i) for i, given in enumerate(self.scenarios)}

    @functools.cached_property
    def server(self) -> Any:
        """The server's program: payloads, weights, ranks and which slots hold clients, to the result."""
        aggregator, state = self.aggregator, self.state

        def run(payloads: Tree, weights: Array, ranks: Array, here: Array) -> Any:
            def share(payload: Tree, weight: Array, rank: Array) -> Tree:
                return aggregator.contribute(payload, weight, self.public(state, rank))

            shares = jax.vmap(share)(payloads, weights, ranks)
            if aggregator.combine is SUM:
                # What is absent adds nothing; the halves are added as two devices would.
                def total(x: Array) -> Array:
                    x = jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros_like(x))
                    return jnp.sum(x[:4], 0, dtype=x.dtype) + jnp.sum(x[4:], 0, dtype=x.dtype)

                shares = jax.tree.map(total, shares)
            return aggregator.finish(jax.random.key(2), shares, self.public(state, None))

        return _laws.jit(run)

    def aggregate(
        self, given: str, *, payloads: Tree = None, here: np.ndarray | None = None
    ) -> Any:
        """The aggregate message, the next state and the metrics of one scenario."""
        _, weights, ranks = self.scenarios[given]
        payloads = self.payloads[given] if payloads is None else payloads
        here = ranks < CLIENTS if here is None else here
        with attempt(given, RUNS):
            return _laws.numpy(self.server(payloads, weights, ranks, here))

    @functools.cached_property
    def base(self) -> Any:
        return self.aggregate(BASE)

    @property
    def clients_add_noise(self) -> bool:
        """Whether clients add noise of their own, which one of weight zero adds as well."""
        return any(isinstance(m, DistributedMechanism) for m in self.aggregator.mechanisms)
