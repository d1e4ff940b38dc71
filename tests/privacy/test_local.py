"""Local privacy: unbiased with the stated error, and likelihoods that differ by no more than stated."""

import functools
import math
from fractions import Fraction

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy import special, stats

from fjx import privacy, wire
from fjx.privacy._local import mechanisms as _local
from fjx.privacy._local import sphere as _sphere

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

MECHANISMS = {
    "priv_unit": privacy.priv_unit(epsilon=3.0, clip_norm=2.0),
    "priv_unit_large": privacy.priv_unit(epsilon=8.0, clip_norm=2.0),
    "randomized_response": privacy.randomized_response(
        4, epsilon=12.0, low=-1.0, high=1.0, coordinates=6
    ),
    "laplace": privacy.local_laplace(epsilon=2.0, clip_norm=4.0),
    "gaussian": privacy.local_gaussian(clip_norm=2.0, noise_multiplier=1.0),
}
slow = pytest.mark.slow
LARGE = pytest.param("priv_unit_large", marks=slow)
SMALL = [name for name in MECHANISMS if name != "priv_unit_large"]

X = {"a": jnp.array([[0.9, -0.3], [0.25, 0.0]]), "b": jnp.array([-0.7, 0.1])}
FLAT = np.concatenate([np.asarray(x).ravel() for x in X.values()])
BITS = {"randomized_response": 16}  # twelve, in whole bytes


def variance_of_response(x, k, epsilon, low, high):
    """By enumeration: x is rounded to a level, the level is kept or not, what is sent is decoded."""
    p = k / (math.exp(epsilon) + k - 1)
    values, step = np.linspace(low, high, k), (high - low) / (k - 1)
    moment = 0.0
    for own in range(k):
        rounded = max(0.0, 1 - abs(x - values[own]) / step)
        for sent in range(k):
            chance = rounded * ((1 - p) * (own == sent) + p / k)
            moment += chance * ((values[sent] - p * (low + high) / 2) / (1 - p)) ** 2
    return moment - x**2


def stated_error(name):
    square = (FLAT**2).sum()
    match name:
        case "priv_unit":
            return 4 / _sphere.unit(3.0, 6).mean ** 2 - square
        case "priv_unit_large":
            return 4 / _sphere.unit(8.0, 6).mean ** 2 - square
        case "randomized_response":
            return sum(variance_of_response(x, 4, 2.0, -1.0, 1.0) for x in FLAT.astype(float))
        case "laplace":
            return 6 * 2 * 4.0**2
        case "gaussian":
            return 6 * 2.0**2


@pytest.mark.ci
@pytest.mark.few(2)
@pytest.mark.parametrize("name", [*SMALL, LARGE])
def test_unbiased_with_the_stated_error_through_the_wire(name):
    codec, count = MECHANISMS[name].codec, 10_000

    def once(key):
        payload, state = codec.encode(key, X, codec.init(X))
        assert state == ()
        return payload

    payloads = fast(jax.vmap(once))(jax.random.split(jax.random.key(1), count))
    decoded = fast(jax.vmap(codec.decode))(payloads)
    draws = np.concatenate([np.asarray(x).reshape(count, -1) for x in decoded.values()], axis=1)
    draws = draws.astype(np.float64)
    error = np.square(draws - FLAT).sum(1)
    assert np.all(np.abs(draws.mean(0) - FLAT) < 5 * draws.std(0) / np.sqrt(count))
    assert abs(error.mean() - stated_error(name)) < 5 * error.std() / np.sqrt(count)
    one = jax.tree.map(lambda x: x[0], payloads)
    assert wire.bits(one) == BITS.get(name, 6 * 32)
    again = wire.from_bytes(wire.to_bytes(one))
    jax.tree.map(
        np.testing.assert_array_equal, codec.decode(again), jax.tree.map(lambda x: x[0], decoded)
    )


