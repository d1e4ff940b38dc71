"""DP-SGD on clients: against loops, an attack on its sensitivity, its coins, its noise, its claims."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fjx import (
    Examples,
    Stateful,
    Turn,
    aggregators,
    clients,
    compose,
    data,
    privacy,
    samplers,
    simulation,
)
from fjx.clients._dp_sgd import poisson_sample
from fjx.privacy import auditing

HUGE = 1e6


def squared(model, batch, key):
    error = batch["x"] @ model["w"] + model["b"] - batch["y"]
    return jnp.mean(error**2) / 2, {"absolute": jnp.mean(jnp.abs(error))}


def linear(w, x, key):
    """The gradient of an example is the example."""
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.vdot(a, b[0]), w, x)))


def regression(n, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)).astype(dtype), rng.normal(size=n).astype(dtype)
    model = {"w": jnp.array([1.0, -2.0, 0.5], dtype), "b": jnp.zeros((), dtype)}
    return model, {"x": jnp.asarray(x), "y": jnp.asarray(y)}


def window(arrays, offset=0, size=None):
    total = jax.tree.leaves(arrays)[0].shape[0]
    return Examples(arrays, jnp.int32(offset), jnp.int32(total - offset if size is None else size))


def train(loss_fn, model, examples, key, lr=0.1, **how):
    client = clients.dp_sgd(loss_fn, optax.sgd(lr), **how)
    return client.update(key, model, (), examples, Turn())


@functools.partial(jax.jit, static_argnames=("loss_fn", "capacity", "sampling_rate"))
def summed(
    arrays,
    size,
    key,
    *,
    loss_fn=None,
    z=0.0,
    clip_norm=1.0,
    capacity=10,
    sampling_rate=1.0,
):
    """Minus the sum of clipped gradients of one step, at zero, and the metrics."""
    model = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), arrays)
    message, _, metrics = train(
        loss_fn or linear, model, window(arrays, size=size), key, lr=1.0, steps=1, batch_size=1,
        clip_norm=clip_norm, noise_multiplier=z, sampling_rate=sampling_rate, capacity=capacity,
    )  # fmt: skip
    return message, metrics


# --------------------------------------------------------------------------------------------------
# What it computes
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_all_examples_unclipped_without_noise_are_gradient_descent(getkey):
    """The slots that stay empty change nothing."""
    model, arrays = regression(7)
    run = functools.partial(
        train, squared, clip_norm=HUGE, noise_multiplier=0.0, sampling_rate=1.0, steps=4, batch_size=7,
        capacity=11,
    )  # fmt: skip
    message, _, metrics = jax.jit(run)(model, window(arrays), getkey())
    plain = clients.local_sgd(squared, optax.sgd(0.1), epochs=4, batch_size=7)
    expected, _, reported = jax.jit(plain.update)(getkey(), model, (), window(arrays), Turn())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), message, expected)
    for name in ("loss", "absolute"):
        assert float(metrics[f"unnoised_{name}"]) == pytest.approx(float(reported[name]), rel=1e-5)
    assert (float(metrics["steps"]), float(metrics["unnoised_clipped_examples"])) == (4, 0)


@pytest.mark.ci
def test_each_example_is_clipped_alone(getkey):
    """Against a loop in float64 over the examples that the coins of each step chose.

    What may be traced is.
    """
    model, arrays = regression(12)
    key, clip, lr, rate, steps, batch = getkey(), 0.8, 0.2, 0.5, 5, 6.0

    def run(key, clip_norm, z, steps, batch_size):
        return train(
            squared, model, window(arrays, offset=2, size=9), key, lr=lr, clip_norm=clip_norm,
            noise_multiplier=z, sampling_rate=rate, steps=steps, batch_size=batch_size, capacity=9,
        )  # fmt: skip

    message, _, metrics = jax.jit(run)(key, clip, 0.0, steps, batch)
    w, b = np.float64(model["w"]), 0.0
    x, y = (np.float64(arrays[name])[2:11] for name in "xy")
    clipped = seen = 0
    key_coins, _, _ = jax.random.split(jax.random.clone(key), 3)
    for t in range(steps):
        found, drawn = poisson_sample(jax.random.fold_in(key_coins, t), jnp.int32(9), rate, 9)
        total = np.zeros(4)
        for i in np.asarray(found)[: int(drawn)]:
            gradient = (x[i] @ w + b - y[i]) * np.append(x[i], 1.0)
            factor = min(1.0, clip / np.linalg.norm(gradient))
            total += factor * gradient
            clipped, seen = clipped + (factor < 1), seen + 1
        w, b = w - lr * total[:3] / batch, b - lr * total[3] / batch
    np.testing.assert_allclose(message["w"], w - np.float64(model["w"]), rtol=1e-4)
    np.testing.assert_allclose(message["b"], b, rtol=1e-4)
    assert 0 < clipped < seen < 9 * steps
    assert float(metrics["unnoised_clipped_examples"]) == pytest.approx(clipped / seen)


@pytest.mark.slow
def test_integers_stay_and_low_precision_is_kept(getkey):
    model, arrays = regression(5)
    model = {"w": model["w"].astype(jnp.bfloat16), "b": model["b"], "table": jnp.arange(3)}

    def loss_fn(model, batch, key):
        return squared({"w": model["w"].astype(jnp.float32), "b": model["b"]}, batch, key)

    run = functools.partial(
        train, loss_fn, clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, steps=2, batch_size=2,
        capacity=5,
    )  # fmt: skip
    message, _, _ = jax.jit(run)(model, window(arrays), getkey())
    assert jax.tree.map(lambda x: x.dtype, message) == jax.tree.map(lambda x: x.dtype, model)
    assert not np.any(message["table"])
    assert all(np.any(np.asarray(message[name]) != 0) for name in "wb")


# --------------------------------------------------------------------------------------------------
# Sensitivity
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_no_example_moves_the_sum_by_more_than_the_bound():
    """A search over clients of up to six examples with hostile ones; one leaves, or is replaced."""
    trials, n, clip = 2000, 6, 0.7
    rng = np.random.default_rng(4)

    def hostile(*shape):
        x = rng.standard_normal((trials, n, *shape))
        x = x * np.exp(rng.uniform(-60, 60, (trials, n, *[1] * len(shape))))
        for poison in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40):
            x = np.where(rng.random(x.shape) < 0.01, poison, x)
        return jnp.asarray(x, jnp.float32)

    arrays = {"w": hostile(2, 2), "b": hostile()}
    opposite = jax.tree.map(lambda x: x.at[:, -1].multiply(-1), arrays)
    sizes = jnp.asarray(rng.integers(1, n + 1, trials), jnp.int32)

    @jax.jit
    @jax.vmap
    def total(arrays, size):
        x = summed(arrays, size, jax.random.key(0), clip_norm=clip, capacity=6)[0]
        return jnp.concatenate([x["w"].ravel(), x["b"][None]])

    # Of a window's examples the last is in question; it is put there.
    last = jax.jit(jax.vmap(lambda x, size: jnp.roll(x, size, axis=0)))
    here, there = (jax.tree.map(lambda x: last(x, sizes), tree) for tree in (arrays, opposite))
    with_it, without, replaced = (
        np.asarray(total(*at), np.float64)
        for at in ((here, sizes), (here, sizes - 1), (there, sizes))
    )
    assert np.isfinite(with_it).all()
    moved = np.linalg.norm(with_it - without, axis=1)
    assert clip * (1 - 1e-5) < moved.max() <= clip * (1 + 1e-6)
    moved = np.linalg.norm(with_it - replaced, axis=1)
    assert 2 * clip * (1 - 1e-5) < moved.max() <= 2 * clip * (1 + 1e-6)


@pytest.mark.slow
def test_the_divisor_does_not_depend_on_how_many_there_are(getkey):
    """Eight equal examples move the model eight times as far as one."""
    one, eight = (summed(jnp.full((10, 1), 0.1), n, getkey())[0] for n in (1, 8))
    np.testing.assert_allclose(eight, 8 * one, rtol=1e-5)


@pytest.mark.ci
def test_what_cannot_be_used_is_counted(getkey):
    arrays = jnp.zeros((10, 1)).at[:5, 0].set(jnp.array([0.1, np.nan, 0.3, np.inf, 9.0]))
    message, metrics = summed(arrays, 5, getkey())
    np.testing.assert_allclose(message, [-1.4], rtol=1e-4)  # 0.1 + 0.3 + 1, the others nothing
    assert float(metrics["unnoised_nonfinite_examples"]) == 2
    assert float(metrics["unnoised_clipped_examples"]) == pytest.approx(1 / 3)
    assert float(metrics["unnoised_truncated_examples"]) == 0
    message, metrics = summed(jnp.full((10, 1), 0.1), 10, getkey(), capacity=4)
    np.testing.assert_allclose(message, [-0.4], rtol=1e-4)
    assert float(metrics["unnoised_truncated_examples"]) == 6


# --------------------------------------------------------------------------------------------------
# Coins
# --------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("rate", "capacity"))
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def sample(key, size, rate, capacity):
    return poisson_sample(key, size, rate, capacity)


@pytest.mark.few(1)
@pytest.mark.parametrize("size", [600, 3])
def test_every_example_is_drawn_with_the_rate_and_alone(size, getkey):
    draws, rate = 2000, 0.1
    keys = jax.random.split(getkey(), draws)
    positions, drawn = (np.asarray(x) for x in sample(keys, size, rate, 600))
    here = np.zeros((draws, size), bool)
    for row, found, k in zip(here, positions, drawn, strict=True):
        assert np.all(np.diff(found[:k]) > 0)  # distinct, in order
        row[found[:k]] = True
    se = np.sqrt(rate * (1 - rate) / draws)
    assert np.abs(here.mean(0) - rate).max() < 5 * se
    # Independent: the numbers drawn are binomial, and so are pairs of neighbours.
    expected = stats.binom(size, rate)
    assert abs(drawn.var() / expected.var() - 1) < 5 * np.sqrt(2 / draws)
    pairs = (here[:, :-1] & here[:, 1:]).mean(0)
    assert np.abs(pairs - rate**2).max() < 5 * np.sqrt(rate**2 / draws)


@pytest.mark.slow
def test_samples_of_any_size_fit_or_are_cut():
    for size in (0, 1, 255, 256, 257, 512):
        keys = jax.random.split(jax.random.key(size), 1)
        positions, drawn = (x[0] for x in sample(keys, size, 1.0, 300))
        assert int(drawn) == size
        np.testing.assert_array_equal(positions[: min(size, 300)], np.arange(min(size, 300)))
        assert not positions[min(size, 300) :].any()


# --------------------------------------------------------------------------------------------------
# Noise and keys
# --------------------------------------------------------------------------------------------------

NOISE = {
    "clip_norm": 0.5,
    "noise_multiplier": 3.0,
    "sampling_rate": 0.5,
    "batch_size": 4,
    "capacity": 4,
}
"""Of deviation 0.375 in the gradient."""


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None))
def noisy(key, steps, size):
    arrays = {"a": jnp.zeros((4, 500)), "b": jnp.zeros((4, 3, 500))}
    model = jax.tree.map(lambda x: jnp.zeros(x.shape[1:]), arrays)
    message, _, _ = train(linear, model, window(arrays, size=size), key, lr=1, steps=steps, **NOISE)
    return jnp.concatenate([message["a"], message["b"].ravel()])


def noises(steps, size):
    """Messages of 20 clients with 4 x 500 parameters whose examples are all zero, at lr 1."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(8), jnp.arange(20))
    return np.asarray(noisy(keys, steps, size))


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("size", [4, 0])
def test_noise_is_gaussian_and_its_own_for_each_leaf_step_and_client(size):
    """Also where there are no examples: their absence must not show."""
    first = noises(1, size)
    second = noises(2, size) - first  # both steps, less the first, which has the same key
    for noise in (first, second):
        assert stats.kstest(noise.ravel() / 0.375, "norm").pvalue > 1e-4
        low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], noise.size)
        assert low < np.sum(np.float64(noise / 0.375) ** 2) < high
    blocks = np.concatenate([first, second]).reshape(160, 500)  # clients, leaves, steps
    correlation = np.corrcoef(blocks) - np.eye(160)
    assert np.abs(correlation).max() * np.sqrt(500) < 5.5  # 12,720 pairs


