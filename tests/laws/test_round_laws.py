"""What every round promises, whatever is in its slots.

Keys are checked for reuse throughout: ``jax_debug_key_reuse`` is on in every law.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Stateful, _tree, algorithms, samplers, simulation
from tests.support import tables

N = len(tables.SIZES)
EMPTY, DROPPED = 2, 3  # a client without examples, and the one that drops out where one does
DATASET = tables.federated()

RARER = {
    "fedsgd", "fedadam", "fedprox", "rand_k", "quantized_downlink", "fedcomgate", "dp_fedavg",
    "integer_leaves",
}  # fmt: skip
KINDS = {"scaffold", "median"}

every = tables.rows(tables.ALGORITHMS, tables.ALGORITHMS.keys() - RARER)
every_kind = tables.rows(tables.ALGORITHMS, KINDS)
"""Where a law compiles a program of its own: one row of each kind."""


def cohort_of(ids, dropped=None, dataset=DATASET):
    ids = np.asarray(ids, np.int32)
    return dataset.cohort(ids, None if dropped is None else ids != dropped)


class Case:
    """One algorithm, its compiled round and what two rounds have made of its state and table."""

    def __init__(self, name):
        self.algorithm, self.params = tables.ALGORITHMS[name]
        self.traces = []

        def traced(key, state, table, cohort):
            self.traces.append(cohort.ids.shape)
            return self.on_table(key, state, table, cohort)

        self.round = jax.jit(traced)
        self.fresh = self.algorithm.init(self.params)
        self.state = self.fresh
        self.table = simulation.make_table(self.algorithm.init_client(self.params), N)
        for t in range(2):
            self.state, self.table, _ = self.round(
                jax.random.key(t), self.state, self.table, cohort_of(np.roll(np.arange(N), t))
            )

    def on_table(self, key, state, table, cohort, executor=None):
        """A round on the table of all clients: the server's state, the table and metrics."""
        rows = simulation.gather(table, cohort.ids)
        state, rows, metrics = self.algorithm.round(key, state, rows, cohort, executor=executor)
        return state, simulation.scatter(table, cohort.ids, rows), metrics

    def __call__(self, cohort, seed=7):
        return self.round(jax.random.key(seed), self.state, self.table, cohort)


case = functools.cache(Case)


def assert_close(actual, expected, tolerance=1e-6):
    """Floats to the tolerance, integers to the bit."""
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if _tree.is_float(y):  # relative to the largest of its leaf, all of which are of order one
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max(initial=1))
        else:
            np.testing.assert_array_equal(x, y)


@every
def test_a_round_moves_the_model_and_counts(name):
    """Else the invariances below would hold of a round that does nothing."""
    _, _, metrics = case(name)(cohort_of(range(N), DROPPED))
    assert int(metrics["invited"]) == N
    assert int(metrics["participants"]) == N - 2
    assert int(metrics["nonfinite"]) == int(metrics["rejected"]) == 0
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), case(name).state.params, case(name).params
    )
    if name == "integer_leaves":
        assert not moved.pop("table")
    assert all(jax.tree.leaves(moved))


@every
def test_permuting_the_cohort_changes_nothing(name):
    """Clients' rows to the bit: a client's arithmetic does not depend on its slot.

    But for what it hears, which is a floating sum in the order of the slots.
    """
    expected = case(name)(cohort_of(range(N), DROPPED))
    for order in ([5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]):
        actual = case(name)(cohort_of(order, DROPPED))
        assert_close(actual, expected)
        if name != "fedcomgate":
            chex.assert_trees_all_equal(actual[1], expected[1])


PADDED = [N, 0, 1, 2, 3, N, 4, 5, N]


def weight(state):
    params = state.params
    return float((params.params if isinstance(params, Stateful) else params)["w"][0])


def check_chunks(name, size, ids):
    """To rounding: XLA may add the terms of a scalar product in another order at another width."""
    expected = case(name)(cohort_of(range(N), DROPPED))
    chunked = functools.partial(case(name).on_table, executor=simulation.chunked(size))
    actual = jax.jit(chunked)(
        jax.random.key(7), case(name).state, case(name).table, cohort_of(ids, DROPPED)
    )
    assert_close(actual, expected)


