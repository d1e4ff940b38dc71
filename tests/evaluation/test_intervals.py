"""Intervals against SciPy, and how often they cover."""

import jax
import numpy as np
import pytest
from scipy import stats

from fjx import evaluation

RUNS = np.random.default_rng(0).normal(3.0, 0.7, size=(4, 6))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_the_t_interval_is_that_of_scipy(level):
    found = evaluation.t_interval(RUNS, level=level)
    low, high = stats.t.interval(
        level, RUNS.shape[1] - 1, loc=RUNS.mean(axis=1), scale=stats.sem(RUNS, axis=1)
    )
    np.testing.assert_allclose(found.mean, RUNS.mean(axis=1))
    np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-10)
    np.testing.assert_allclose(evaluation.t_interval(RUNS.T, level=level, axis=0).low, low)


def test_one_run_has_a_mean_and_no_interval():
    key = jax.random.key(0)
    for found in (
        evaluation.t_interval([2.0]),
        evaluation.bootstrap_interval([2.0], key=key),
        evaluation.paired_difference([3.0], [1.0]),
    ):
        assert found.mean == 2.0
        assert np.isnan(found.low)
        assert np.isnan(found.high)
        assert found.runs == 1
    assert np.isnan(evaluation.t_interval([]).mean)


def test_a_run_that_failed_is_not_left_out():
    runs = np.array([[1.0, np.nan, 2.0], [1.0, 1.5, 2.0]])
    for found in (
        evaluation.t_interval(runs),
        evaluation.bootstrap_interval(runs, key=jax.random.key(0)),
    ):
        assert np.isnan([found.mean[0], found.low[0], found.high[0]]).all()
        assert found.low[1] < 1.5 < found.high[1]


def test_an_infinite_mean_has_no_interval():
    runs = np.array([[1.0, np.inf, 2.0], [1.0, 1.5, 2.0]])
    for found in (
        evaluation.t_interval(runs),
        evaluation.bootstrap_interval(runs, key=jax.random.key(0)),
    ):
        assert found.mean[0] == np.inf
        assert np.isnan([found.low[0], found.high[0]]).all()
        assert found.low[1] < 1.5 < found.high[1]


def test_intervals_cover_as_often_as_they_say():
    """Normal runs: 4,000 experiments, so a standard error of at most 0.006; the bound is four."""
    key = jax.random.key(7)
    for n, nominal in ((5, 0.84), (10, 0.90)):
        runs = np.random.default_rng(n).normal(size=(4000, n))

        def covered(found):
            return np.mean((found.low <= 0) & (found.high >= 0))

        assert covered(evaluation.t_interval(runs)) == pytest.approx(0.95, abs=4 * 0.0035)
        short = evaluation.bootstrap_interval(runs, key=jax.random.clone(key), resamples=500)
        assert covered(short) == pytest.approx(nominal, abs=4 * 0.006)


def test_the_bootstrap_is_that_of_scipy_and_of_its_key():
    runs = RUNS[0]
    found = evaluation.bootstrap_interval(runs, key=jax.random.key(1), resamples=20_000)
    theirs = stats.bootstrap(
        (runs,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    # A quantile at 0.025 of 20,000 draws has a standard error near 0.003 of their spread.
    spread = runs.std() / len(runs) ** 0.5
    np.testing.assert_allclose((found.low, found.high), theirs, atol=0.1 * spread)
    again = evaluation.bootstrap_interval(runs, key=jax.random.key(1), resamples=20_000)
    assert (again.low, again.high) == (found.low, found.high)


def test_pairs_take_out_what_a_seed_does_to_both():
    """Two algorithms whose difference is certain, under a seed that matters more."""
    rng = np.random.default_rng(3)
    seed, noise = rng.normal(size=8), 0.01 * rng.normal(size=(2, 8))
    a, b = 1.1 + seed + noise[0], 1.0 + seed + noise[1]
    assert evaluation.paired_difference(a, b).low > 0
    assert evaluation.t_interval(a).low < evaluation.t_interval(b).high
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = evaluation.paired_difference(a, b)
    np.testing.assert_allclose((found.low, found.high), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: evaluation.t_interval([1.0], level=1.0), ValueError, "level must be"),
        (lambda: evaluation.t_interval(1.0), ValueError, "axis of runs"),
        (lambda: evaluation.bootstrap_interval([1.0], key=3), TypeError, "typed key"),
        (lambda: evaluation.paired_difference([1, 2], [1]), ValueError, "the same runs"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
