"""Statistics over clients against NumPy and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import evaluation

RAGGED = np.array([[0.9, 0.5, np.nan, 0.7, 0.2], [0.1, np.nan, np.nan, np.nan, np.nan]])
NOBODY = np.full((2, 3), np.nan)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("q", [0.0, 0.1, 0.37, 0.5, 1.0])
def test_quantiles_are_those_of_numpy(seed, q):
    scores = np.random.default_rng(seed).normal(size=(3, 7 + seed))
    scores[0, :seed] = np.nan
    np.testing.assert_allclose(
        evaluation.quantiles(scores, [q])[..., 0], np.nanquantile(scores, q, axis=-1), rtol=1e-12
    )


def test_the_worst_fraction_is_the_mean_of_the_lowest():
    scores = np.random.default_rng(0).permutation(np.arange(40.0))
    for fraction, count in ((0.1, 4), (0.25, 10), (0.29, 11.6), (1.0, 40)):
        whole = int(count)
        lowest = sum(range(whole)) + (count - whole) * whole
        assert evaluation.worst(scores, fraction) == pytest.approx(lowest / count)
        highest = 39 - evaluation.worst(scores, fraction)
        found = evaluation.worst(scores, fraction, lower_is_worse=False)
        assert found == pytest.approx(highest)


def test_a_fraction_below_one_client_is_the_worst_client():
    assert evaluation.worst(np.array([3.0, 1.0, 2.0]), 0.1) == 1.0


def gini_by_pairs(x):
    x = x[~np.isnan(x)]
    return np.abs(x[:, None] - x).sum() / (2 * len(x) * x.sum())


@pytest.mark.parametrize("seed", range(5))
def test_gini_is_the_mean_difference_of_pairs(seed):
    scores = np.random.default_rng(seed).exponential(size=9)
    scores[:seed] = np.nan
    assert evaluation.gini(scores) == pytest.approx(gini_by_pairs(scores), rel=1e-12)


def test_gini_of_equal_clients_is_zero_and_of_one_owner_nearly_one():
    assert evaluation.gini(np.full(8, 0.3)) == pytest.approx(0, abs=1e-15)
    assert evaluation.gini(np.zeros(8)) == 0
    assert evaluation.gini(np.eye(8)[3]) == pytest.approx(7 / 8)
    with pytest.raises(ValueError, match=r"must not be negative.*-0\.5"):
        evaluation.gini(np.array([1.0, -0.5]))


def test_a_client_without_a_score_is_left_out_of_everything():
    all_of = evaluation.client_statistics(RAGGED, fraction=0.5)
    for i, row in enumerate(RAGGED):
        there = row[~np.isnan(row)]
        alone = evaluation.client_statistics(there, fraction=0.5)
        for name, value in alone._asdict().items():
            np.testing.assert_allclose(getattr(all_of, name)[i], value, err_msg=name)
    np.testing.assert_allclose(all_of.mean, np.nanmean(RAGGED, axis=-1))
    np.testing.assert_allclose(all_of.variance, np.nanvar(RAGGED, axis=-1))
    assert all_of.clients.tolist() == [4, 1]


def test_nobody_has_nothing():
    of = evaluation.client_statistics(NOBODY)
    assert of.clients.tolist() == [0, 0]
    for name, value in of._replace(clients=NOBODY)._asdict().items():
        assert np.isnan(value).all(), name


def test_statistics_inside_a_program_are_those_on_the_host():
    scores = np.concatenate([RAGGED, NOBODY[:1, [0, 0, 0, 0, 0]], RAGGED[:1, ::-1]])
    inside = jax.jit(lambda x: evaluation.client_statistics(x, fraction=0.3))(jnp.float32(scores))
    outside = evaluation.client_statistics(scores, fraction=0.3)
    for name, value in inside._asdict().items():
        np.testing.assert_allclose(value, getattr(outside, name), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation.worst(np.ones(3), 0.0), "fraction must be greater than 0"),
        (lambda: evaluation.worst(np.float64(1.0)), "axis of clients, got a scalar"),
        (lambda: evaluation.quantiles(np.ones(3), [1.5]), "q must be at least 0 and at most 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
