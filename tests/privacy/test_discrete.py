"""Integer noise against exact probabilities: tables to the last of 192 bits, draws by chi-squared."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import stats

from fjx._kernels import random as _random
from fjx.privacy._mechanisms import alias
from fjx.privacy._mechanisms import integer_noise as _discrete
from fjx.privacy._mechanisms.integer_noise import discrete_gaussian, skellam

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

WEIGHTS = {
    "gaussian": lambda sd: _discrete.gaussian_law(sd).weights,
    "skellam": lambda sd: _discrete._skellam_law(sd**2).weights,
}
FAMILIES = {"gaussian": discrete_gaussian, "skellam": skellam}
every = pytest.mark.parametrize("family", FAMILIES)


def exact(family, sd, reach):
    """P(0), ..., P(reach) to ninety digits, by mpmath."""
    with mpmath.workdps(90):
        if family == "skellam":
            v = mpmath.mpf(sd**2)
            return [mpmath.exp(-v) * mpmath.besseli(k, v) for k in range(reach + 1)]
        densities = [
            mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * mpmath.mpf(sd) ** 2)) for k in range(reach + 1)
        ]
        whole = mpmath.jtheta(3, 0, mpmath.exp(-1 / (2 * mpmath.mpf(sd) ** 2)))
        return [density / whole for density in densities]


@every
@pytest.mark.parametrize("sd", [0.1, 0.5, 3.0, 20.0])
def test_probabilities_are_exact_to_192_bits(family, sd):
    weights = WEIGHTS[family](sd)
    assert weights[0] + 2 * sum(weights[1:]) == 2**192
    with mpmath.workdps(90):
        true = exact(family, sd, len(weights) + 60)
        given = [mpmath.mpf(w) / 2**192 for w in weights] + [mpmath.mpf(0)] * 61
        off = [abs(a - b) for a, b in zip(given, true, strict=True)]
        assert max(off[1:]) <= mpmath.mpf(2) ** -193 * (1 + mpmath.mpf(10) ** -9)
        apart = (off[0] + 2 * sum(off[1:])) / 2
        assert apart <= FAMILIES[family](sd).distance <= apart + mpmath.mpf(2) ** -189
        assert FAMILIES[family](sd).distance < 2.0**-180


@pytest.mark.slow
def test_the_widest_table_is_as_near_as_stated():
    assert discrete_gaussian(_discrete.LARGEST).distance < 2.0**-170


def test_moments_of_the_tables():
    def moment(weights, power):
        return 2 * sum(k**power * w for k, w in enumerate(weights)) / 2**192

    for sd, variance, at_zero in [(0.5, 0.2150127, 0.7865707), (1.0, 0.9999998, 0.3989423)]:
        assert discrete_gaussian(sd).variance == pytest.approx(variance, abs=5e-8)
        assert WEIGHTS["gaussian"](sd)[0] / 2**192 == pytest.approx(at_zero, abs=5e-8)
    for sd in (0.5, 1.0, 10.0):
        weights = WEIGHTS["skellam"](sd)
        assert skellam(sd).variance == pytest.approx(sd**2, rel=1e-12)
        assert moment(weights, 4) / moment(weights, 2) ** 2 == pytest.approx(
            3 + 1 / sd**2, rel=1e-12
        )


@every
@pytest.mark.parametrize("sd", [0.05, 0.5, 3.0, 100.0])
def test_the_columns_hold_each_probability_exactly(family, sd):
    weights = WEIGHTS[family](sd)
    both = [*weights[:0:-1], *weights]
    tables = alias.tables((both, 1 - len(weights)))
    full = 2**192 // len(tables.alias)
    mass = [0] * len(tables.alias)
    for own, (threshold, other) in enumerate(columns(tables)):
        assert 0 <= threshold <= full
        mass[own] += threshold
        mass[other - tables.own[0]] += full - threshold
    assert mass == both + [0] * (len(mass) - len(both))


def columns(tables):
    """The thresholds of one table as integers below 2^192 / (number of columns), and the aliases."""
    width = len(tables.alias).bit_length() - 1
    words = np.asarray(tables.words, object)
    whole = sum(2 ** (32 * (5 - i)) * row for i, row in enumerate(words))
    return [(int(t) >> width, int(a)) for t, a in zip(whole, tables.alias, strict=True)]


@pytest.mark.parametrize("ties", [True, False])
def test_words_are_compared_as_192_bits(monkeypatch, ties):
    """At a threshold, one below it and at both ends of every column the right value is drawn.

    Without a tie in the first 32 bits of any draw, 64 bits decide.
    """
    weights = WEIGHTS["gaussian"](1.7)
    tables = alias.tables(([*weights[:0:-1], *weights], 1 - len(weights)))
    full = 2**192 // len(tables.alias)
    first = full // 2**32  # one unit of the first 32 bits
    words, wanted = [], []
    for own, (threshold, other) in enumerate(columns(tables)):
        edges = {0, full - 1, threshold - 2 * first, threshold + 2 * first}
        if ties:
            edges |= {threshold - 1, threshold, threshold + 1}
            edges |= {threshold ^ 2**bit for bit in (31, 63, 95, 127, 150)}
        for rest in (edge for edge in edges if 0 <= edge < full):
            if ties or rest // first != threshold // first:
                words.append(own * full + rest)
                wanted.append(own + tables.own[0] if rest < threshold else other)
    shifts = range(160, -1, -32)
    parts = np.array([[[w >> s & 0xFFFFFFFF for w in words]] for s in shifts], np.uint32)
    monkeypatch.setattr(_random, "words", lambda key, shape: tuple(jnp.asarray(parts[:2])))
    later = jnp.asarray(parts[2:]) if ties else jnp.zeros(parts[2:].shape, jnp.uint32)
    monkeypatch.setattr(jax.random, "bits", lambda key, shape, dtype: later)
    drawn = alias.draw(tables, jax.random.key(0), (len(words),))[0]
    np.testing.assert_array_equal(drawn, wanted)


@pytest.mark.ci
def test_a_batch_of_keys_draws_what_each_draws():
    noise = discrete_gaussian(3.0)
    keys = jax.random.split(jax.random.key(0), (3, 2))
    batch = fast(jax.vmap(jax.vmap(lambda key: noise.sample(key, (50,)))))(keys)
    one = fast(lambda key: noise.sample(key, (50,)))
    for i, j in ((0, 0), (1, 1), (2, 0)):
        np.testing.assert_array_equal(batch[i, j], one(keys[i, j]))


def chi_squared(draws, pmf, reach):
    """The p-value of draws against a symmetric pmf, tails beyond ``reach`` in one cell each."""
    p = pmf(np.arange(-reach, reach + 1))
    rest = (1 - p.sum()) / 2
    cells = np.concatenate([[rest], p, [rest]])
    counts = np.bincount(
        np.clip(draws, -reach - 1, reach + 1).ravel() + reach + 1, minlength=len(cells)
    )
    keep = cells * draws.size > 5
    cells = np.append(cells[keep], cells[~keep].sum())
    counts = np.append(counts[keep], counts[~keep].sum())
    keep = cells > 0
    statistic = np.sum((counts - draws.size * cells)[keep] ** 2 / (draws.size * cells[keep]))
    return stats.chi2.sf(statistic, keep.sum() - 1)


def gaussian_pmf(sd):
    k = np.arange(-400, 401)
    whole = np.exp(-(k**2) / (2 * sd**2)).sum()
    return lambda x: np.exp(-(x**2) / (2 * sd**2)) / whole


def skellam_pmf(sd):
    return lambda x: stats.skellam.pmf(x, sd**2 / 2, sd**2 / 2)


@pytest.mark.ci
def test_draws_follow_their_law_and_sums_of_skellam_are_skellam():
    """A quarter of a million draws each; a p-value below 1e-4 in eight tests has probability 1e-3."""
    size = 250_000
    noises = {(f, sd): FAMILIES[f](sd) for f in FAMILIES for sd in (0.5, 2.0, 25.0)}

    @fast
    def draw(key):
        keys = jax.random.split(key, len(noises) + 1)
        *each, last = keys
        own = [noise.sample(k, (size,)) for k, noise in zip(each, noises.values(), strict=True)]
        return own, skellam(0.7).sample(last, (4, size)).sum(0)

    own, summed = draw(jax.random.key(7))
    for (family, sd), draws in zip(noises, own, strict=True):
        pmf = (gaussian_pmf if family == "gaussian" else skellam_pmf)(sd)
        draws = np.asarray(draws)
        assert chi_squared(draws, pmf, int(4 * sd) + 2) > 1e-4, (family, sd)
        assert abs(draws.mean()) < 5 * sd / np.sqrt(size)
        assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) * np.sqrt(size) < 5
    assert chi_squared(np.asarray(summed), skellam_pmf(1.4), 8) > 1e-4
    # The test can tell: the same draws are not discrete Gaussian.
    assert chi_squared(np.asarray(summed), gaussian_pmf(1.4), 8) < 1e-10


@every
def test_tails_are_no_heavier_than_stated(family):
    """Of sums of up to four draws, from the exact probabilities."""
    for sd in (0.3, 1.0, 5.0):
        weights = np.array(WEIGHTS[family](sd), float) / 2**192
        one = np.concatenate([weights[:0:-1], weights])
        total = np.ones(1)
        for shares in range(1, 5):
            total = np.convolve(total, one)
            k = np.abs(np.arange(len(total)) - len(total) // 2)
            for probability in (0.1, 1e-3, 1e-9):
                bound = FAMILIES[family](sd).tail(shares, probability)
                assert total[k > bound].sum() <= probability
            assert FAMILIES[family](sd).tail(shares, 1e-3) < 12 * max(sd, 1) * np.sqrt(shares)


@pytest.mark.slow
def test_the_poisson_sampler_of_jax_would_not_do():
    """Why Skellam noise has tables: of mean 500,000, jax.random.poisson has 4 % too little variance."""
    mean, size = 5e5, 400_000
    draws = np.asarray(jax.jit(lambda k: jax.random.poisson(k, mean, (size,)))(jax.random.key(1)))
    assert abs(draws.var() / mean - 1) > 0.02
    ours = np.asarray(
        jax.jit(lambda k: skellam(1000.0).sample(k, (size,)))(jax.random.key(1)), float
    )
    assert abs(ours.var() / 1e6 - 1) < 5 * np.sqrt(2 / size)
    assert stats.kstest(ours / 1000, "norm").pvalue > 1e-4
