"""Laws of samplers, by exact statements where there are any and by counts where there are not."""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fjx import samplers

poisson = importlib.import_module("fjx.samplers._poisson")
slots = importlib.import_module("fjx.samplers._slots")

SAMPLERS = {
    "uniform": samplers.uniform(4),
    "poisson": samplers.poisson(0.3),
    "poisson, rare": samplers.poisson(0.05),
    "poisson, certain": samplers.poisson(1.0),
    "poisson, capped": samplers.poisson(0.5, cap=4),
    "full": samplers.full(),
    "cyclic": samplers.cyclic(3),
    "cyclic poisson": samplers.cyclic_poisson(3, rate=0.4),
    "min separation": samplers.min_separation(3, period=5),
    "available": samplers.available(
        lambda key, round, n: jax.random.bernoulli(jax.random.fold_in(key, round), 0.5, (n,)),
        3,
        separation=2,
    ),
    "dropout": samplers.dropout(samplers.poisson(0.5, cap=4), 0.3),
}
# Those of which test_scheduled runs more: here slow evidence.
SCHEDULED = {"cyclic poisson", "min separation", "available"}
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SCHEDULED)) for n in SAMPLERS]
)
NUM_CLIENTS = 10
DRAWS = 20_000

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def draws(name: str) -> samplers.Sample:
    """Many rounds of one sampler on ten clients, as NumPy arrays ``[draws, ...]``."""
    sampler = SAMPLERS[name]
    run = quick(jax.vmap(lambda round: sampler.sample(jax.random.key(7), round, NUM_CLIENTS)))
    return jax.tree.map(np.asarray, run(jnp.arange(DRAWS)))


def membership(sample: samplers.Sample) -> np.ndarray:
    """``[draws, clients]``: who was chosen."""
    return (sample.ids[:, :, None] == np.arange(NUM_CLIENTS)).any(1)


def assert_frequency(hits: np.ndarray, probability: float) -> None:
    """Counts over the leading axis agree with ``probability`` within five standard errors."""
    error = np.sqrt(probability * (1 - probability) / len(hits))
    assert np.abs(hits.mean(0) - probability).max() < 5 * error


@pytest.mark.slow
@every
def test_slots_hold_distinct_clients_or_padding(name):
    sample, sampler = draws(name), SAMPLERS[name]
    assert sample.ids.shape == (DRAWS, sampler.capacity(NUM_CLIENTS)) == sample.taking_part.shape
    assert (sample.ids.dtype, sample.taking_part.dtype) == (np.int32, bool)
    assert (sample.truncated.dtype, sample.truncated.shape) == (np.int32, (DRAWS,))
    assert ((sample.ids >= 0) & (sample.ids <= NUM_CLIENTS)).all()
    assert (membership(sample).sum(1) == (sample.ids < NUM_CLIENTS).sum(1)).all()
    assert sample.taking_part[sample.ids == NUM_CLIENTS].all()


# Compiling a sampler op by op takes long: a few of a kind by default.
EAGERLY = {"uniform", "poisson, certain", "full", "cyclic"}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in EAGERLY else pytest.mark.slow) for n in SAMPLERS]
)
def test_compiled_batched_and_eager_rounds_agree(name):
    for t in range(3):
        eager = SAMPLERS[name].sample(jax.random.key(7), t, NUM_CLIENTS)
        batched = jax.tree.map(lambda x, t=t: x[t], draws(name))
        jax.tree.map(np.testing.assert_array_equal, eager, batched)


@pytest.mark.slow
@every
def test_one_client_is_enough(name, getkey):
    sampler = samplers.uniform(1) if name == "uniform" else SAMPLERS[name]
    sample = quick(lambda key: sampler.sample(key, 0, 1))(getkey())
    assert set(sample.ids.tolist()) <= {0, 1}


def test_uniform_includes_clients_and_pairs_alike():
    chosen = membership(draws("uniform"))
    assert_frequency(chosen, 4 / 10)
    pairs = [chosen[:, i] & chosen[:, j] for i, j in itertools.combinations(range(10), 2)]
    assert_frequency(np.stack(pairs, 1), (4 * 3) / (10 * 9))


def test_uniform_slots_are_alike():
    for slot in draws("uniform").ids.T:
        assert_frequency(slot[:, None] == np.arange(NUM_CLIENTS), 1 / 10)


def test_uniform_of_all_is_everybody():
    ids = samplers.uniform(10).sample(jax.random.key(0), 0, 10).ids
    assert sorted(ids.tolist()) == list(range(10))


