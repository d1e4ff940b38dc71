"""An algorithm on trial: a round that is played in many ways."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx import data, simulation
from fjx._base import Algorithm, Cohort, Executor, Key, Tree
from fjx._tree import is_float
from fjx.testing import _laws
from fjx.testing._laws import attempt


class Trial:
    """An algorithm, its compiled round, and what two rounds have made of its state and table."""

    def __init__(
        self,
        algorithm: Algorithm,
        params: Tree,
        dataset: data.FederatedData,
        by_rank: bool = False,
    ) -> None:
        self.algorithm, self.dataset, self.by_rank = algorithm, dataset, by_rank
        self.params = jax.tree.map(jnp.asarray, params)
        self.n = dataset.num_clients
        window = dataset.cohort(np.arange(self.n, dtype=np.int32)).examples
        self.sizes, self.offsets = np.asarray(window.size), np.asarray(window.offset)
        full = np.flatnonzero(self.sizes)
        if len(full) < 4:
            raise ValueError(
                f"dataset must have at least four clients with examples, got {len(full)} of {self.n}"
            )
        self.broken, self.dropped = int(full[1]), int(full[2])
        empty = np.flatnonzero(self.sizes == 0)
        self.empty = int(empty[0]) if len(empty) else None
        self.traces: list[tuple[int, ...]] = []

    # What is played.

    def cohort(
        self, ids: Any = None, dropped: int | None = None, broken: float | None = None
    ) -> Cohort:
        """A cohort, in which one client drops out, or one has no sound example."""
        ids = np.arange(self.n, dtype=np.int32) if ids is None else np.asarray(ids, np.int32)
        cohort = self.dataset.cohort(ids, None if dropped is None else ids != dropped)
        if broken is None:
            return cohort
        start = int(self.offsets[self.broken])
        end = start + int(self.sizes[self.broken])

        def spoil(x: Any) -> Any:
            x = jnp.asarray(x)
            return x.at[start:end].set(broken) if is_float(x) else x

        arrays = jax.tree.map(spoil, cohort.examples.arrays)
        return cohort._replace(examples=cohort.examples._replace(arrays=arrays))

    def without(self, client: int | None) -> np.ndarray:
        """All ids, with padding in the place of one client's."""
        ids = np.arange(self.n, dtype=np.int32)
        return np.where(ids == client, self.n, ids)

    def on_table(
        self, key: Key, state: Tree, table: Tree, cohort: Cohort, executor: Executor | None = None
    ) -> tuple[Tree, Tree, Any]:
        """A round on the table of all clients."""
        rows = simulation.gather(table, cohort.ids)
        state, rows, metrics = self.algorithm.round(key, state, rows, cohort, executor=executor)
        return state, simulation.scatter(table, cohort.ids, rows), metrics

    @functools.cached_property
    def round(self) -> Any:
        def traced(key: Key, state: Tree, table: Tree, cohort: Cohort) -> Any:
            self.traces.append(cohort.ids.shape)
            return self.on_table(key, state, table, cohort)

        return _laws.jit(traced)

    @functools.cached_property
    def fresh(self) -> tuple[Tree, Tree]:
        """The state and the table before the first round."""
        with attempt("the model", "init and init_client make the state and a row from the model"):
            state = self.algorithm.init(self.params)
            return state, simulation.make_table(self.algorithm.init_client(self.params), self.n)

    @functools.cached_property
    def before(self) -> tuple[Tree, Tree]:
        """The state and the table after two rounds of all clients."""
        state, table = self.fresh
        for t in range(2):
            with attempt(f"round {t}, of all clients", RUNS):
                ids = np.roll(np.arange(self.n), t)
                state, table, _ = self.round(jax.random.key(t), state, table, self.cohort(ids))
        return state, table

    def play(self, given: str, cohort: Cohort, seed: int = 7, fresh: bool = False) -> Any:
        """The third round, or a first one: the state, the table and the metrics."""
        state, table = self.fresh if fresh else self.before
        with attempt(given, RUNS):
            return _laws.numpy(self.round(jax.random.key(seed), state, table, cohort))

    @functools.cached_property
    def base(self) -> Any:
        """The third round, of all clients but one that drops out."""
        return self.play(BASE, self.cohort(dropped=self.dropped))

    @property
    def noisy(self) -> bool:
        """Whether noise is added though nobody came."""
        aggregator = self.algorithm.aggregator
        return aggregator is not None and bool(aggregator.mechanisms)


BASE = "all clients, one of which drops out"
RUNS = (
    "round runs inside jax.jit: use jax.numpy, and cohort.ids and cohort.weights as traced arrays"
)


def padded(trial: Trial) -> list[int]:
    ids, pad = list(range(trial.n)), trial.n
    middle = trial.n // 2
    return [pad, *ids[:middle], pad, *ids[middle:], pad]
