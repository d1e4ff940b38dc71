"""Fine noise against exact probabilities: its tables, the theorem that joins them, and its tails."""

import decimal
import functools

import jax
import mpmath
import numpy as np
import pytest
from scipy import stats

from fjx.privacy._mechanisms import fine
from fjx.privacy._mechanisms.integer_noise import gaussian_law

S, A, B, M = fine._S, fine._A, fine._B, fine._M
fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def test_the_small_part_is_a_rounded_normal():
    """Exact for k = 0, ..., up to a factor within 2^-120 of one, as far as 15 deviations."""
    reach = len(gaussian_law(float(S)).weights)
    assert reach > 15.8 * S
    with decimal.localcontext(prec=50):
        found = fine._rounded_gaussian(15 * S + 1)
    with mpmath.workdps(120):
        s = mpmath.mpf(S)

        def exact(k):
            return (
                mpmath.erfc((k - 0.5) / s / mpmath.sqrt(2))
                - mpmath.erfc((k + 0.5) / s / mpmath.sqrt(2))
            ) / 2

        whole = exact(0) / mpmath.mpf(str(found[0]))
        for k in (1, 2, 17, S, 3 * S + 1, 7 * S, 12 * S, 15 * S):
            ratio = exact(k) / (whole * mpmath.mpf(str(found[k])))
            assert abs(ratio - 1) < mpmath.mpf(2) ** -120


def test_two_parts_are_one_normal():
    """The density of a X + Y is normal up to a factor within 2^-112 of one, at every offset."""
    with mpmath.workdps(80):
        s, a = mpmath.mpf(S), mpmath.mpf(A)
        variance = s**2 * (a**2 + 1)
        ratios = []
        for y in (0, 0.3, A / 2, A / 2 + 0.5, 1234.5, 3.7 * S * A, 9.2 * S * A):
            y, near = mpmath.mpf(y), round(y / A)
            terms = [
                mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * s**2) - (y - a * x) ** 2 / (2 * s**2))
                for x in range(near - 60, near + 61)
            ]
            ratios.append(mpmath.fsum(terms) / mpmath.exp(-(y**2) / (2 * variance)))
        apart = (max(ratios) - min(ratios)) / (max(ratios) + min(ratios))
        assert mpmath.mpf(2) ** -114 < apart < mpmath.mpf(2) ** -112


def test_quotient_and_remainder_make_a_geometric():
    b = mpmath.mpf(fine.LAPLACE) * (1 + mpmath.mpf(2) ** -19)
    tables = fine._geometric_tables()
    columns = len(tables.alias) // 2
    width = columns.bit_length() - 1
    mass = [[0] * columns for _ in range(2)]
    for place, word in enumerate(tables.words.T.astype(">u4")):
        table, own = divmod(place, columns)
        threshold = int.from_bytes(word.tobytes(), "big") >> width
        mass[table][own] += threshold
        mass[table][tables.alias[place]] += 2**192 // columns - threshold
    with mpmath.workdps(80):
        for g in (0, 1, M - 1, M, 5 * M + 77, B * M, 30 * B * M):
            exact = mpmath.exp(-g / b) * -mpmath.expm1(-1 / b)
            assert (
                abs(mpmath.mpf(mass[0][g // M] * mass[1][g % M]) / 2**384 / exact - 1)
                < mpmath.mpf(2) ** -110
            )


@pytest.mark.parametrize(
    ("draw", "width", "law"),
    [(fine.gaussian, fine.GAUSSIAN, stats.norm), (fine.laplace, fine.LAPLACE, stats.laplace)],
)
def test_draws_follow_their_law(draw, width, law):
    """200,000 draws; moments within five standard errors, and the law by Kolmogorov's test."""
    x = np.asarray(fast(lambda key: draw(key, (200_000,)))(jax.random.key(5)), np.float64) / width
    assert stats.kstest(x, law.cdf).pvalue > 1e-4
    for power in (1, 2, 3, 4):
        moments = x**power
        error = moments.std() / np.sqrt(x.size)
        assert abs(moments.mean() - law.moment(power)) < 5 * error
    assert len(np.unique(x)) > 0.8 * x.size
