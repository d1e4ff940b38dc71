"""Lower bounds on epsilon: published numbers, exact laws, and that they are seldom wrong."""

import bisect
import copy
import itertools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian
from scipy import optimize, stats

from fjx.privacy import auditing
from fjx.privacy.auditing import _one_run

ONE_RUN = auditing.one_run, auditing.one_run_gaussian_dp


def sure(right, guesses, *, delta=0.0, canaries=None):
    """A run of which the auditor guesses ``right`` of ``guesses`` coins rightly."""
    m = guesses if canaries is None else canaries
    included = np.arange(m) < m // 2
    scores = np.where(included, 2.0 * m, -2.0 * m) + np.arange(m)
    order = np.argsort(-scores)
    guessed = np.concatenate([order[: guesses - guesses // 2], order[m - guesses // 2 :]])
    included[guessed[: guesses - right]] ^= True
    return auditing.one_run(scores, included, delta=delta, guesses=guesses)


@pytest.mark.parametrize(
    ("guesses", "right", "epsilon"),
    [(50, 50, 2.7847), (100, 100, 3.4930), (100, 90, 1.6308), (1000, 750, 0.9767),
     (1000, 1000, 5.8091)],
)  # fmt: skip
def test_one_run_without_delta(guesses, right, epsilon):
    # Steinke et al. 2023: the epsilon with P[Bin(r, e^eps / (1 + e^eps)) >= v] = 0.05.
    assert sure(right, guesses) == pytest.approx(epsilon, abs=1e-4)
    # Without delta those from whom the auditor abstains do not matter.
    assert sure(right, guesses, canaries=2 * guesses) == pytest.approx(epsilon, abs=1e-4)


@pytest.mark.parametrize(
    ("m", "r", "v", "delta"),
    [(1000, 100, 95, 1e-5), (1000, 1000, 700, 1e-5), (5000, 60, 60, 1e-6), (100, 100, 99, 1e-4)],
)
def test_one_run_with_delta(m, r, v, delta):
    """Theorem 5.2, written as its sums, at the bound and a little above it."""
    bound = float(sure(v, r, delta=delta, canaries=m))

    def p_value(epsilon):
        p = math.exp(epsilon) / (1 + math.exp(epsilon))
        pmf = [math.comb(r, k) * p**k * (1 - p) ** (r - k) for k in range(r + 1)]
        alpha = max(sum(pmf[v - i : v]) / i for i in range(1, v + 1))
        return sum(pmf[v:]) + 2 * m * delta * alpha

    assert 0 < bound < sure(v, r, canaries=m)
    assert p_value(bound - 1e-6) < 0.05 < p_value(bound + 1e-6)


@pytest.mark.parametrize(("m", "epsilon"), [(50, 0.0), (200, math.log(3)), (1000, 2.0)])
def test_one_run_is_wrong_as_often_as_it_says(m, epsilon):
    """Randomised response attains the theorem: the probability of as many right guesses as it takes."""
    right = stats.binom(m, 1 / (1 + math.exp(-epsilon)))
    least = bisect.bisect(range(m + 1), False, key=lambda v: sure(v, m) > epsilon)
    assert sure(least - 1, m) <= epsilon < sure(least, m)
    assert 0.02 < right.sf(least - 1) <= 0.05


def test_one_run_pays_for_trying_several_numbers_of_guesses():
    included = np.arange(1024) % 2 == 0
    bound = auditing.one_run(included.astype(float), included, delta=0.0)
    # Six numbers of guesses: 1024, 256, 64, 16, 4, 1; all are right.
    p = (0.05 / 6) ** (1 / 1024)
    assert bound == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
    assert bound < auditing.one_run(included.astype(float), included, delta=0.0, guesses=1024)
    # An attack that is sure of a few only: 16 of 1024 scores say something.
    few = np.zeros(1024)
    few[:16] = np.where(included[:16], 1.0, -1.0)
    assert auditing.one_run(few, included, delta=0.0) == pytest.approx(
        math.log((0.05 / 6) ** (1 / 16) / (1 - (0.05 / 6) ** (1 / 16))), abs=1e-6
    )


def test_equal_scores_are_no_evidence():
    included = np.arange(1000) < 500  # in order: a sort that keeps ties in order must not profit
    assert auditing.one_run(np.zeros(1000), included, delta=0.0) == 0
    assert auditing.one_run(np.zeros(1000), included[::-1], delta=0.0, guesses=1000) == 0
    assert auditing.clopper_pearson(np.zeros(1000), np.zeros(1000), delta=0.0) == 0


# --------------------------------------------------------------------------------------------------
# One run against the curve of a Gaussian mechanism
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("m", [1, 3, 10, 60])
def test_independent_gaussians_refute_no_mu_of_their_own(m, mu):
    """Canaries apart from each other: j of m guesses are right with a binomial probability."""
    right = stats.binom(m, stats.norm.cdf(mu / 2))
    for v in range(1, m + 1):
        level = float(right.sf(v - 1))
        assert not _one_run._refuted(mu, m, m, v, level * (1 - 1e-9))


@pytest.mark.parametrize(("m", "r", "v"), [(6, 6, 5), (20, 8, 7), (9, 9, 9)])
def test_the_recursion_is_the_best_that_the_inequalities_give(m, r, v):
    """Most probability on v or more right guesses under all of them, found by another solver."""
    mu = 0.7

    def total(p, k, weight):
        return sum(weight(j) * p[j] for j in range(k, r + 1)) / m

    def slack(p):
        sides = []
        for k in range(1, r + 1):
            hits, misses = total(p, k, lambda j: j), total(p, k - 1, lambda j: r - j)
            sides.append(stats.norm.cdf(stats.norm.ppf(np.clip(misses, 1e-300, 1)) + mu) - hits)
        return np.array(sides)

    start = stats.binom(r, 0.5).pmf(np.arange(r + 1))
    found = optimize.minimize(
        lambda p: -p[v:].sum(),
        start,
        method="SLSQP",
        bounds=[(0, 1)] * (r + 1),
        constraints=[
            {"type": "ineq", "fun": slack},
            {"type": "eq", "fun": lambda p: p.sum() - 1},
        ],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    most = -found.fun
    assert not _one_run._refuted(mu, m, r, v, most * (1 - 1e-3))
    assert _one_run._refuted(mu, m, r, v, most * (1 + 1e-3))


def test_one_run_of_gaussians_is_tighter_and_seldom_wrong():
    """40 runs of 400 canaries, mu = 1: the bounds exceed the truth no more often than is likely."""
    rng, truth = np.random.default_rng(0), get_epsilon_gaussian(1.0, 1e-5)
    bounds = []
    for _ in range(40):
        included = rng.random(400) < 0.5
        scores = included + rng.standard_normal(400)
        how = {"delta": 1e-5, "guesses": 100}
        bounds.append([f(scores, included, **how) for f in ONE_RUN])
    plain, gaussian = np.array(bounds).T
    assert (gaussian > plain).mean() > 0.95
    assert not exceeded(gaussian, truth, 0.05)
    assert str(auditing.one_run_gaussian_dp(scores, included, **how)).endswith(
        "guesses of 400 canaries)"
    )
    # Ties are no evidence, and nothing is found in noise.
    assert auditing.one_run_gaussian_dp(np.zeros(400), included, delta=1e-5) == 0
    assert auditing.one_run_gaussian_dp(rng.standard_normal(400), included, **how) < 0.5


@pytest.mark.parametrize(("right", "epsilon"), [(1000, 5.6006), (900, 1.98969)])
def test_clopper_pearson_of_a_fixed_threshold(right, epsilon):
    inside = (np.arange(1000) < right).astype(float)
    bound = auditing.clopper_pearson(inside, 1 - inside, delta=1e-5, threshold=0.5)
    assert bound == pytest.approx(epsilon, abs=1e-4)
    true, false = (stats.binomtest(k, 1000).proportion_ci(0.95) for k in (right, 1000 - right))
    assert bound == pytest.approx(math.log((true.low - 1e-5) / false.high), abs=1e-9)


def test_clopper_pearson_pays_for_trying_several_thresholds():
    # Six ranks up to 1024 on either side, two limits each; no score of 1024 is on the wrong side.
    level = 0.05 / 12 / 2
    missed = 1 - level ** (1 / 1024)
    bound = auditing.clopper_pearson(np.ones(1024), np.zeros(1024), delta=1e-3)
    assert bound == pytest.approx(math.log((1 - missed - 1e-3) / missed), abs=1e-9)


def gaussians(seed, spread, count=1000):
    rng = np.random.default_rng(seed)
    return rng.normal(1, spread, count), rng.normal(0, spread, count)


# spread, jax-privacy's Clopper-Pearson and one-run bounds on draws of its own, the truth at 1e-5.
PEER = [(0.5, 2.947, 2.596, 9.997), (1.0, 0.894, 1.022, 4.377), (2.0, 0.458, 0.548, 1.993)]


@pytest.mark.few(1)
@pytest.mark.parametrize(("spread", "peer", "peer_one_run", "truth"), PEER)
def test_near_a_peer_on_gaussian_scores(spread, peer, peer_one_run, truth):
    """Means over ten draws, each scattering by 0.2, against the peer's one draw.

    Clopper-Pearson within 0.5 of it.  One-run at least as good, and by less than 1: of 2000 coins ours
    guesses those at both ends.  All below the truth.
    """
    bounds, one_run, gaussian = [], [], []
    for seed in range(10):
        inside, outside = gaussians(seed, spread)
        scores, included = np.concatenate([inside, outside]), np.arange(2000) < 1000
        bounds.append(auditing.clopper_pearson(inside, outside, delta=1e-5))
        one_run.append(auditing.one_run(scores, included, delta=1e-5))
        gaussian.append(auditing.gaussian_dp(inside, outside, delta=1e-5))
    assert np.mean(bounds) == pytest.approx(peer, abs=0.5)
    assert peer_one_run - 0.2 < np.mean(one_run) < peer_one_run + 1
    # What knowing that noise is Gaussian is worth.
    assert 2 * np.mean(bounds) < np.mean(gaussian)
    assert max(*bounds, *one_run, *gaussian) < truth


def exceeded(bounds, epsilon, significance):
    """Whether the bounds exceed epsilon more often than is likely (1e-4) at their significance."""
    wrong = sum(bound > epsilon for bound in bounds)
    return wrong > stats.binom.ppf(1 - 1e-4, len(bounds), significance)


@pytest.mark.slow
def test_bounds_from_many_runs_are_seldom_wrong():
    """A test of no power, randomised response (which attains epsilon = log 3), and Gaussian scores."""
    rng = np.random.default_rng(7)
    runs, n, level = 300, 64, 0.2
    chance = rng.standard_normal((runs, 2, n))
    answers = rng.random((runs, 2, n)) < np.array([0.75, 0.25])[:, None]
    normal = rng.standard_normal((runs, 2, n)) + np.array([1.0, 0.0])[:, None]
    how = {"significance": level}
    for scores, epsilon, delta, fixed in (
        (chance, 0.0, 0.0, None),
        (answers.astype(float), math.log(3), 0.0, 0.5),
        (answers.astype(float), math.log(3), 0.0, None),
        (normal, get_epsilon_gaussian(1.0, 0.1), 0.1, None),
    ):
        found = [
            auditing.clopper_pearson(i, o, delta=delta, threshold=fixed, **how) for i, o in scores
        ]
        assert not exceeded(found, epsilon, level)
    # A fixed threshold on the Gaussian pair: two limits at half the level, nearly attained.
    found = [
        auditing.gaussian_dp(i, o, delta=0.1, threshold=0.5, significance=level) for i, o in normal
    ]
    assert not exceeded(found, get_epsilon_gaussian(1.0, 0.1), level)
    assert sum(b > 0.9 * get_epsilon_gaussian(1.0, 0.1) for b in found) > 0


def test_the_limit_at_a_rank_is_exact():
    """The false positive rate of the j-th largest of n uniform scores exceeds a limit of 0.9 in 0.1."""
    n, runs = 40, 4000
    draws = np.sort(np.random.default_rng(3).random((runs, n)), axis=1)[:, ::-1]
    for j in (1, 4, 16):
        limit = stats.beta.ppf(0.9, j, n - j + 1)
        misses = np.sum(1 - draws[:, j - 1] > limit)
        assert abs(misses - 0.1 * runs) < 4 * math.sqrt(0.09 * runs)


def test_both_signs_and_both_errors_are_looked_at():
    rng = np.random.default_rng(1)
    inside, outside = rng.standard_normal(500), rng.standard_normal(500)
    inside[:200] = 9.0  # 40 % are seen for certain: TPR / FPR
    a = auditing.clopper_pearson(inside, outside, delta=0.0)
    b = auditing.clopper_pearson(-outside, -inside, delta=0.0)  # TNR / FNR
    assert a == b > 3
    assert auditing.clopper_pearson(-inside, -outside, delta=0.0) < a


def test_separation():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 40) + 1, rng.integers(0, 6, 30)
    pairs = [(x > y) + (x == y) / 2 for x, y in itertools.product(inside, outside)]
    assert auditing.auroc(inside, outside) == pytest.approx(np.mean(pairs))
    for fpr in (0.0, 0.1, 0.5, 0.99, 1.0):
        best = max(np.mean(inside > t) for t in range(-1, 8) if np.mean(outside > t) <= fpr)
        assert auditing.tpr_at_fpr(inside, outside, fpr=fpr) == best


@pytest.mark.slow
def test_canaries_are_uniform_directions(getkey):
    like = {"w": jnp.zeros((3, 2)), "b": jax.ShapeDtypeStruct((), jnp.bfloat16), "e": jnp.zeros(0)}
    birds = auditing.canaries(getkey(), like, count=4000, norm=2.0)
    assert birds["w"].shape == (4000, 3, 2)
    assert birds["b"].dtype == jnp.bfloat16
    flat = np.concatenate(
        [np.asarray(birds["w"]).reshape(4000, -1), np.asarray(birds["b"], np.float32)[:, None]], 1
    )
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 2.0, rtol=0.004)
    # Uniform on the sphere of R^7: mean 0, covariance (4 / 7) I; five standard errors.
    assert np.abs(flat.mean(0)).max() < 5 * math.sqrt(4 / 7 / 4000)
    assert np.abs(np.cov(flat.T) - 4 / 7 * np.eye(7)).max() < 5 * 4 / 7 * math.sqrt(2 / 4000)
    found = jax.jit(auditing.scores)(jax.tree.map(lambda x: x[5], birds), birds)
    assert int(jnp.argmax(found)) == 5
    np.testing.assert_allclose(found, flat @ flat[5], rtol=1e-4, atol=1e-4)


def test_a_bound_is_a_number_with_its_basis():
    bound = auditing.one_run([1.0, 2.0], [True, False], delta=0.0)
    for same in (copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):
        assert (same, same.words, same.delta) == (bound, bound.words, 0.0)
    inside, outside = gaussians(0, 0.2)
    bound = auditing.clopper_pearson(inside, outside, delta=1e-6, significance=0.01)
    printed = float(str(bound).split()[2])
    assert bound - 1e-3 < printed <= bound
    assert "delta = 1e-06, significance 0.01" in str(bound)
    assert "1000 scores with the canary and 1000 without, 10 thresholds" in str(bound)


BITS, NUMBERS = np.array([True, False]), np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: auditing.one_run(NUMBERS, [1, 0], delta=0.0), TypeError, "included must be bools"),
        (lambda: auditing.one_run(NUMBERS, BITS[:1], delta=0.0), ValueError, "one bool for each of 2"),
        (lambda: auditing.one_run(NUMBERS, BITS, delta=1.0), ValueError, "delta must be"),
        (lambda: auditing.one_run(NUMBERS, BITS, delta=-0.1), ValueError, "delta must be"),
        (lambda: auditing.one_run(NUMBERS, BITS, delta=0.0, guesses=3), ValueError, "guesses must be"),
        (lambda: auditing.one_run(NUMBERS, BITS, delta=0.0, guesses=0), ValueError, "guesses must be"),
        (lambda: auditing.one_run(NUMBERS, BITS, delta=0.0, significance=0.0), ValueError,
         "significance must be"),
        (lambda: auditing.one_run([1.0, math.nan], BITS, delta=0.0), ValueError,
         "scores must be finite, got 1"),
        (lambda: auditing.clopper_pearson([], NUMBERS, delta=0.0), ValueError, "inside must be one"),
        (lambda: auditing.clopper_pearson(NUMBERS, [[1.0]], delta=0.0), ValueError, "outside must be"),
        (lambda: auditing.clopper_pearson(["a"], NUMBERS, delta=0.0), TypeError, "inside must be num"),
        (lambda: auditing.clopper_pearson(BITS, NUMBERS, delta=0.0), TypeError, "inside must be num"),
        (lambda: auditing.clopper_pearson(NUMBERS, NUMBERS, delta=0.0, threshold=math.nan),
         ValueError, "threshold must be finite"),
        (lambda: auditing.gaussian_dp(NUMBERS, NUMBERS, delta=0.0), ValueError, "delta must be great"),
        (lambda: auditing.gaussian_dp([math.inf], NUMBERS, delta=0.1), ValueError, "must be finite"),
        (lambda: auditing.tpr_at_fpr(NUMBERS, NUMBERS, fpr=1.5), ValueError, "fpr must be"),
        (lambda: auditing.canaries(0, NUMBERS, count=1), TypeError, "key must be a typed key"),
        (lambda: auditing.canaries(jax.random.key(0), jnp.arange(3), count=1), TypeError,
         "like must have floating leaves"),
        (lambda: auditing.canaries(jax.random.key(0), jnp.zeros(3), count=0), ValueError, "count"),
        (lambda: auditing.canaries(jax.random.key(0), jnp.zeros(3), count=1, norm=0.0), ValueError,
         "norm must be greater than 0"),
        (lambda: auditing.scores(jnp.zeros(3), jnp.zeros((5, 4))), ValueError,
         "released must match one canary"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