# --------------------------------------------------------------------------------------------------
# Likelihoods
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_randomized_response_of_a_half_and_two_levels_has_epsilon_ln_three():
    """The oracle p = 1/2, k = 2; and every likelihood ratio, counted over all inputs and answers."""
    for k, epsilon in [(2, math.log(3)), (5, 1.0)]:
        mechanism = privacy.randomized_response(k, epsilon=epsilon, low=0.0, high=k - 1.0)
        levels = jnp.arange(k, dtype=jnp.float32)
        count = 40_000

        def answers(key, mechanism=mechanism, levels=levels):
            def one(x):
                return mechanism.codec.encode(jax.random.clone(key), x, ())[0].vector.codes

            return jax.vmap(one)(levels)

        sent = np.asarray(fast(jax.vmap(answers))(jax.random.split(jax.random.key(2), count)))
        counts = np.array([np.bincount(sent[:, i].ravel(), minlength=k) for i in range(k)])
        p = k / (math.exp(epsilon) + k - 1)
        wanted = np.full((k, k), p / k) + (1 - p) * np.eye(k)
        error = np.sqrt(wanted * (1 - wanted) / count)
        assert np.all(np.abs(counts / count - wanted) < 5 * error)
        assert math.log(wanted.max() / wanted.min()) == pytest.approx(epsilon)
        if k == 2:
            assert p == pytest.approx(0.5)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("epsilon", "dimension"), [(1.0, 2), (3.0, 3), (5.0, 50), pytest.param(9.0, 1000, marks=slow)]
)
def test_priv_unit_is_uniform_in_the_cap_and_out_of_it(epsilon, dimension):
    """Of <V, u>: how often it is above t, and its law on either side, against the beta distribution."""
    caps, count = _sphere.unit(epsilon, dimension), 20_000
    keys = jax.random.split(jax.random.key(3), count)
    heights = np.asarray(fast(jax.vmap(lambda key: _sphere.along(key, caps)))(keys), np.float64)
    inside = heights >= caps.height - 1e-6
    error = math.sqrt(caps.inside * (1 - caps.inside) / count)
    assert abs(inside.mean() - caps.inside) < 5 * error
    half = (dimension - 1) / 2
    law = stats.beta(half, half)  # of (1 + <V, u>) / 2, V uniform
    below = 1 - caps.share
    assert law.cdf((1 + caps.height) / 2) == pytest.approx(below, abs=1e-9)
    ranks_in = law.sf((1 + heights[inside]) / 2) / caps.share
    ranks_out = law.cdf((1 + heights[~inside]) / 2) / below
    for ranks in (ranks_in, ranks_out):
        assert stats.kstest(np.clip(ranks, 0, 1), "uniform").pvalue > 1e-4
    # The densities in and out of the cap differ by e^epsilon, and by no choice of u by more.
    ratio = (caps.inside / caps.share) / ((1 - caps.inside) / below)
    assert epsilon - 2e-6 < math.log(ratio) <= epsilon
    assert heights.mean() == pytest.approx(caps.mean, abs=5 * heights.std() / math.sqrt(count))


def test_the_cap_is_the_best_one_and_one_dimension_is_a_response():
    """Against numerical integration over other caps; d = 2 has an elementary form."""
    for epsilon, dimension in [(0.5, 2), (2.0, 10), (6.0, 500)]:
        caps = _sphere.unit(epsilon, dimension)
        half = (dimension - 1) / 2
        for t in np.linspace(0, min(1, 6 / math.sqrt(dimension)), 60)[1:-1]:
            q = special.betainc(half, 0.5, 1 - t * t) / 2
            grid = np.linspace(t, 1, 200_001)[:-1]
            density = np.exp((dimension - 3) / 2 * np.log1p(-(grid**2)) - special.betaln(0.5, half))
            moment = np.sum(grid * density) * (grid[1] - grid[0])
            p = q * math.exp(epsilon) / (1 - q + q * math.exp(epsilon))
            assert moment * (p / q - (1 - p) / (1 - q)) < caps.mean * (1 + 2e-2)
    caps = _sphere.unit(1.0, 2)
    angle = math.acos(caps.height)
    assert caps.share == pytest.approx(angle / math.pi)
    assert caps.mean == pytest.approx(
        math.sin(angle)
        / math.pi
        * (caps.inside / caps.share - (1 - caps.inside) / (1 - caps.share))
    )