@pytest.mark.few(1)
@pytest.mark.parametrize(("name", "rate"), [("poisson", 0.3), ("poisson, rare", 0.05)])
def test_poisson_clients_are_independent(name, rate):
    """Whether each of them tosses a coin or balls fall on them."""
    chosen = membership(draws(name))
    assert_frequency(chosen, rate)
    pairs = [chosen[:, i] & chosen[:, j] for i, j in itertools.combinations(range(10), 2)]
    assert_frequency(np.stack(pairs, 1), rate**2)
    sizes = chosen.sum(1)
    for size, probability in enumerate(stats.binom.pmf(np.arange(11), 10, rate)):
        if DRAWS * probability > 20:
            assert_frequency(sizes == size, probability)


@pytest.mark.parametrize("n", [1, 3, 2**16 - 1, 2**16, 10**7, 2**31 - 1])
def test_balls_fall_where_64_bits_say(n):
    """Against Python's integers, at the ends and in between."""
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, (2, 500), np.uint32)
    words[:, :4] = [[0, 0, 2**32 - 1, 2**32 - 1], [0, 2**32 - 1, 0, 2**32 - 1]]
    expected = [n * (int(high) << 32 | int(low)) >> 64 for high, low in words.T]
    assert slots.scale(*map(jnp.asarray, words), n).tolist() == expected


@pytest.mark.parametrize(("n", "rate"), [(50, 0.05), (1000, 1e-9), (10**7, 1e-4)])
def test_balls_are_counted_by_the_poisson_law(n, rate):
    fewest, (high, low, _) = poisson._counts(n, rate)
    actual = (high * 2.0**32 + low) / 2.0**64
    law = stats.poisson(-n * np.log1p(-rate))
    np.testing.assert_allclose(actual, law.cdf(fewest + np.arange(len(actual))), atol=1e-14)
    assert law.cdf(fewest - 1) < 2.0**-64
    assert law.sf(fewest + len(actual)) < 2.0**-64


def test_a_large_population_costs_its_cohort():
    """No array of the program has more than a few entries for each client of a round."""
    for sampler in (samplers.poisson(1e-4), samplers.uniform(1000), samplers.cyclic(10**4)):
        program = quick(lambda key, s=sampler: s.sample(key, 0, 10**7).ids).lower(jax.random.key(0))
        assert program.compile().memory_analysis().temp_size_in_bytes < 1e6


def test_poisson_probability_is_known_to_the_last_bit():
    assert samplers.poisson(0.3).subsampling.rate == round(0.3 * 2**32) / 2**32
    assert samplers.poisson(2.0**-32).subsampling.rate == 2.0**-32
    assert samplers.poisson(1).subsampling.rate == 1.0
    assert membership(draws("poisson, certain")).all()


def test_a_poisson_round_may_be_empty():
    sample = quick(lambda key: samplers.poisson(1e-9).sample(key, 0, 1000))(jax.random.key(0))
    assert (sample.ids == 1000).all()
    assert int(sample.truncated) == 0


def test_poisson_pads_at_the_end():
    padding = draws("poisson").ids == NUM_CLIENTS
    assert (np.diff(padding.astype(int), axis=1) >= 0).all()


def test_truncation_is_counted_and_uniform():
    sample = draws("poisson, capped")
    chosen = membership(sample)
    kept = chosen.sum(1)
    # K = kept + truncated is Binomial(10, 1/2), and kept = min(K, 4).
    for size, probability in enumerate(stats.binom.pmf(np.arange(11), 10, 0.5)):
        if DRAWS * probability > 20:
            assert_frequency(kept + sample.truncated == size, probability)
    assert ((kept == 4) | (sample.truncated == 0)).all()
    overflowing = chosen[sample.truncated > 0]
    assert len(overflowing) > 10_000
    assert_frequency(overflowing, 4 / 10)
    pairs = [overflowing[:, i] & overflowing[:, j] for i, j in itertools.combinations(range(10), 2)]
    assert_frequency(np.stack(pairs, 1), (4 * 3) / (10 * 9))


@pytest.mark.parametrize("num_clients", [1, 2, 10, 60, 1000, 10**5, 10**8])
@pytest.mark.parametrize("rate", [1e-7, 0.001, 0.1, 0.5, 0.99])
def test_capacity_is_the_smallest_that_suffices(num_clients, rate):
    sampler = samplers.poisson(rate)
    capacity, rate = sampler.capacity(num_clients), sampler.subsampling.rate
    reached = [stats.binom.sf(m - 1, num_clients, rate) for m in (capacity, capacity - 1)]
    assert capacity == num_clients or reached[0] <= 2.0**-40
    assert capacity == 1 or reached[1] > 2.0**-40 * (1 - 2e-4)


