"""Every public algorithm keeps the laws of ``fjx.testing``, and some of the library's own.

Keys are checked for reuse throughout: ``jax_debug_key_reuse`` is on in every law.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import _tree, algorithms, samplers, simulation, testing
from fjx.testing import _algorithm
from fjx.testing._algorithm_trial import Trial
from tests.support import tables

N = len(tables.SIZES)
DROPPED = 3  # the client that drops out where one does
DATASET = tables.federated()

SHAPES = {"traffic_is_known_from_shapes"}
"""Laws that read shapes alone."""

TRACED = {"keeps_the_structure_of_state_and_rows"}
"""Laws that compile nothing."""

OWN_PROGRAM = {"padding_changes_nothing", "chunks_change_nothing", "vmap_over_seeds_is_a_loop"}
"""Laws that compile a program of their own."""

DEFAULT = {"scaffold", "dp_ftrl", "top_k_quantize_with_feedback", "median"}
COMMON = DEFAULT | {"mutable_state", "ef21_bc", "choco_sgd", "marina"}
KINDS = {"scaffold", "median"}
PHASES = {"fedlin", "mime", "power_sgd", "two_phases", "hierarchical", "edges"}


def tier(name, law):
    if law in SHAPES:
        return tables.DEFAULT
    if law in TRACED:
        return tables.tier(name, DEFAULT, tables.ALGORITHMS)
    if law in OWN_PROGRAM:
        return tables.tier(name, (), KINDS)
    return tables.tier(name, DEFAULT, COMMON)


BY_RANK = {"tamuna", "compressed_scaffnew"}
"""Clients own coordinates by their rank in the cohort."""


@functools.cache
def trial(name):
    algorithm, params = tables.ALGORITHMS[name], tables.params_of(name)
    return Trial(algorithm, params, DATASET, name in BY_RANK)


@functools.cache
def laws(name):
    algorithm, params = tables.ALGORITHMS[name], tables.params_of(name)
    ranked = name in BY_RANK
    return {law.name: law for law in testing.algorithm_laws(algorithm, params, by_rank=ranked)}


@tables.cases({name: [law.__name__ for law in _algorithm.LAWS] for name in tables.ALGORITHMS}, tier)
def test_law(name, law):
    laws(name)[law].check()


every_common = tables.rows(tables.ALGORITHMS, DEFAULT, COMMON)
every_kind = tables.rows(tables.ALGORITHMS, {"scaffold"}, KINDS)


def cohort_of(ids, dropped=None):
    ids = np.asarray(ids, np.int32)
    return DATASET.cohort(ids, None if dropped is None else ids != dropped)


def assert_close(actual, expected, tolerance=1e-6):
    """Floats to the tolerance, integers to the bit."""
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if _tree.is_float(y):  # relative to the largest of its leaf, all of which are of order one
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max(initial=1))
        else:
            np.testing.assert_array_equal(x, y)


HEARING = {"fedcomgate", "choco_sgd", "choco", "dsgd", "gradient_tracking", "gossip", "tracking"}
"""Rows hold what clients hear: a floating sum in the order of the slots."""


@pytest.mark.few(3)
@tables.rows([n for n in tables.ALGORITHMS if n not in HEARING], DEFAULT - HEARING, COMMON)
def test_rows_do_not_depend_on_the_slot_by_a_bit(name):
    """A client's arithmetic does not depend on its slot."""
    _, expected, _ = trial(name).base
    _, actual, _ = trial(name).play("reversed", cohort_of(range(N)[::-1], DROPPED))
    chex.assert_trees_all_equal(actual, expected)


@tables.rows(
    [n for n in tables.ALGORITHMS if n not in BY_RANK | HEARING], DEFAULT - BY_RANK - HEARING
)
def test_a_client_that_drops_out_changes_nothing_by_a_bit(name):
    """As if it had not been invited: sums over clients get a zero for it."""
    ids = [N if i == DROPPED else i for i in range(N)]
    chex.assert_trees_all_equal(
        trial(name).play("padding", cohort_of(ids))[:2], trial(name).base[:2]
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("size", [1, pytest.param(N, marks=pytest.mark.slow), N + 3])
def test_chunks_may_have_any_size(size):
    this = trial("scaffold")
    chunked = functools.partial(this.on_table, executor=simulation.chunked(size))
    actual = jax.jit(chunked)(jax.random.key(7), *this.before, cohort_of(range(N), DROPPED))
    assert_close(actual, this.base)


@every_common
def test_another_key_is_another_round(name):
    """The loss has a random slope.  A phase that keeps the model moves what the next one reads."""
    one, other = (
        trial(name).play("a seed", cohort_of(range(N), DROPPED), seed=seed)[0] for seed in (7, 8)
    )
    if name not in PHASES:
        one, other = one.params, other.params
    assert any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.few(1)
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
    run = simulation.program(trial(name).algorithm, DATASET, sampler=sampler, evaluate_every=3)
    root = jax.random.key(3)
    scanned, history = jax.jit(lambda *args: run.run(*args, 3))(
        jax.random.clone(root), run.init(trial(name).params)
    )

    state, table = trial(name).fresh
    for t in range(3):
        key = jax.random.fold_in(root, t)
        state, table, metrics = trial(name).round(key, state, table, cohort_of(ids[t], DROPPED))
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