@pytest.mark.slow
def test_worst_case_messages_are_told_apart_no_better_than_epsilon_allows():
    """The most telling event between opposite messages, counted: of 10,000 draws each."""
    count = 10_000
    for mechanism, x in [
        (privacy.priv_unit(epsilon=2.0, clip_norm=1.0), jnp.zeros(8).at[0].set(1.0)),
        (privacy.local_laplace(epsilon=2.0, clip_norm=1.0), jnp.zeros(8).at[0].set(1.0)),
    ]:
        codec = mechanism.codec

        @fast
        def first(key, codec=codec, x=x):
            keys = jax.random.split(key, 2 * count)
            signed = jnp.concatenate([jnp.ones(count), -jnp.ones(count)])
            sent = jax.vmap(lambda k, s: codec.encode(k, s * x, ())[0].vector[0])(keys, signed)
            return sent.reshape(2, count)

        plus, minus = np.asarray(first(jax.random.key(4)))
        for cut in np.quantile(plus, [0.3, 0.5, 0.7, 0.9]):
            a, b = (plus >= cut).mean(), (minus >= cut).mean()
            error = math.sqrt((1 - a) / (a * count) + (1 - b) / (max(b, 1e-9) * count))
            assert abs(math.log(a / b)) < mechanism.epsilon + 5 * error
        # Not by luck: the bound is nearly met.
        cuts = np.quantile(plus, np.linspace(0.05, 0.95, 40))
        gaps = [math.log((plus >= c).mean() / (minus >= c).mean()) for c in cuts]
        assert max(gaps) > 0.8 * mechanism.epsilon


# --------------------------------------------------------------------------------------------------
# Events, edges and refusals
# --------------------------------------------------------------------------------------------------


def test_events_compose_to_the_epsilon_that_is_named():
    replace = dp_accounting.NeighboringRelation.REPLACE_ONE
    for name, mechanism in MECHANISMS.items():
        event = mechanism.event()
        accountant = RdpAccountant(neighboring_relation=replace).compose(event)
        if name == "gaussian":
            assert mechanism.epsilon == math.inf
            assert event.noise_multiplier == 0.5
        else:
            assert 0.9 * mechanism.epsilon < np.max(accountant.rdp) <= mechanism.epsilon + 1e-9
        if "laplace" not in name and name != "gaussian":
            assert PLDAccountant(replace).compose(event).get_epsilon(1e-12) == pytest.approx(
                mechanism.epsilon, abs=1e-3
            )


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SMALL)
def test_any_message_is_answered(name):
    codec = MECHANISMS[name].codec

    @fast
    def decoded(key, message):
        return codec.decode(codec.encode(key, message, ())[0])

    for value in (0.0, 1e30, jnp.nan, jnp.inf):
        message = jax.tree.map(lambda x, value=value: jnp.full_like(x, value), X)
        for leaf in jax.tree.leaves(decoded(jax.random.key(5), message)):
            assert np.isfinite(leaf).all()


def test_small_messages_and_narrow_ones():
    mechanism = privacy.priv_unit(epsilon=1.0, clip_norm=1.0)
    for message in (jnp.array(0.5), jnp.array([0.5], jnp.bfloat16)):
        payload, _ = fast(mechanism.codec.encode)(jax.random.key(0), message, ())
        out = mechanism.codec.decode(payload)
        assert out.dtype == message.dtype
        assert out.shape == message.shape


