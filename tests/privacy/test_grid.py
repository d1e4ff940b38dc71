"""Sums on a grid: as sensitive as claimed for every executor, without overflow, noised by steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Public, privacy, simulation
from fjx.aggregators import private
from fjx.privacy._mechanisms import grid

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PUBLIC = Public((), None, None, None)
EXECUTORS = {
    "vectorized": simulation.vectorized,
    "chunked(1)": lambda: simulation.chunked(1),
    "chunked(7)": lambda: simulation.chunked(7),
    "lanes(2)": lambda: simulation.lanes(2),
    "sharded": lambda: simulation.sharded(jax.make_mesh((jax.device_count(),), ("clients",))),
}


@pytest.mark.parametrize("name", EXECUTORS)
def test_one_client_moves_the_sum_by_its_own_steps(name):
    """512 clients bring a float32 sum to a power of two; of 3,000 others, half units in the last place
    count below it and are lost above it.  Then one client more moves a float sum by many units.
    """
    half_unit = -(2.0 ** (9 - 24))
    x = np.array([1.0] * 512 + [1 - 2.0**-20] + [half_unit] * 3000, np.float32)
    mechanism = privacy.gaussian(clip_norm=1.0001, noise_multiplier=0.0)
    contribute = private(mechanism, denominator=1).contribute
    execute = EXECUTORS[name]()

    def client(_, x):
        return contribute(x, jnp.float32(1), PUBLIC), ()

    @fast
    def total(x):
        return execute(client, (), x, jnp.ones(len(x), jnp.int32))[0].update

    step = float(grid.step_of(grid.GAUSSIAN, 0.0, 1.0001))
    there, absent = (number(total(y)) for y in (x, np.append(np.float32(0), x[1:])))
    assert (there - absent) * step == pytest.approx(1.0, rel=1e-6)
    assert there * step == pytest.approx(np.sum(x, dtype=np.float64), rel=1e-6)
    # The floats of the docstring do move further; the case is a real one.
    floats = [functools.reduce(lambda a, b: np.float32(a + b), y) for y in (x, np.append(0, x[1:]))]
    assert abs(floats[0] - floats[1]) > 1.01


def number(steps):
    """The whole numbers of steps."""
    total = 0
    for digit in steps.digits:
        total = total * 2**12 + np.asarray(digit, np.int64)
    return total


@pytest.mark.parametrize("z", [0.0, 0.7])
def test_steps_are_within_every_norm_and_exact(z):
    rng = np.random.default_rng(0)
    x = jnp.asarray(
        rng.standard_normal((200, 50)) * np.exp(rng.uniform(-9, 9, (200, 1))), jnp.float32
    )
    step = grid.step_of(grid.GAUSSIAN, z, 3.0)
    steps = fast(lambda x: grid.in_steps(grid.GAUSSIAN, x, z, 3.0))(x)
    for digit in steps.digits[1:]:
        assert digit.min() >= 0
        assert digit.max() < 2**12
    whole = number(steps)
    exact = np.asarray(x, np.float64) / float(step)
    assert (np.abs(whole) <= np.abs(exact) * (1 + 2.0**-22)).all()
    assert (np.abs(whole - exact) <= 1 + np.abs(exact) * 2.0**-22).all()
    # The margin of the noise covers that rounding.
    assert fine_margin() > 2.0**-21


def fine_margin():
    from fjx.privacy._mechanisms import fine

    widths = (fine._S * np.sqrt(fine._A**2 + 1.0) / fine.GAUSSIAN, 1 + 2.0**-19)
    return min(widths) - 1


def test_the_release_depends_on_the_sum_alone():
    """Equal sums of steps, split differently, are released alike, bit for bit, also beyond 2^24."""
    step = jnp.float32(2.0**-9)
    total = np.array([-(2**33) + 12345, -1, 0, 4095, 4096, 2**40 + 7, 2**54 - 1])
    noise = jnp.asarray([3, -7, 1, 1, -4097, 2**22, 1], jnp.int32)
    split = jax.jit(grid.value)
    digits = [total >> 24, total >> 12 & 4095, total & 4095]
    one = grid.Steps(tuple(jnp.asarray(digit, jnp.int32) for digit in digits))
    high, middle, low = one.digits
    other = grid.Steps((high - 400_000, middle + 399_999 * 4096, low + 4096 * 4096))
    np.testing.assert_array_equal(split(one, noise, step), split(other, noise, step))
    exact = (total + np.asarray(noise, np.int64)) * 2.0**-9
    np.testing.assert_allclose(split(one, noise, step), exact, rtol=2.0**-22)


@pytest.mark.few(4)
@pytest.mark.parametrize("clip_norm", [2.0**-64, 1.0, 2.0**100])
@pytest.mark.parametrize("z", [0.0, 2.0**-5, 1.0, 1000.0])
def test_no_accepted_clip_norm_and_cohort_overflows(clip_norm, z):
    """The largest cohort, all of whose clients send C in one coordinate."""
    mechanism = privacy.gaussian(clip_norm=clip_norm, noise_multiplier=z)
    own = mechanism.to_steps(jnp.float32(clip_norm), ())
    for sign in (1, -1):
        parts = [sign * grid.MOST * int(digit) for digit in own.digits]
        assert max(map(abs, parts)) < 2**31 - 2**24
        total = privacy.Contribution(
            grid.Steps(tuple(jnp.int32(part) for part in parts)),
            jnp.int32(grid.MOST),
            jnp.int32(0),
            jnp.zeros(()),
        )
        released = float(fast(mechanism.release)(jax.random.key(0), total, ())[0])
        wanted = sign * grid.MOST * clip_norm
        assert released == pytest.approx(wanted, rel=1e-6, abs=20 * z * clip_norm)
    beyond = total._replace(clients=jnp.int32(grid.MOST + 1))
    assert np.isnan(fast(mechanism.release)(jax.random.key(0), beyond, ())[0])


def test_what_could_overflow_is_refused():
    for clip_norm in (1e31, 1e-31):
        with pytest.raises(ValueError, match="clip_norm must be between 2\\^-64 and 2\\^100"):
            privacy.gaussian(clip_norm=clip_norm, noise_multiplier=1.0)
        with pytest.raises(ValueError, match="clip_norm must be between"):
            privacy.laplace(clip_norm=clip_norm, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="noise_multiplier \\* clip_norm must be at most 2\\^120"):
        privacy.gaussian(clip_norm=1e30, noise_multiplier=1e9)


@pytest.mark.few(1)
@pytest.mark.parametrize("make", [privacy.gaussian, privacy.laplace])
def test_small_multipliers_add_little(make):
    """Below 2^-17 the grid stays, and the noise shrinks on it."""
    nothing = privacy.Contribution(jnp.zeros(4000), jnp.int32(0), jnp.int32(0), jnp.zeros(()))

    @fast
    def noise(z):
        return make(clip_norm=1.0, noise_multiplier=z).release(jax.random.key(0), nothing, ())

    for z in (1e-7, 1e-4, 0.5):
        noised, _, metrics = noise(z)
        std = float(metrics["noise_std"])
        tolerance = 5 * std * np.sqrt(5 / (4 * 4000))  # the kurtosis of Laplace noise is 6
        assert float(noised.std()) == pytest.approx(std, abs=tolerance)
    assert float(jnp.abs(noise(0.0)[0]).max()) == 0


def test_large_noise_and_the_digits_of_many_clients_do_not_overflow():
    digits = tuple(jnp.full(2, x, jnp.int32) for x in (3, 4095 * grid.MOST))
    noise = jnp.array([10**9, -(10**9)], jnp.int32)
    total = 3 * 4096 + 4095 * grid.MOST + np.array([10**9, -(10**9)])
    assert (
        grid.value(grid.Steps(digits), noise, jnp.float32(1)).tolist()
        == total.astype(np.float32).tolist()
    )