@pytest.mark.ci
def test_noise_does_not_depend_on_the_examples():
    np.testing.assert_array_equal(noises(1, 4), noises(1, 0))


def scaled_by_key(w, x, key):
    return jnp.sum(w) * jax.random.normal(key)


@pytest.mark.slow
def test_coins_noise_and_loss_have_keys_of_their_own():
    """The same key gives the same message, of parts that each come from their own key."""

    def run(seed, z):
        message, _ = summed(
            jnp.ones((40, 1)), 40, jax.random.key(seed), z=z, clip_norm=HUGE,
            sampling_rate=0.5, capacity=40,
            loss_fn=scaled_by_key,
        )  # fmt: skip
        return float(message[0])

    assert run(1, 0.0) == run(1, 0.0) != run(2, 0.0)
    key_coins, key_noise, key_loss = jax.random.split(jax.random.key(1), 3)
    _, drawn = poisson_sample(jax.random.fold_in(key_coins, 0), jnp.int32(40), 0.5, 40)
    each = jax.random.split(jax.random.fold_in(key_loss, 0), 40)
    # A loss per example splits the key of its batch, here of one example.
    values = jax.vmap(lambda key: jax.random.normal(jax.random.split(key, 1)[0]))(each)
    assert run(1, 0.0) == pytest.approx(-float(values[: int(drawn)].sum()), rel=1e-4)
    noise = jax.random.normal(jax.random.fold_in(jax.random.fold_in(key_noise, 0), 0), (1,))
    assert run(1, 1 / HUGE) - run(1, 0.0) == pytest.approx(-float(noise[0]), abs=1e-3)


