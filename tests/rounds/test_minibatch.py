"""Stochastic gradients: any algorithm on batches of its clients' examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import algorithms, compressors, data, rounds, samplers, simulation

SIZES = (5, 1, 0, 3, 5)
RAGGED = data.from_clients(
    [np.random.default_rng(i).normal(size=(n, 2)).astype(np.float32) for i, n in enumerate(SIZES)]
)


def distance(w, x, key):
    """Its gradient in w is w less the batch's mean."""
    return jnp.mean(jax.vmap(lambda x: jnp.sum((w - x) ** 2) / 2)(x))


def mean(w, x, key):
    """What a client sends is the mean of its batch, whatever the model."""
    return -jnp.mean(x @ w)


STEP = {"learning_rate": 0.1, "batch_size": 2}
EF21 = algorithms.ef21(distance, compressors.top_k(0.5), num_clients=5, **STEP)
MARINA = algorithms.marina(distance, compressors.rand_k(0.5), p=1e-6, **STEP)
MEANS = algorithms.compressed_gd(mean, compressors.identity(), **STEP)


@jax.jit
def draws(ids, dataset):
    """``[4000, m, ...]``: what one client of each slot sends, over keys."""

    def one(key):
        def alone(slot):
            here = dataset.cohort(ids)
            cohort = here._replace(weights=jnp.zeros(len(ids)).at[slot].set(1.0))
            state = rounds.minibatch(MEANS, 2).round(key, start, rows, cohort)[0]
            return state.params / 0.1

        return jax.vmap(alone)(jnp.arange(len(ids)))

    d = jax.tree.leaves(dataset.arrays)[0].shape[1]
    start = MEANS.init(jnp.zeros(d))
    rows = jax.vmap(lambda _: MEANS.init_client(start.params))(ids)
    return jax.vmap(one)(jax.random.split(jax.random.key(0), 4000))


ONE_HOT = data.from_clients([np.eye(4, dtype=np.float32)] * 2)


@pytest.mark.slow
def test_batches_are_uniform_and_those_of_two_clients_independent():
    """4000 draws of 2 of 4 examples: each pair one time in six, each two pairs in 36, to 5 standard
    errors.
    """
    sent = np.asarray(draws(jnp.arange(3), ONE_HOT))[:, :2]  # the third slot is padding
    np.testing.assert_allclose(np.sort(sent, -1), np.broadcast_to([0, 0, 0.5, 0.5], sent.shape))
    pairs = (sent > 0) @ (1 << np.arange(4))  # a set of two as a number
    kinds = np.unique(pairs)
    assert len(kinds) == 6
    once = np.array([[np.mean(pairs[:, i] == kind) for kind in kinds] for i in range(2)])
    both = np.array([np.mean((pairs == (a, b)).all(1)) for a in kinds for b in kinds])
    for seen, p in ((once, 1 / 6), (both, 1 / 36)):
        assert np.abs(seen - p).max() < 5 * np.sqrt(p * (1 - p) / 4000)


@pytest.mark.ci
def test_a_client_draws_by_its_id():
    """Whoever else is in the cohort, and in whatever order."""
    first, second = draws(jnp.arange(3), ONE_HOT), draws(jnp.array([1, 2, 0]), ONE_HOT)
    np.testing.assert_array_equal(first[:, 0], second[:, 2])
    np.testing.assert_array_equal(first[:, 1], second[:, 0])


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("algorithm", [EF21, MARINA], ids=["ef21", "marina"])
def test_batches_of_everything_are_the_algorithm_itself(algorithm):
    """Ragged clients, one of them empty: to rounding, with the same draws of the codecs."""

    def run(algorithm):
        return fjx.simulate(
            jax.random.key(0), algorithm, jnp.ones(2), RAGGED, sampler=samplers.full(), rounds=4
        )

    whole, drawn = run(algorithm), run(rounds.minibatch(algorithm, 5))
    np.testing.assert_allclose(drawn.params, whole.params, atol=1e-6)
    for name, value in whole.history.rounds.items():
        np.testing.assert_allclose(drawn.history.rounds[name], value, atol=1e-6)


@pytest.mark.ci
def test_marina_compares_two_models_on_one_batch():
    """Then a difference of gradients is the difference of the models, though the batches change."""
    alike = data.from_clients([np.asarray(RAGGED.arrays)] * 3)
    uncompressed = algorithms.marina(distance, compressors.identity(), p=1e-6, **STEP)
    algorithm = rounds.minibatch(uncompressed, 1)
    state = algorithm.init(jnp.ones(2))
    rows = jax.vmap(lambda _: algorithm.init_client(state.params))(jnp.arange(3))
    step, noise = jax.jit(algorithm.round), []
    for t in range(6):
        state, rows, _ = step(jax.random.key(t), state, rows, alike.cohort(jnp.arange(3)))
        noise.append(state.aggregator.estimate + state.server.before)
    np.testing.assert_allclose(noise, np.broadcast_to(noise[0], (6, 2)), atol=1e-5)
    assert np.abs(noise[0] - alike.arrays.mean(0)).max() > 0.01  # of the first batch, indeed


@pytest.mark.slow
def test_weights_are_those_of_all_examples():
    """FedSGD of one example a client: ten of ones count ten times the one of zeros."""
    uneven = data.from_clients([np.ones((10, 1), np.float32), np.zeros((1, 1), np.float32)])
    algorithm = rounds.minibatch(
        algorithms.fedsgd(mean, learning_rate=1.0, batch_size=1), batch_size=1
    )
    result = fjx.simulate(
        jax.random.key(0), algorithm, jnp.zeros(1), uneven, sampler=samplers.full(), rounds=1
    )
    np.testing.assert_allclose(result.params, 10 / 11, rtol=1e-6)


@pytest.mark.slow
def test_chunks_and_absentees_change_nothing():
    algorithm = rounds.minibatch(EF21, 2)
    state = algorithm.init(jnp.ones(2))
    rows = jax.vmap(lambda _: algorithm.init_client(state.params))(jnp.arange(5))
    cohort = RAGGED.cohort(jnp.arange(5))
    cohort = cohort._replace(weights=cohort.weights.at[3].set(0.0))
    one = jax.jit(algorithm.round)(jax.random.key(3), state, rows, cohort)
    in_chunks = functools.partial(algorithm.round, executor=simulation.chunked(2))
    two = jax.jit(in_chunks)(jax.random.key(3), state, rows, cohort)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one, two)
    kept = jax.tree.map(lambda new, old: np.array_equal(new[3], old[3]), one[1], rows)
    assert all(jax.tree.leaves(kept))


def test_what_is_known_of_an_algorithm_stays_known():
    """Its price, its expected bits, and the aggregator whose noise is accounted for."""
    private = algorithms.dp_fedavg(
        distance, client_lr=0.1, batch_size=2, clip_norm=1.0, noise_multiplier=1.0, cohort_size=5
    )
    for algorithm in (private, MARINA):
        wrapped = rounds.minibatch(algorithm, 2)
        assert wrapped.aggregator is algorithm.aggregator is not None
        assert wrapped.traffic(jnp.ones(2)) == algorithm.traffic(jnp.ones(2))
        assert wrapped.expected is algorithm.expected


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((distance, 2), TypeError, "fjx.Algorithm"),
        ((EF21, 0), ValueError, "batch_size"),
        ((EF21, 2.0), TypeError, "batch_size"),
    ],
)
def test_refusals(arguments, error, words):
    with pytest.raises(error, match=words):
        rounds.minibatch(*arguments)
