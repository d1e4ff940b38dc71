"""Noise that the clients add: sensitivity under attack, sums mod 2^b, whose noise counts, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import Public, aggregators, clients, compose, data, privacy, simulation, wire
from fjx._kernels.rounding import exact_stochastic_round
from fjx.privacy import _curves
from fjx.privacy._mechanisms import integer_noise as _discrete

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

FAMILIES = {"gaussian": privacy.distributed_gaussian, "skellam": privacy.distributed_skellam}
every = pytest.mark.parametrize("family", FAMILIES)

SETTINGS = {
    "clip_norm": 1.0,
    "noise_multiplier": 1.0,
    "granularity": 0.05,
    "bits": 16,
    "clients": 20,
    "dimension": 32,
}


def make(family="gaussian", **changes):
    return FAMILIES[family](**{**SETTINGS, **changes})


def centred(codes, bits):
    """The integers between -2^(b-1) and 2^(b-1) - 1 that codes mod 2^b stand for, in NumPy."""
    return (np.asarray(codes).astype(np.int64) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


# --------------------------------------------------------------------------------------------------
# What a client adds
# --------------------------------------------------------------------------------------------------


def hostile(dimension, count):
    """Messages at the bound, each a worst case of something: halves, one spike, few, huge, and noise."""
    rng = np.random.default_rng(0)
    half = np.full(dimension, 0.025)  # each coordinate half a step
    spike = np.eye(dimension)[0]
    pair = np.concatenate([np.full(2, 0.525), np.full(dimension - 2, 0.025)])
    flat = np.full(dimension, 1 / math.sqrt(dimension))
    kinds = [half, spike, pair, 1e20 * flat, 3e38 * spike, *rng.normal(size=(11, dimension))]
    return np.resize(np.array(kinds, np.float32), (count, dimension))


@pytest.mark.ci
@pytest.mark.parametrize("dimension", [5, pytest.param(32, marks=pytest.mark.slow)])
def test_the_integers_never_exceed_the_bound(dimension):
    """20,000 attacks; rounding without the condition exceeds it, in a good part of them."""
    mechanism = make(noise_multiplier=0.0, dimension=dimension)
    messages = jnp.asarray(hostile(dimension, 20_000))
    keys = jax.random.split(jax.random.key(1), len(messages))
    codes = fast(jax.vmap(lambda key, x: mechanism.encode(key, x).codes))(keys, messages)
    squares = (centred(codes, 16) ** 2).sum(1)
    bound = _curves.rounded_norm(20.0, dimension=dimension, beta=math.exp(-0.5))
    assert mechanism.sensitivity("add_or_remove_one") == pytest.approx(0.05 * bound)
    assert mechanism.sensitivity("replace_one") == pytest.approx(0.1 * bound)
    assert squares.max() <= bound**2
    assert squares.max() > 0.9 * bound**2  # the attack comes close
    full = np.asarray(messages[5:10_000], np.float64)
    steps = 20 * full / np.linalg.norm(full, axis=1, keepdims=True)
    free = exact_stochastic_round(jax.random.key(2), jnp.asarray(steps, jnp.float32))
    assert 1e-3 < np.mean(np.sum(np.square(free), axis=1) > bound**2) < math.exp(-0.5)


def test_without_conditions_rounding_is_unbiased_with_the_stated_variance():
    mechanism = make(noise_multiplier=0.0, beta=0.0)
    x = jnp.asarray(np.random.default_rng(1).normal(size=32).astype(np.float32) * 0.1)
    count, f = 20_000, np.mod(np.asarray(x, np.float64) / 0.05, 1)
    keys = jax.random.split(jax.random.key(3), count)
    codes = fast(jax.vmap(lambda key: mechanism.encode(key, x).codes))(keys)
    values = 0.05 * centred(codes, 16)
    error = np.sqrt(0.05**2 * f * (1 - f) / count)
    assert np.all(np.abs(values.mean(0) - np.asarray(x)) < 5 * error)
    assert values.var(0).sum() == pytest.approx((0.05**2 * f * (1 - f)).sum(), rel=0.03)
    assert mechanism.sensitivity("add_or_remove_one") == pytest.approx(1.0 + 0.05 * math.sqrt(32))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gaussian", pytest.param("skellam", marks=pytest.mark.slow)])
def test_noise_is_independent_of_the_data_of_others_and_of_rounds(family):
    """Of messages on the grid the integers are known, and what remains is the noise."""
    mechanism = make(family, beta=0.0, clip_norm=2.0)
    x = jnp.round(jax.random.normal(jax.random.key(0), (32,)))
    messages = jnp.stack([0.05 * x, -0.05 * x, jnp.zeros(32)])

    @fast
    def noises(key):
        """Of four thousand clients with each message."""
        keys = jax.random.split(key, 4000)

        def one(key, message):
            return mechanism.encode(jax.random.clone(key), message).codes

        return jax.vmap(lambda key: jax.vmap(one, (None, 0))(key, messages))(keys)

    first, second = (centred(noises(jax.random.key(seed)), 16) for seed in (4, 5))
    noise = first - np.asarray([x, -x, 0 * x], np.int64)
    np.testing.assert_array_equal(noise[:, 0], noise[:, 1])
    np.testing.assert_array_equal(noise[:, 0], noise[:, 2])
    own, other = noise[:, 0].astype(float), second[:, 2].astype(float)
    size = own.size
    for a, b in [
        (own, other),
        (own[1:], own[:-1]),
        (own[:, 1:], own[:, :-1]),
    ]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(size) < 5
    # Each has a twentieth of the variance (z C / gamma)^2 = 1600.
    sd = 40 / math.sqrt(20)
    assert own.var() == pytest.approx(sd**2, rel=5 * math.sqrt(2 / size))
    assert mechanism.variance == pytest.approx((0.05 * sd) ** 2, rel=1e-9)
    # Twenty of them have all of it.
    together = own.reshape(200, 20, 32).sum(1)
    assert together.var() == pytest.approx(1600, rel=5 * math.sqrt(2 / together.size))


@every
def test_only_noise_that_is_sure_to_be_there_counts(family):
    plain, cautious = make(family), make(family, dropped=4, colluding=6)
    assert cautious.least == 16
    assert cautious.variance * 10 == pytest.approx(plain.variance * 20, rel=1e-9)
    orders = np.array([2, 8, 32])
    l2 = _curves.rounded_norm(20.0, dimension=32, beta=math.exp(-0.5))
    sd = 20 / math.sqrt(10)
    for moves in (1.0, 2.0):
        l1 = _curves.rounded_sum(l2, 32)
        if family == "gaussian":
            curve = _curves.discrete_gaussians(
                moves * l2, moves * l1, sd=sd, shares=10, dimension=32
            )
        else:
            curve = _curves.skellam(moves * l2, moves * l1, variance=10 * sd**2)
        np.testing.assert_allclose(cautious.event(moves).rdp(orders), curve(orders), rtol=1e-12)
    assert "by 10 of 20 clients" in cautious.event(1.0).words
    assert cautious.noise_multiplier == plain.noise_multiplier == 1.0
    assert np.isinf(make(family, noise_multiplier=0.0).event(1.0).rdp(orders)).all()
    # More than the Gaussian of the same multiplier, whose sensitivity no rounding enlarges.
    assert np.all(plain.event(1.0).rdp(orders) > orders / 2)


@pytest.mark.slow
def test_coordinates_without_room_are_cut_and_counted():
    """Twenty clients have 2^9 integers between them: less than a message on one coordinate needs."""
    mechanism = make(noise_multiplier=0.0, bits=10, dimension=512)
    spike = jnp.zeros(512).at[3].set(1.0)
    own = fast(mechanism.encode)(jax.random.key(0), spike * 100)
    assert int(own.saturated) == 0  # 20 steps of 25
    narrow = make(noise_multiplier=0.0, bits=9, dimension=512)
    own = fast(narrow.encode)(jax.random.key(0), spike)
    assert int(own.saturated) == 1
    assert centred(own.codes, 9)[3] == 255 // 20


# --------------------------------------------------------------------------------------------------
# Sums
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [7, 32])
def test_sums_are_exact_modulo_a_power_of_two(bits):
    """Any integers in any order, however often they wrap."""
    mechanism = make(
        noise_multiplier=0.0, granularity=1.0, bits=bits, clients=4, clip_norm=8.0, dimension=64
    )
    rng = np.random.default_rng(bits)
    integers = rng.integers(-(2**40), 2**40, (50, 64))
    codes = (integers % 2**bits).astype(np.uint32)
    wanted = centred(integers.sum(0), bits).astype(np.float32)
    for order in (np.arange(50), rng.permutation(50)):
        total = jnp.sum(jnp.asarray(codes[order]), axis=0, dtype=jnp.uint32)
        np.testing.assert_array_equal(mechanism.decode(total, jnp.int32(50)), wanted)
    ends = np.array([-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1])
    codes = jnp.asarray((ends % 2**bits).astype(np.uint32))
    decoded = mechanism.decode(codes, jnp.int32(1))
    np.testing.assert_array_equal(decoded, ends.astype(np.float32))


def run(aggregator, key, messages, weights=None):
    """One round: the message and the metrics.  A client of weight zero sends zeros, as in a round."""
    if weights is not None:
        messages = jnp.where(weights[:, None] > 0, messages, 0.0)
    message, _, metrics = aggregators.aggregate(key, aggregator, messages, weights=weights)
    return message, metrics


@pytest.mark.ci
def test_who_has_nothing_to_say_adds_its_noise_and_has_no_say_in_an_abort():
    """Of seven one has no examples, one is not finite, and one has no place."""
    mechanism = make(clients=6, dropped=2, dimension=8)
    aggregator = aggregators.distributed(mechanism, denominator=6)
    messages = jnp.ones((7, 8)).at[1].set(jnp.nan)
    program = fast(lambda weights: run(aggregator, jax.random.key(1), messages, weights))
    message, metrics = program(jnp.array([1, 1, 0, 1, 1, 1, 1], jnp.float32))
    assert int(metrics["surplus"]) == 1
    assert int(metrics["aborted"]) == 0
    assert float(metrics["noise_std"]) == pytest.approx(math.sqrt(6 * mechanism.variance) / 6)
    assert float(metrics["unnoised_clipped"]) == 1  # of the four that count
    # Those who come count alike; rank 6 never did.
    same, _ = program(jnp.array([3, 1, 0, 0.5, 9, 1, 0], jnp.float32))
    np.testing.assert_array_equal(message, same)
    _, metrics = program(jnp.zeros(7))
    assert int(metrics["aborted"]) == 0
    assert float(metrics["noise_std"]) == pytest.approx(math.sqrt(6 * mechanism.variance) / 6)
    assert np.isnan(metrics["unnoised_clipped"])


def test_in_a_round_only_absence_takes_a_share_of_the_noise_away():
    """Four clients: one broken and one empty are there all the same; one drops out."""
    mechanism = make(clients=4, dropped=1, dimension=8)
    dataset = data.from_clients(
        [
            {"x": np.full((n, 8), value, np.float32)}
            for n, value in ((1, 0.1), (1, np.nan), (0, 1.0), (1, 0.2))
        ]
    )
    algorithm = compose(
        client=clients.gradient(lambda w, x, key: jnp.sum(w[None] * x["x"]), batch_size=1),
        aggregator=aggregators.distributed(mechanism, denominator=4),
    )
    start = jnp.zeros(8)

    @fast
    def shares(stays):
        cohort = dataset.cohort(jnp.arange(4), stays)
        rows = jax.vmap(lambda _: algorithm.init_client(start))(cohort.ids)
        _, _, metrics = algorithm.round(jax.random.key(0), algorithm.init(start), rows, cohort)
        return (metrics["noise_std"] * 4) ** 2 / mechanism.variance, metrics["aborted"]

    for stays, present, aborted in (
        ([True] * 4, 4, 0),
        ([False, True, True, True], 3, 0),
        ([False, True, True, False], 2, 1),
    ):
        count, aborts = shares(jnp.array(stays))
        assert float(count) == pytest.approx(present, rel=1e-4)
        assert int(aborts) == aborted


@pytest.mark.slow
def test_the_rotated_sum_is_the_mean_within_its_stated_error():
    """Rounding gives at most gamma^2 / 4, noise (gamma s)^2 for each of 20 clients; 200 rounds."""
    mechanism = make(beta=0.0)
    aggregator = aggregators.rotated(aggregators.distributed(mechanism, denominator=20))
    rng = np.random.default_rng(2)
    flat = rng.normal(size=(20, 30)).astype(np.float32)
    flat *= 0.999 / np.linalg.norm(flat, axis=1, keepdims=True)
    messages = {"a": jnp.asarray(flat[:, :20].reshape(20, 4, 5)), "b": jnp.asarray(flat[:, 20:])}

    def once(key):
        message, _ = run(aggregator, key, messages)
        return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(message)])

    results = np.asarray(fast(jax.vmap(once))(jax.random.split(jax.random.key(6), 200)))
    errors = results - flat.mean(0)
    noise, rounding = mechanism.variance / 20, 0.05**2 / 4 / 20
    standard = np.sqrt((noise + rounding) / 200)
    assert np.abs(errors.mean(0)).max() < 5 * standard
    measured, draws = np.square(errors).mean(), errors.size
    assert measured < (noise + rounding) * (1 + 5 * math.sqrt(2 / draws))
    assert measured > noise * (1 - 5 * math.sqrt(2 / draws))
    like = jax.tree.map(lambda x: x[0], messages)
    public = Public.first(aggregator, like, jax.random.key(0), size=20)
    sent = jax.eval_shape(aggregator.encode, jax.random.key(1), like, public)
    assert wire.bits(sent) == 32 * 16


# --------------------------------------------------------------------------------------------------
# Refusals
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bits": 8}, ValueError, "bits = 8 are too few.*could wrap modulo 2.8; take bits = 1"),
        ({"clients": 4, "dropped": 2, "colluding": 2}, ValueError, "nobody's noise is left"),
        ({"granularity": 1e-8}, ValueError, r"granularity must be at least clip_norm / 2\^22"),
        ({"granularity": 1e-5}, ValueError, "steps wide, and 3000 are supported"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be greater than 0, got 0.0"),
        ({"beta": 1.0}, ValueError, "beta must be at least 0 and less than 1, got 1.0"),
        ({"bits": 33}, ValueError, "bits must be"),
        ({"dimension": 1.5}, TypeError, "dimension must be an integer, got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def test_the_bits_that_a_refusal_names_are_enough():
    """Twenty clients with 20 steps each and noise up to 120: 520, within 2^10 but not 2^9 / 2."""
    for bits in range(2, 11):
        with pytest.raises(ValueError, match=r"coordinates up to 20 .* take bits = 11"):
            make(bits=bits)
    make(bits=11)


def test_aggregators_refuse_what_they_cannot_account():
    with pytest.raises(TypeError, match=r"distributed needs a fjx.privacy.DistributedMechanism"):
        aggregators.distributed(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), 1)
    with pytest.raises(ValueError, match="accounted for 32 coordinates and the message has 33"):
        aggregators.distributed(make(), 1).init(jnp.zeros(33))
    with pytest.raises(ValueError, match="denominator must be greater than 0"):
        aggregators.distributed(make(), 0)


# --------------------------------------------------------------------------------------------------
# With linear compression
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rand_k", pytest.param("sketch", marks=pytest.mark.slow)])
def test_compression_cannot_enlarge_what_a_client_adds(kind):
    """Clipping comes last: whatever lands on the kept coordinates, the integers are within the bound."""
    mechanism = make(noise_multiplier=0.0, dimension=16)
    inner = aggregators.distributed(mechanism, denominator=1)
    aggregator = {
        "rand_k": aggregators.rotated(aggregators.shared_rand_k(0.25, inner)),
        "sketch": aggregators.sketched(rows=2, columns=8, aggregator=inner),
    }[kind]
    messages = jnp.asarray(hostile(64, 2000))

    def one(key, message):
        public = Public.first(aggregator, message, key)
        payload = aggregator.encode(jax.random.fold_in(key, 1), message, public)
        return aggregator.contribute(payload, jnp.float32(1), public)

    keys = jax.random.split(jax.random.key(8), len(messages))
    squares = (centred(fast(jax.vmap(one))(keys, messages).codes, 16) ** 2).sum(1)
    bound = _curves.rounded_norm(20.0, dimension=16, beta=math.exp(-0.5)) ** 2
    assert 0.8 * bound < squares.max() <= bound


@pytest.mark.slow
def test_a_shared_mask_decodes_within_its_closed_form_error():
    """E||error||^2 = (d/k - 1) ||mean||^2 + d^2/k (noise + rounding) / n, over 400 rounds."""
    mechanism = make(dimension=8, clients=10, beta=0.0, noise_multiplier=0.3)
    inner = aggregators.distributed(mechanism, denominator=10)
    aggregator = aggregators.shared_rand_k(0.25, inner)
    rng = np.random.default_rng(3)
    messages = (0.1 * rng.normal(size=(10, 32)) + 0.05).astype(np.float32)
    keys = jax.random.split(jax.random.key(9), 400)
    once = fast(jax.vmap(lambda key: run(aggregator, key, jnp.asarray(messages))[0]))
    errors = np.square(np.asarray(once(keys)) - messages.mean(0)).sum(1)
    masked = 3 * np.square(messages.mean(0)).sum()
    noise, rounding = mechanism.variance, 0.05**2 / 4
    upper = masked + 32**2 / 8 * (noise + rounding) / 10
    lower = masked + 32**2 / 8 * noise / 10
    slack = 5 * errors.std() / 20
    assert lower - slack < errors.mean() < upper + slack
    assert slack < 0.2 * upper


def test_shares_of_discrete_gaussians_add_up_to_what_their_curve_assumes():
    """The variance of a share is s^2 only where s is a step or more; what is stated is the true one."""
    mechanism = make(noise_multiplier=0.1, granularity=0.05, clients=16)
    assert mechanism.variance / 0.05**2 == _discrete.discrete_gaussian(0.5).variance
    assert mechanism.variance / 0.05**2 < 0.25


@pytest.mark.slow
def test_a_round_of_training_is_the_same_to_the_bit_in_any_chunks():
    """Only integers are added up: no order of clients, and no size of chunks, changes a float."""
    mechanism = make(dimension=4, clients=5, granularity=1e-3, noise_multiplier=0.1)
    dataset = data.from_clients([{"x": jnp.full((2, 3), float(i))} for i in range(5)])

    def loss_fn(params, batch, key):
        return jnp.mean((params["w"][None] - batch["x"]) ** 2)

    algorithm = compose(
        client=clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=1, batch_size=2),
        aggregator=aggregators.rotated(aggregators.distributed(mechanism, denominator=5)),
    )
    state = algorithm.init({"w": jnp.zeros(3)})
    rows = jax.vmap(lambda _: algorithm.init_client(state.params))(jnp.arange(5))
    assert algorithm.traffic(state.params).uplink == 4 * 16

    def model(order, executor):
        after, _, metrics = fast(functools.partial(algorithm.round, executor=executor))(
            jax.random.key(0), state, rows, dataset.cohort(jnp.array(order))
        )
        assert int(metrics["aborted"]) == 0
        return np.asarray(after.params["w"])

    whole = model([0, 1, 2, 3, 4], simulation.vectorized())
    np.testing.assert_array_equal(whole, model([3, 0, 4, 1, 2], simulation.chunked(2)))
    assert np.all(whole > 0)