# --------------------------------------------------------------------------------------------------
# Claims
# --------------------------------------------------------------------------------------------------

MECHANISM = privacy.gaussian(clip_norm=0.5, noise_multiplier=1.5)
SPENT = {"sampling_rate": 0.1, "steps": 4, "capacity": 40, "num_examples": 100, "delta": 1e-5}


@pytest.mark.ci
def test_the_epsilon_of_an_example_is_that_of_so_many_releases():
    claim = privacy.examples_epsilon(MECHANISM, participations=25, **SPENT)
    plain = privacy.epsilon(MECHANISM, samplers.poisson(0.1), rounds=100, delta=1e-5)
    assert claim == pytest.approx(plain, abs=1e-5)
    assert (claim.unit, claim.rounds, plain.unit) == ("example", 25, "client")
    assert "example-level" in str(claim)
    assert "Poisson rate 0.1 in each of 4 steps, 25 rounds" in str(claim)
    assert "Whether a client has any examples is not covered" in str(claim)
    replaced = privacy.examples_epsilon(
        MECHANISM, participations=25, relation="replace_one", **SPENT
    )
    assert replaced > claim
    assert replaced.relation == "replace_one"
    assert "not covered" not in str(replaced)
    assert privacy.examples_epsilon(MECHANISM, participations=0, **SPENT) == 0