@every_kind
def test_padding_the_cohort_changes_nothing(name):
    expected = case(name)(cohort_of(range(N), DROPPED))
    assert_close(case(name)(cohort_of(PADDED, DROPPED)), expected)


@every_kind
def test_chunking_a_padded_cohort_changes_nothing(name):
    """Nine slots in three chunks of four, the last of them filled up with slots of zeros."""
    check_chunks(name, 4, PADDED)


@pytest.mark.parametrize("size", [1, pytest.param(N, marks=pytest.mark.slow), N + 3])
def test_chunks_may_have_any_size(size):
    check_chunks("scaffold", size, range(N))


@every
def test_a_client_that_drops_out_might_as_well_not_have_been_invited(name):
    """To the bit: its row stays, and the model moves as if the slot had been padding."""
    state, table, _ = case(name)(cohort_of(range(N), DROPPED))
    ids = [N if i == DROPPED else i for i in range(N)]
    chex.assert_trees_all_equal(case(name)(cohort_of(ids))[:2], (state, table))
    chex.assert_trees_all_equal(
        *(jax.tree.map(lambda x: x[DROPPED], t) for t in (table, case(name).table))
    )


@every
def test_an_empty_client_does_not_participate(name):
    state, table, metrics = case(name)(cohort_of(range(N)))
    assert int(metrics["participants"]) == N - 1
    without = case(name)(cohort_of([N if i == EMPTY else i for i in range(N)]))
    chex.assert_trees_all_equal(without[:2], (state, table))
    chex.assert_trees_all_equal(
        *(jax.tree.map(lambda x: x[EMPTY], t) for t in (table, case(name).table))
    )


@every
def test_an_empty_cohort_leaves_the_model_where_it_was(name):
    """From a fresh state: momentum would move on.  Noise of central privacy is added all the same."""
    state, table, metrics = case(name).round(
        jax.random.key(7), case(name).fresh, case(name).table, cohort_of([N] * N)
    )
    chex.assert_trees_all_equal(table, case(name).table)
    assert int(metrics["invited"]) == int(metrics["participants"]) == 0
    assert all(bool(np.isfinite(x)) for x in jax.tree.leaves(metrics))
    if name.startswith("dp_"):
        assert not np.array_equal(state.params["w"], case(name).fresh.params["w"])
    else:
        chex.assert_trees_all_equal(state.params, case(name).fresh.params)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_message_that_is_not_finite_is_excluded_and_counted(name, value):
    broken = tables.federated(broken=1, value=value)
    state, table, metrics = case(name)(cohort_of(range(N), dataset=broken))
    expected = case(name)(cohort_of([N if i == 1 else i for i in range(N)]))
    chex.assert_trees_all_equal((state, table), expected[:2])
    assert int(metrics["nonfinite"]) == 1
    assert int(metrics["participants"]) == N - 2
    assert all(bool(np.isfinite(x)) for x in jax.tree.leaves(metrics))


@every
def test_later_rounds_do_not_trace_again(name):
    case(name)(cohort_of([5, N, 1, 0, 2, 4]))
    assert case(name).traces.count((N,)) == 1


@every
def test_a_round_is_pure(name):
    inputs = (case(name).state, case(name).table, cohort_of(range(N), DROPPED))
    before = jax.tree.map(np.array, inputs)
    first, second = (case(name).round(jax.random.key(7), *inputs) for _ in range(2))
    chex.assert_trees_all_equal(first, second)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, inputs), before)
    other, _, _ = case(name).round(jax.random.key(8), *inputs)
    assert weight(other) != weight(first[0])


@every_kind
def test_vmap_over_seeds_is_a_loop(name):
    this = case(name)
    seeds = (7, 8)
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    cohort = cohort_of(range(N), DROPPED)
    mapped = jax.jit(jax.vmap(lambda key: this.on_table(key, this.state, this.table, cohort)))(keys)
    for i, seed in enumerate(seeds):
        one = jax.tree.map(lambda x, i=i: x[i], mapped)
        assert_close(one, this(cohort, seed))


