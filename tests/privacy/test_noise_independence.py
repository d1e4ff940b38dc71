"""The noise of whole runs: its law, its independence of everything else, and that it is always there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fjx import aggregators, clients, compose, data, privacy, samplers, simulation

CLIENTS, ROUNDS, CLIP, Z, DENOMINATOR = 4, 12, 0.5, 2.0, 4
STD = CLIP * Z / DENOMINATOR
MECHANISM = privacy.gaussian(clip_norm=CLIP, noise_multiplier=Z)
LIKE = {"a": jnp.zeros(1000), "b": jnp.zeros((10, 100)), "c": jnp.zeros(1000)}


def linear(w, scale, key):
    """A constant gradient, so that without noise every round adds the same to the model."""
    return scale[0] * sum(jnp.sum(x) for x in jax.tree.leaves(w))


ALGORITHM = compose(
    client=clients.local_sgd(linear, optax.sgd(1.0), epochs=1, batch_size=1),
    aggregator=aggregators.private(MECHANISM, DENOMINATOR),
)


@functools.partial(
    jax.jit, static_argnums=2, compiler_options={"xla_backend_optimization_level": 0}
)
def run(key, scales, sampler, like=LIKE):
    """The models after each round, leaves flattened side by side, and the participants of rounds."""
    dataset = data.FederatedData(scales, jnp.arange(CLIENTS + 1), jnp.ones(CLIENTS))
    play = simulation.program(ALGORITHM, dataset, sampler=sampler).run
    state = simulation.program(ALGORITHM, dataset, sampler=sampler).init(like)

    def one(state, _):
        state, history = play(key, state, 1)
        flat = jnp.stack([x.ravel() for x in jax.tree.leaves(state.params)])
        return state, (flat, history.rounds["unnoised_participants"][0])

    return jax.lax.scan(one, state, None, ROUNDS)[1]


FULL, HALF = samplers.full(), samplers.poisson(0.5)


@functools.cache
def random_cohorts():
    """Of 300 short models: the noise of each round, ``[runs, rounds, 3, 20]``, and who took part.

    Clients send what is clipped, all alike, so that their number tells what the round's signal is.
    """
    like = dict.fromkeys(LIKE, jnp.zeros(20))
    keys = jax.random.split(jax.random.key(5), 300)
    models, participants = jax.vmap(lambda key: run(key, jnp.full(CLIENTS, 1e4), HALF, like))(keys)
    steps, participants = np.diff(np.float64(models), axis=1, prepend=0), np.asarray(participants)
    signal = -CLIP / np.sqrt(60) / DENOMINATOR
    return steps - signal * participants[:, :, None, None], participants


def steps_of(seed, scale):
    """What each round added to the model: [rounds, leaves, 1000]."""
    models, participants = run(jax.random.key(seed), jnp.full(CLIENTS, scale), FULL)
    return np.diff(np.float64(models), axis=0, prepend=0), np.asarray(participants)


def check_law(noise):
    z = noise.ravel() / STD
    assert stats.kstest(z, "norm").pvalue > 1e-4
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], z.size)
    assert low < np.sum(z**2) < high


@pytest.mark.ci
def test_each_leaf_of_each_round_is_gaussian_and_independent_of_all_others():
    noise, participants = steps_of(0, 0.0)
    assert (participants == CLIENTS).all()
    for leaf in range(len(LIKE)):
        check_law(noise[:, leaf])
    rows = noise.reshape(-1, 1000)  # rounds and leaves
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() * np.sqrt(1000) < 5  # 630 pairs
    neighbours = np.corrcoef(rows[:, 1:].ravel(), rows[:, :-1].ravel())[0, 1]
    assert abs(neighbours) * np.sqrt(rows.size) < 5
    # Of float32 draws a few coincide; those of a row that was used twice all would.
    assert len(np.unique(np.float32(rows))) > 0.98 * rows.size


@pytest.mark.ci
@pytest.mark.parametrize("scale", [1.0, -1e4])
def test_noise_does_not_depend_on_what_clients_send(scale):
    """Clipped or not: what is left of a round once its signal is gone is the noise of silence."""
    silence, noise = steps_of(1, 0.0)[0], steps_of(1, scale)[0]
    signal = -np.sign(scale) * CLIENTS * CLIP / np.sqrt(3000) / DENOMINATOR
    np.testing.assert_allclose(noise - silence, signal, atol=3e-5)
    check_law(noise - signal)


@pytest.mark.slow
def test_rounds_without_anybody_are_noised_and_counted():
    noise, participants = random_cohorts()
    empty = noise[participants == 0]
    assert len(empty) >= 150  # 225 are expected
    check_law(empty)
    check_law(noise[participants > 0])
    # They are paid for like the others.
    rare = samplers.poisson(1 / 64)
    epsilons = [
        privacy.epsilon(MECHANISM, rare, rounds=t, delta=1e-5, method="rdp") for t in (100, 1000)
    ]
    assert 0 < epsilons[0] < epsilons[1]


@pytest.mark.ci
def test_runs_are_reproducible_and_seeds_are_not_related():
    first, again, other = (steps_of(seed, 0.0)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) * np.sqrt(first.size) < 5
    assert np.isin(np.float32(first), np.float32(other)).mean() < 0.02


@pytest.mark.ci
def test_noise_is_independent_of_who_takes_part():
    """A cohort's noise and its size come from different keys: over runs they do not correlate."""
    noise, participants = random_cohorts()
    noise, size = noise[:, :, 0, 0].ravel(), participants.astype(np.float64).ravel()
    assert 1.8 < size.mean() < 2.2
    assert abs(np.corrcoef(noise, size)[0, 1]) * np.sqrt(size.size) < 4
    assert abs(np.corrcoef(noise**2, size)[0, 1]) * np.sqrt(size.size) < 4
