"""Integer noise against exact probabilities: tables to the last of 96 bits, draws by chi-squared."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import stats

from fjx._kernels import random as _random
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
    """P(0), ..., P(reach) to fifty digits, by mpmath."""
    with mpmath.workdps(50):
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
def test_probabilities_are_exact_to_96_bits(family, sd):
    weights = WEIGHTS[family](sd)
    assert weights[0] + 2 * sum(weights[1:]) == 2**96
    with mpmath.workdps(50):
        true = exact(family, sd, len(weights) + 60)
        given = [mpmath.mpf(w) / 2**96 for w in weights] + [mpmath.mpf(0)] * 61
        off = [abs(a - b) for a, b in zip(given, true, strict=True)]
        assert max(off[1:]) <= mpmath.mpf(2) ** -97 * (1 + mpmath.mpf(10) ** -9)
        apart = (off[0] + 2 * sum(off[1:])) / 2
        assert apart <= FAMILIES[family](sd).distance <= apart + mpmath.mpf(2) ** -112
        assert FAMILIES[family](sd).distance < 2.0**-88


@pytest.mark.slow
def test_the_widest_table_is_as_near_as_stated():
    assert discrete_gaussian(_discrete.LARGEST).distance < 2.0**-80


def test_moments_of_the_tables():
    def moment(weights, power):
        return 2 * sum(k**power * w for k, w in enumerate(weights)) / 2**96

    for sd, variance, at_zero in [(0.5, 0.2150127, 0.7865707), (1.0, 0.9999998, 0.3989423)]:
        assert discrete_gaussian(sd).variance == pytest.approx(variance, abs=5e-8)
        assert WEIGHTS["gaussian"](sd)[0] / 2**96 == pytest.approx(at_zero, abs=5e-8)
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
    columns, zero = _discrete._table(weights)
    full = 2**96 // len(columns)
    mass = [0] * len(columns)
    for own, (high, middle, low, alias) in enumerate(columns.tolist()):
        threshold = (high << 64) + (middle << 32) + low
        assert 0 <= threshold <= full
        mass[own] += threshold
        mass[alias] += full - threshold
    assert mass == [*weights[:0:-1], *weights] + [0] * (len(columns) - 2 * zero - 1)


def test_words_are_compared_as_96_bits(monkeypatch):
    """At a threshold, one below it and at both ends of every column the right value is drawn."""
    table = _discrete._table(WEIGHTS["gaussian"](1.7))
    full = 2**96 // len(table.columns)
    words, wanted = [], []
    for own, (high, middle, low, alias) in enumerate(table.columns.tolist()):
        threshold = (high << 64) + (middle << 32) + low
        edges = {0, threshold - 1, threshold, threshold + 1, full - 1}
        edges |= {threshold - 2**32, threshold + 2**32, threshold ^ 2**31, threshold ^ 2**63}
        for rest in (edge for edge in edges if 0 <= edge < full):
            words.append(own * full + rest)
            wanted.append((own if rest < threshold else alias) - table.zero)
    parts = np.array([[w >> shift & 0xFFFFFFFF for w in words] for shift in (64, 32, 0)], np.uint32)
    monkeypatch.setattr(_random, "bits", lambda key, shape: jnp.asarray(parts.reshape(shape)))
    drawn = _discrete._draw(table, jax.random.key(0), (len(words),))
    np.testing.assert_array_equal(drawn, wanted)


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
        weights = np.array(WEIGHTS[family](sd), float) / 2**96
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