def test_what_cannot_be_private_is_refused():
    with pytest.raises(TypeError, match=r"message must have floating leaves only.*\['n'\]"):
        MECHANISMS["laplace"].codec.encode(jax.random.key(0), {"n": jnp.arange(3)}, ())
    with pytest.raises(ValueError, match=r"coordinates = 6, and the message has 7; make .*=7"):
        MECHANISMS["randomized_response"].codec.encode(jax.random.key(0), jnp.zeros(7), ())
    with pytest.raises(ValueError, match="epsilon must be greater than 0"):
        privacy.priv_unit(epsilon=0.0, clip_norm=1.0)
    with pytest.raises(ValueError, match=r"high must be greater than 1\.0"):
        privacy.randomized_response(2, epsilon=1.0, low=1.0, high=1.0)
    with pytest.raises(ValueError, match="epsilon = 1e-07 shared by 9 coordinates leaves nothing"):
        privacy.randomized_response(2, epsilon=1e-7, low=0.0, high=1.0, coordinates=9)
    with pytest.raises(TypeError, match="levels must be an integer"):
        privacy.randomized_response(2.5, epsilon=1.0, low=0.0, high=1.0)
    with pytest.raises(ValueError, match="noise_multiplier must be at least"):
        privacy.local_gaussian(clip_norm=1.0, noise_multiplier=0.0)


# --------------------------------------------------------------------------------------------------
# Coins at the ends of what is accepted
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-3, 1.0, 12.0, 49.0, 50.0])
@pytest.mark.parametrize("dimension", [2, 3, 17, 10**4, 10**7])
def test_the_coin_of_priv_unit_reveals_no_more_than_promised(epsilon, dimension):
    """The ratio of the densities, from the whole number that is compared with 64 random bits."""
    caps = _sphere.unit(epsilon, dimension)
    assert np.float32(caps.height) == caps.height
    outside = Fraction(caps.outside, 2**64)
    share = Fraction(caps.share)
    ratio = (1 - outside) / share / (outside / (1 - share))
    assert 0 < outside < 1
    assert math.log(ratio) <= epsilon - 2e-7
    assert math.log(ratio) >= epsilon - 2e-6 - 1 / caps.outside


def test_the_coin_of_priv_unit_is_compared_to_its_last_bit(monkeypatch):
    caps = _sphere.unit(3.0, 2)
    high, low = caps.outside >> 32, caps.outside & 0xFFFFFFFF
    for words, inside in (((high, low), True), ((high, low - 1), False), ((high - 1, low), False)):
        words = tuple(map(jnp.uint32, words))
        monkeypatch.setattr(_sphere._random, "words", lambda key, shape, words=words: words)
        assert (float(_sphere.along(jax.random.key(0), caps)) >= caps.height - 1e-6) == inside


@pytest.mark.parametrize(("levels", "epsilon"), [(2, 1e-4), (2, 12.0), (7, 11.999), (256, 1.0)])
def test_no_answer_of_randomized_response_reveals_more_than_promised(monkeypatch, levels, epsilon):
    """Words at the ends of every level's share; the shares are whole numbers of 2^-32."""
    mechanism = privacy.randomized_response(levels, epsilon=epsilon, low=0.0, high=levels - 1.0)

    def answer(word):
        monkeypatch.setattr(
            _local._random, "bits", lambda key, shape: jnp.full(shape, word, jnp.uint32)
        )
        return int(mechanism.codec.encode(jax.random.key(0), jnp.zeros(1), ())[0].vector.codes[0])

    # The answer to level 0 is 1, 2, ..., k - 1, and then 0: find the first word of 2 and of 0.
    def first(wanted):
        low, high = 0, 2**32 - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if wanted(answer(middle)) else (middle + 1, high)
        return low

    own = first(lambda a: a == 0)
    each = own // (levels - 1)
    assert own == each * (levels - 1)
    assert answer(0) == 1
    assert answer(own - 1) == levels - 1
    assert answer(own) == 0
    assert math.log(Fraction(2**32 - own, each)) <= epsilon
    lost = 1 / each + levels / (2**32 - own)  # of rounding up to a whole number
    assert math.log(Fraction(2**32 - own, each)) >= epsilon - 2 * lost