@every_kind
def test_scan_over_rounds_is_a_loop(name):
    """By the program of a run, whose rounds draw from ``fold_in(key, t)``."""
    ids = np.array([[0, 1, 2, 3, 4, 5], [5, N, 4, 3, 1, N], [2, 0, N, N, 4, 3]], np.int32)
    stays = ids != DROPPED
    sampler = samplers.Sampler(
        lambda key, t, n: samplers.Sample(jnp.asarray(ids)[t], jnp.asarray(stays)[t], jnp.int32(0)),
        lambda n: N,
        None,
    )
    run = simulation.program(case(name).algorithm, DATASET, sampler=sampler, evaluate_every=3)
    root = jax.random.key(3)
    scanned, history = jax.jit(lambda *args: run.run(*args, 3))(
        jax.random.clone(root), run.init(case(name).params)
    )

    state = case(name).fresh
    table = simulation.make_table(case(name).algorithm.init_client(case(name).params), N)
    for t in range(3):
        key = jax.random.fold_in(root, t)
        state, table, metrics = case(name).round(key, state, table, cohort_of(ids[t], DROPPED))
        assert_close({k: history.rounds[k][t] for k in metrics}, dict(metrics), tolerance=1e-5)
    assert_close((scanned.algorithm, scanned.clients), (state, table), tolerance=1e-5)


def after_rounds(rounds, recipe=algorithms.fedavg, **hyper):
    """The model of a recipe after some rounds, as a function of its hyper-parameters."""
    algorithm = recipe(tables.squared_error, batch_size=2, **hyper)
    state = algorithm.init(tables.weights())
    rows = simulation.make_table(algorithm.init_client(tables.weights()), N)
    for t in range(rounds):
        key = jax.random.key(t)
        state, rows, _ = algorithm.round(key, state, rows, cohort_of(range(N), DROPPED))
    return state.params


def test_hyper_parameters_are_arguments_of_one_program():
    """Factories take tracers: vmap over all of a recipe's hyper-parameters equals the loop."""
    hyper = {
        "client_lr": jnp.array([0.01, 0.1]),
        "server_lr": jnp.array([0.1, 0.5]),
        "epochs": jnp.array([1, 3]),
        "beta1": jnp.array([0.0, 0.9]),
        "beta2": jnp.array([0.9, 0.99]),
        "tau": jnp.array([1e-2, 1e-3]),
    }

    def final(hyper):
        return after_rounds(2, algorithms.fedadam, **hyper)

    mapped, loop = jax.jit(jax.vmap(final))(hyper), jax.jit(final)
    for i in range(2):
        one = loop(jax.tree.map(lambda x, i=i: x[i], hyper))
        assert_close(jax.tree.map(lambda x, i=i: x[i], mapped), one, tolerance=1e-5)


def test_derivatives_in_hyper_parameters():
    """Against central differences, by forward mode through local training and by reverse mode after.

    Local training has a dynamic trip count, through which JAX has no reverse mode; the server's step
    comes after it, so the gradient of a single round in the server's learning rate exists.
    """

    def norm(client_lr, server_lr):
        model = after_rounds(1, client_lr=client_lr, server_lr=server_lr)
        return jnp.sum(model["w"] ** 2)

    at, h, value = (jnp.float32(0.05), jnp.float32(0.7)), 1e-2, jax.jit(norm)
    differences = [
        (value(at[0] + dx, at[1] + dy) - value(at[0] - dx, at[1] - dy)) / (2 * h)
        for dx, dy in ((h, 0.0), (0.0, h))
    ]
    forward = jax.jit(jax.jacfwd(norm, (0, 1)))(*at)
    np.testing.assert_allclose(forward, differences, rtol=1e-2)
    np.testing.assert_allclose(jax.jit(jax.grad(norm, 1))(*at), forward[1], rtol=1e-5)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.eval_shape(jax.grad(norm, 0), *at)