def test_capacity_is_the_cap():
    assert samplers.poisson(0.1, cap=7).capacity(1000) == 7
    assert samplers.poisson(0.1, cap=7).capacity(5) == 7
    capped = samplers.poisson(0.9, cap=7)
    sample = quick(lambda key: capped.sample(key, 0, 5))(jax.random.key(0))
    assert (sample.ids.shape, int(sample.truncated)) == ((7,), 0)


@pytest.mark.parametrize(
    ("num_clients", "period"), [(1, 1), (1, 4), (12, 1), (12, 4), (11, 4), (5, 15), (7, 7)]
)
def test_cyclic_visits_everybody_once_a_period(num_clients, period):
    sampler = samplers.cyclic(period)
    sample = jax.vmap(lambda t: sampler.sample(jax.random.key(0), t, num_clients).ids)
    many = np.asarray(quick(sample)(jnp.arange(4 * period)))
    for start in range(3 * period):
        ids = many[start : start + period]
        assert sorted(ids[ids < num_clients].tolist()) == list(range(num_clients))


def test_full_is_everybody():
    assert samplers.full().sample(jax.random.key(0), 5, 4).ids.tolist() == [0, 1, 2, 3]


@pytest.mark.ci
def test_dropout_removes_each_client_with_its_rate():
    sample = draws("dropout")
    assert_frequency(~sample.taking_part[sample.ids < NUM_CLIENTS][:DRAWS, None], 0.3)
    assert (sample.truncated > 0).any()


def test_dropout_is_a_coin_of_the_client_not_of_its_slot():
    @quick
    def both(key):
        inner = samplers.full(), samplers.uniform(40)
        return [samplers.dropout(s, 0.5).sample(jax.random.clone(key), 0, 40) for s in inner]

    everybody, shuffled = (set(s.ids[~s.taking_part].tolist()) for s in both(jax.random.key(3)))
    assert 5 < len(everybody) < 35
    assert shuffled == everybody


def test_dropout_accepts_a_traced_rate_and_wraps_dropout():
    def count(rate: jax.Array) -> jax.Array:
        inner = samplers.dropout(samplers.full(), 0.5)
        sample = samplers.dropout(inner, rate).sample(jax.random.key(3), 0, 1000)
        return sample.taking_part.sum()

    none, half, all_ = quick(jax.vmap(count))(jnp.array([0.0, 0.5, 1.0])).tolist()
    assert abs(none - 500) < 5 * np.sqrt(1000 / 4)
    assert abs(half - 250) < 5 * np.sqrt(1000 * 3 / 16)
    assert all_ == 0


def test_samplers_say_what_ran():
    described = {name: sampler.subsampling for name, sampler in SAMPLERS.items()}
    assert described["uniform"] == samplers.FixedSize(4)
    assert described["poisson, certain"] == samplers.Poisson(1.0, None, 2.0**-40)
    assert described["poisson, capped"] == samplers.Poisson(0.5, 4, 0.0)
    assert described["cyclic"] == samplers.Cyclic(3)
    assert described["full"] == samplers.Full()
    assert described["dropout"] == described["poisson, capped"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: samplers.uniform(0), ValueError, "size must be at least 1, got 0"),
        (lambda: samplers.uniform(2.0), TypeError, "size must be an integer, got 2.0"),
        (lambda: samplers.uniform(5).capacity(4), ValueError, "size must be at most num_clients"),
        (lambda: samplers.poisson(0.0), ValueError, "rate must be at least"),
        (lambda: samplers.poisson(1.1), ValueError, "rate must be .* at most 1"),
        (lambda: samplers.poisson(float("nan")), ValueError, "rate must be"),
        (lambda: samplers.poisson(0.1, cap=0), ValueError, "cap must be at least 1"),
        (lambda: jax.jit(samplers.poisson)(0.1), TypeError, "rate decides the shape"),
        (lambda: samplers.cyclic(0), ValueError, "num_blocks must be at least 1"),
        (lambda: samplers.full().capacity(0), ValueError, "num_clients must be at least 1"),
        (lambda: samplers.dropout(samplers.full(), 1.5), ValueError, "rate must be .* at most 1"),
        (lambda: samplers.uniform(1).sample(0, 0, 4), TypeError, "key must be a typed key"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()