def test_samples_that_do_not_fit_are_paid_for_or_refused():
    how = {**SPENT, "participations": 25, "method": "rdp"}
    exact = privacy.examples_epsilon(MECHANISM, **{**how, "capacity": 100})
    # P[Binomial(99, 0.1) >= 29] = 7.4e-8 in each of a hundred releases: three quarters of delta.
    tight = privacy.examples_epsilon(MECHANISM, **{**how, "capacity": 29})
    paid = 100 * stats.binom.sf(28, 99, 0.1)
    assert 0.7e-5 < paid < 0.8e-5
    spent = privacy.epsilon(
        MECHANISM, samplers.poisson(0.1), rounds=100, delta=1e-5 - paid, method="rdp"
    )
    assert exact < tight == pytest.approx(spent, abs=1e-5)
    with pytest.raises(
        ValueError, match=r"capacity=15 is too small: of 100 examples.*raise capacity"
    ):
        privacy.examples_epsilon(MECHANISM, **{**how, "capacity": 15})


@pytest.mark.slow
def test_both_levels_in_one_run():
    """DP-SGD on clients under a private sum: each claim is that of its own mechanism."""
    dataset = data.from_clients([jnp.full((n, 3), 0.5) for n in (4, 2, 6)])
    sums = privacy.gaussian(clip_norm=0.2, noise_multiplier=2.0)
    client = clients.dp_sgd(
        linear, optax.sgd(0.1), clip_norm=0.5, noise_multiplier=1.5, sampling_rate=0.5, steps=2,
        batch_size=2, capacity=6,
    )  # fmt: skip
    algorithm = compose(client=client, aggregator=aggregators.private(sums, denominator=2))
    start = algorithm.init(jnp.zeros(3))
    rows = simulation.make_table(algorithm.init_client(start.params), 3)
    cohort = dataset.cohort(jnp.arange(3))
    state, _, metrics = jax.jit(algorithm.round)(jax.random.key(0), start, rows, cohort)
    assert np.abs(state.params).min() > 0
    assert {"unnoised_loss", "unnoised_clipped_examples", "unnoised_clipped", "noise_std"} <= set(
        metrics
    )
    assert float(metrics["unnoised_steps"]) == 2
    sampler = samplers.poisson(0.6)
    example = privacy.examples_epsilon(
        MECHANISM,
        sampling_rate=0.5,
        steps=2,
        participations=3,
        capacity=6,
        num_examples=6,
        delta=1e-3,
    )
    whole = privacy.epsilon(sums, sampler, rounds=3, delta=1e-3)
    assert (example.unit, whole.unit) == ("example", "client")
    assert 0 < whole < example < 10


@pytest.mark.slow
def test_an_audit_of_one_example_stays_below_its_claim(getkey):
    """Four thousand runs of two steps at rate 1/2, with the canary and without; and without noise."""
    runs, delta = 4000, 1e-2
    arrays = jnp.array([[0.0, 50.0], [0.0, 50.0], [50.0, 0.0]])
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
    claim = privacy.examples_epsilon(
        mechanism,
        sampling_rate=0.5,
        steps=2,
        participations=1,
        capacity=3,
        num_examples=3,
        delta=delta,
    )

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def score(key, size, z):
        message, _, _ = train(
            linear, jnp.zeros(2), window(arrays, size=size), key, lr=1.0, clip_norm=1.0,
            noise_multiplier=z, sampling_rate=0.5, steps=2, batch_size=1, capacity=3,
        )  # fmt: skip
        return -message[0]

    def bound(z):
        inside, outside = (score(jax.random.split(getkey(), runs), n, z) for n in (3, 2))
        return auditing.clopper_pearson(inside, outside, delta=delta, significance=1e-4)

    assert 0.4 * claim < bound(1.0) < claim < bound(0.1)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------

GOOD = {"clip_norm": 1.0, "noise_multiplier": 1.0, "sampling_rate": 0.5, "steps": 1, "batch_size": 2,
        "capacity": 4}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be greater than 0"),
        ({"noise_multiplier": -1.0}, ValueError, "noise_multiplier must be at least 0"),
        ({"sampling_rate": 0.0}, ValueError, "sampling_rate must be at least"),
        ({"sampling_rate": 1.5}, ValueError, "sampling_rate must be at least .* and at most 1"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 1.0}, TypeError, "steps must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be greater than 0"),
        ({"capacity": 0}, ValueError, "capacity must be at least 1"),
        ({"capacity": 2.5}, TypeError, "capacity must be an integer"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    with pytest.raises(error, match=message):
        clients.dp_sgd(linear, optax.sgd(0.1), **{**GOOD, **change})


def test_losses_that_mix_examples_are_refused():
    whole = clients.whole_batch(lambda w, x, mask, key: jnp.sum(w * x, where=mask))
    for loss_fn in (whole, None):
        with pytest.raises(TypeError, match="dp_sgd clips the gradient of each example"):
            clients.dp_sgd(loss_fn, optax.sgd(0.1), **GOOD)
    with pytest.raises(TypeError, match="optimizer must be an optax transformation"):
        clients.dp_sgd(linear, 0.1, **GOOD)
    client = clients.dp_sgd(linear, optax.sgd(0.1), **GOOD)
    with pytest.raises(TypeError, match="cannot move mutable state"):
        client.update(
            jax.random.key(0), Stateful(jnp.zeros(2), ()), (), window(jnp.ones((3, 2))), Turn()
        )

    def moves(w, x, key):
        return jnp.sum(w), {}, ()

    with pytest.raises(TypeError, match="mixes the examples of a batch"):
        summed(jnp.ones((10, 1)), 3, jax.random.key(0), loss_fn=moves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"participations": -1}, "participations must be at least 0"),
        ({"num_examples": 0}, "num_examples must be at least 1"),
        ({"delta": 1.0}, "delta must be"),
        ({"sampling_rate": 0.0}, "sampling_rate must be"),
        ({"relation": "swap"}, "relation must be one of"),
    ],
)
def test_claims_check_their_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        privacy.examples_epsilon(MECHANISM, **{**SPENT, "participations": 1, **change})


def test_claims_are_of_independent_noise():
    """The client's steps have fresh noise, so a claim for noise that is correlated is another's."""
    tree = privacy.correlated(privacy.tree(4), clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(ValueError, match=r"clients\.dp_sgd adds independent noise"):
        privacy.examples_epsilon(tree, **{**SPENT, "participations": 1})
