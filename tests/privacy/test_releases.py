"""Correlated noise, Renyi curves, ledgers: each against a run that has the same answer by itself."""

import itertools
import math

import dp_accounting
import jax
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from fjx import privacy, samplers
from fjx.privacy import _curves

INDEPENDENT = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0)
# Noise that is independent after all: k rounds, as one sequence, move by sqrt(k).
CORRELATED = INDEPENDENT._replace(correlation=lambda often: math.sqrt(often.most))
SCHEDULED = samplers.full()._replace(
    subsampling=samplers.Scheduled("thrice in any run", separation=2, most=lambda rounds: 3)
)
ORDERS = np.array([2.0, 3.0, 5.0, 8.0, 20.0, 64.0])


def of(event) -> privacy.Mechanism:
    """A mechanism that is nothing but its event."""
    return INDEPENDENT._replace(event=event)


def gaussian_curve(moves: float) -> privacy.RenyiCurve:
    return privacy.RenyiCurve(lambda a: a * moves**2 / (2 * 2.0**2), "a Gaussian in disguise")


DISGUISED = of(gaussian_curve)


# --------------------------------------------------------------------------------------------------
# Participation
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "rounds", "separation", "most"),
    [
        (samplers.full(), 7, 1, 7),
        (samplers.cyclic(3), 7, 3, 3),
        (samplers.cyclic(3), 6, 3, 2),
        (samplers.cyclic(9), 7, 9, 1),
        (SCHEDULED, 7, 2, 3),
        (SCHEDULED, 3, 2, 2),  # separation says more than the count
        (samplers.poisson(0.1), 7, 1, 7),
        (samplers.uniform(2), 7, 1, 7),
        (samplers.full(), 0, 1, 0),
    ],
)
def test_participation(sampler, rounds, separation, most):
    expected = privacy.Participation(rounds, separation, most)
    assert privacy.participation(sampler, rounds=rounds) == expected
    dropping = samplers.dropout(sampler, 0.5)
    assert privacy.participation(dropping, rounds=rounds) == expected


@pytest.mark.parametrize("method", ["rdp", "pld"])
@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize("sampler", [samplers.full(), samplers.cyclic(4), SCHEDULED])
def test_correlated_noise_is_one_release(sampler, relation, method):
    how = {"rounds": 9, "delta": 1e-5, "relation": relation, "method": method, "grid": 1e-3}
    apart = privacy.epsilon(INDEPENDENT, sampler, **how)
    assert privacy.epsilon(CORRELATED, sampler, **how) == pytest.approx(float(apart), rel=1e-9)


@pytest.mark.parametrize("sampler", [samplers.poisson(0.01), samplers.uniform(2)])
def test_correlated_noise_is_not_amplified(sampler):
    how = {"rounds": 9, "delta": 1e-5, "method": "rdp", "num_clients": 50}
    claim = privacy.epsilon(CORRELATED, sampler, **how)
    assert float(claim) == float(privacy.epsilon(CORRELATED, samplers.full(), **how))
    assert "not amplified" in str(claim)
    assert "An absent client counts as one whose update is zero" in str(claim)


def test_correlated_noise_of_no_round_costs_nothing():
    assert privacy.epsilon(CORRELATED, samplers.full(), rounds=0, delta=1e-5) == 0


# --------------------------------------------------------------------------------------------------
# Curves
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_a_curve_is_accounted_exactly_without_sampling(relation):
    how = {"rounds": 30, "delta": 1e-5, "relation": relation, "method": "rdp"}
    for sampler in (samplers.full(), samplers.cyclic(7)):
        plain = privacy.epsilon(INDEPENDENT, sampler, **how)
        assert privacy.epsilon(DISGUISED, sampler, **how) == pytest.approx(float(plain), rel=1e-12)


def test_a_constant_curve_gives_the_published_epsilon():
    # dp-accounting's own test: 1.1 at orders 2 to 32 and delta = 1e-5, best at 32.
    def curve(moves):
        return privacy.RenyiCurve(lambda a: np.where(a <= 32, 1.1, np.inf), "constant")

    got = privacy.epsilon(of(curve), samplers.full(), rounds=1, delta=1e-5, method="rdp")
    assert got == pytest.approx(1.32783806176, abs=1e-10)


def test_what_a_curve_does_not_know_is_not_claimed():
    def curve(moves):
        return privacy.RenyiCurve(lambda a: np.where(a == 8, 0.1, np.nan), "known at 8")

    def nothing(moves):
        return privacy.RenyiCurve(lambda a: np.full(a.shape, np.inf), "unknown")

    how = {"rounds": 1, "delta": 1e-5, "method": "rdp"}
    expected = 0.1 + math.log1p(-1 / 8) - math.log(8e-5) / 7
    assert privacy.epsilon(of(curve), samplers.full(), **how) == pytest.approx(expected)
    assert privacy.epsilon(of(nothing), samplers.full(), **how) == math.inf
    assert privacy.epsilon(of(nothing), samplers.poisson(0.1), **how) == math.inf


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("z", [0.7, 3.0])
def test_the_general_bound_against_the_exact_gaussian(rate, z):
    """Zhu and Wang 2019: exact at order 2, and at most log(3) / (a - 1) above the truth."""
    sampled = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(z))
    exact = RdpAccountant(ORDERS).compose(sampled).rdp
    bound, tight = (
        _curves.poisson_bound(lambda a: a / (2 * z**2), rate, symmetric=symmetric)(ORDERS)
        for symmetric in (False, True)
    )
    np.testing.assert_allclose(tight, exact, rtol=1e-9)
    assert bound[0] == pytest.approx(math.log1p(rate**2 * math.expm1(z**-2)), rel=1e-9)
    assert (bound >= exact * (1 - 1e-9)).all()
    assert (bound <= (exact + math.log(3) / (ORDERS - 1)) * (1 + 1e-9)).all()


def test_the_general_bound_against_its_sum():
    """A slow transcription, in integers and exact binomials."""
    q, e = 0.2, lambda a: 0.3 * a + 0.1
    for a in (2, 3, 4, 9):
        total = (1 - q) ** (a - 1) * (a * q - q + 1)
        total += math.comb(a, 2) * q**2 * (1 - q) ** (a - 2) * math.exp(e(2))
        total += 3 * sum(
            math.comb(a, k) * q**k * (1 - q) ** (a - k) * math.exp((k - 1) * e(k))
            for k in range(3, a + 1)
        )
        got = _curves.poisson_bound(e, q, symmetric=False)(np.array([float(a), a + 0.5]))
        assert got[0] == pytest.approx(math.log(total) / (a - 1), rel=1e-12)
        assert got[1] == math.inf


@pytest.mark.parametrize("rate", [1e-6, 0.05, 0.5, 1 - 1e-6])
@pytest.mark.parametrize("order", [1.001, 2.0, 7.0, 40.0])
def test_the_mixture_is_the_farther_one_for_symmetric_noise(rate, order):
    """F(r) + r F(1/r) >= 0 with F(r) = u^a - u^(1-a) at u = 1 + q (r - 1), for likelihood ratios r."""
    log_r = np.linspace(-30, 30, 601)
    log_u = [np.logaddexp(math.log1p(-rate), math.log(rate) + x) for x in (log_r, -log_r)]
    logs = [
        power * u + x
        for power in (order, 1 - order)
        for u, x in zip(log_u, (0, log_r), strict=True)
    ]
    forth, forth_mirrored, back, back_mirrored = (np.exp(x - np.max(logs, 0)) for x in logs)
    assert (forth + forth_mirrored >= back + back_mirrored - 1e-14).all()


@pytest.mark.parametrize(
    ("law", "sd"), [("discrete Gaussian", 0.4), ("discrete Gaussian", 3.0), ("Laplace", 1.0)]
)
def test_poisson_sampling_of_integer_noise_summed_exactly(law, sd):
    """Both divergences of integer noise, moved by integer vectors, against the bound without the 3."""
    x = np.arange(-80, 81)
    logs = -(x**2) / (2 * sd**2) if law == "discrete Gaussian" else -np.abs(x) / sd
    logs = logs - np.logaddexp.reduce(logs)
    plane = logs[:, None] + logs  # two coordinates
    for move in ((1, 0), (2, 0), (1, 1), (3, -2)):
        moved = np.roll(plane, move, (0, 1))[20:-20, 20:-20]
        still = plane[20:-20, 20:-20]

        def plain(orders, p=moved, q=still):
            sums = [np.logaddexp.reduce(np.ravel(a * p + (1 - a) * q)) for a in orders]
            return np.array(sums) / (orders - 1)

        for rate in (0.001, 0.2, 0.7):
            mixed = np.logaddexp(math.log1p(-rate) + still, math.log(rate) + moved)
            orders = np.array([2.0, 3.0, 6.0, 20.0])
            bound = _curves.poisson_bound(plain, rate, symmetric=True)(orders)
            for p, q in ((mixed, still), (still, mixed)):
                assert (plain(orders, p, q) <= bound * (1 + 1e-9) + 1e-12).all()
            np.testing.assert_allclose(plain(orders, mixed, still), bound, rtol=1e-6)


def test_asymmetric_mechanisms_keep_the_factor():
    """A pair whose mixture is the nearer one: without the factor 3 the bound would be false."""
    p, q, rate, order = np.array([0.0, 1.0]), np.array([0.3, 0.7]), 0.9, 3.0
    mixed = (1 - rate) * q + rate * p
    there, back = ((a**order * b ** (1 - order)).sum() for a, b in ((mixed, q), (q, mixed)))
    assert back > there


def test_the_discrete_gaussian_on_poisson_cohorts_is_the_gaussian_at_integer_orders():
    grid = privacy.discrete_gaussian(
        clip_norm=1.0, noise_multiplier=4.0, granularity=2.0**-6, dimension=16
    )
    real = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)
    how = {"rounds": 200, "delta": 1e-5, "method": "rdp"}
    ours, theirs = (privacy.epsilon(m, samplers.poisson(0.1), **how) for m in (grid, real))
    assert ours == pytest.approx(theirs, rel=1e-2)


def test_the_general_bound_for_laplace_noise_is_above_its_privacy_losses():
    laplace = of(lambda moves: dp_accounting.LaplaceDpEvent(1.0 / moves))
    for rate, rounds in ((0.02, 200), (0.3, 10)):
        rdp, pld = (
            privacy.epsilon(
                laplace, samplers.poisson(rate), rounds=rounds, delta=1e-5, method=method, grid=1e-3
            )
            for method in ("rdp", "pld")
        )
        unsampled = privacy.epsilon(
            laplace, samplers.full(), rounds=rounds, delta=1e-5, method="rdp"
        )
        assert pld < rdp < unsampled


def test_a_sampled_curve_never_costs_more_than_an_unsampled_one():
    how = {"rounds": 3, "delta": 1e-5, "method": "rdp"}
    every = privacy.epsilon(DISGUISED, samplers.full(), **how)
    for rate in (1e-3, 0.9, 1.0):
        sampled = privacy.epsilon(DISGUISED, samplers.poisson(rate), **how)
        exact = privacy.epsilon(INDEPENDENT, samplers.poisson(rate), **how)
        assert exact <= sampled * (1 + 1e-9)
        assert sampled <= every * (1 + 1e-6)  # which does not pay for the capacity


# --------------------------------------------------------------------------------------------------
# Numbers of dp-accounting's own tests, composed through a ledger
# --------------------------------------------------------------------------------------------------


def compose(*events, sampler=None):
    ledger = privacy.Ledger()
    for event, count in events:
        ledger = ledger.add(of(lambda _, e=event: e), sampler or samplers.full(), rounds=count)
    return ledger


def without_overflow(rate):
    sampler = samplers.poisson(rate)
    return sampler._replace(subsampling=sampler.subsampling._replace(overflow=0.0))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("ledger", "delta", "epsilon", "error"),
    [
        (compose((dp_accounting.GaussianDpEvent(math.sqrt(3)), 3)), 0.126936, 1.0, 1e-4),
        (
            compose((dp_accounting.GaussianDpEvent(0.5), 3), sampler=without_overflow(0.2)),
            0.15594,
            1.0,
            1e-3,
        ),
        (
            compose((dp_accounting.LaplaceDpEvent(1.0), 3), (dp_accounting.LaplaceDpEvent(2.0), 2)),
            1e-12,
            4.0,
            1e-3,
        ),
        (
            compose((dp_accounting.LaplaceDpEvent(0.5), 3), sampler=without_overflow(0.2)),
            1e-14,
            2.46964,
            1e-3,
        ),
    ],
)
def test_upstream_compositions(ledger, delta, epsilon, error):
    assert ledger.epsilon(delta=delta) == pytest.approx(epsilon, abs=error)


@pytest.mark.slow
def test_upstream_mixtures_of_gaussians():
    mixture = dp_accounting.dp_event.MixtureOfGaussiansDpEvent
    first = mixture(1.0, [0.0, 1.0, 2.0], [0.2, 0.6, 0.2])
    second = mixture(2.0, [0.0, 2.0, 3.0], [0.33, 0.34, 0.33])
    got = compose((first, 3), (second, 2)).epsilon(delta=1e-6)
    assert got == pytest.approx(17.193115, abs=1e-3)


def test_upstream_fine_orders_bound_the_usual_ones():
    # sigma = 4.530877117 gives (1, 1e-6) over ten thousand orders; the usual ones lose little.
    one = privacy.gaussian(clip_norm=1.0, noise_multiplier=4.530877117)
    got = privacy.epsilon(one, samplers.full(), rounds=1, delta=1e-6, method="rdp")
    assert 1 - 1e-7 <= got < 1.001
    exact = dp_accounting.get_epsilon_gaussian(4.530877117, 1e-6)
    pld = privacy.epsilon(one, samplers.full(), rounds=1, delta=1e-6)
    assert exact <= pld < exact + 1e-3 < got


def test_gaussians_of_one_cohort_are_one():
    """1/z^2 = sum 1/z_i^2, the joint release of an update and a count (Andrew et al. 2021)."""
    z_update, z_count = (1 - 10.0**-2) ** -0.5, 10.0  # together 1

    def event(moves):
        parts = [dp_accounting.GaussianDpEvent(z / moves) for z in (z_update, z_count)]
        return dp_accounting.ComposedDpEvent(parts)

    sampler = without_overflow(0.01)
    how = {"rounds": 1000, "delta": 1e-5, "grid": 1e-3}
    one = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
    for method in ("pld", "rdp"):
        both = privacy.epsilon(of(event), sampler, method=method, **how)
        assert both == pytest.approx(privacy.epsilon(one, sampler, method=method, **how), rel=1e-6)
    rdp = privacy.epsilon(of(event), sampler, rounds=1000, delta=1e-5, method="rdp")
    assert rdp == pytest.approx(2.101366525, abs=1e-6)
    # Two samples of their own would claim less, wrongly.
    apart = RdpAccountant()
    for z in (z_update, z_count):
        sampled = dp_accounting.PoissonSampledDpEvent(0.01, dp_accounting.GaussianDpEvent(z))
        apart.compose(sampled, 1000)
    assert apart.get_epsilon(1e-5) < rdp - 0.01


# --------------------------------------------------------------------------------------------------
# Ledgers
# --------------------------------------------------------------------------------------------------

OTHER = privacy.gaussian(clip_norm=0.1, noise_multiplier=5.0)


@pytest.mark.ci
def test_ledgers_add_up_in_any_order():
    phases = [
        (INDEPENDENT, samplers.poisson(0.1), 20),
        (OTHER, samplers.full(), 5),
        (OTHER, samplers.cyclic(3), 7),
    ]
    for method in ("rdp", "pld"):
        totals = set()
        for order in itertools.permutations(phases):
            ledger = privacy.Ledger()
            for mechanism, sampler, rounds in order:
                ledger = ledger.add(mechanism, sampler, rounds=rounds)
            claim = ledger.epsilon(delta=1e-5, method=method, grid=1e-3)
            totals.add(round(float(claim), 6))
            assert claim.rounds == 32
        (total,) = totals
        # The full and the cyclic phase are 8 Gaussian releases of z = 5, and one of 5 / sqrt(8).
        merged = privacy.gaussian(clip_norm=1.0, noise_multiplier=5 / math.sqrt(8))
        same = (
            privacy.Ledger()
            .add(*phases[0][:2], rounds=20)
            .add(merged, samplers.full(), rounds=1)
            .epsilon(delta=1e-5, method=method, grid=1e-3)
        )
        assert total == pytest.approx(float(same), abs=2e-3 if method == "pld" else 1e-5)


def test_equal_runs_are_one_entry():
    sampler = samplers.poisson(0.1)
    halves = privacy.Ledger()
    for i, rounds in enumerate((3, 4)):
        halves = halves.add(INDEPENDENT, sampler, rounds=rounds, key=jax.random.key(i))
    (run,) = halves.runs
    assert (run.times, run.rounds, run.slack) == (7, 7, 7 * 2.0**-40)
    whole = privacy.epsilon(INDEPENDENT, sampler, rounds=7, delta=1e-5, method="rdp")
    claim = halves.epsilon(delta=1e-5, method="rdp")
    assert (claim, vars(claim)) == (whole, vars(whole))


def test_runs_that_add_up_have_keys_of_their_own():
    def ledger(*keys):
        made = privacy.Ledger()
        for key in keys:
            made = made.add(INDEPENDENT, samplers.full(), rounds=1, key=key)
        return made

    def told(*keys):
        return "two runs from one key share" in str(ledger(*keys).epsilon(delta=1e-5, method="rdp"))

    zero, one = jax.random.key(0), jax.random.key(1)
    assert not told(zero, one)
    assert not told(None)
    assert told(None, None)
    assert told(zero, None)
    with pytest.raises(ValueError, match=r"a run in the ledger has this key.*another key"):
        ledger(zero, one, jax.random.key(0))
    with pytest.raises(TypeError, match="key"):
        ledger(0)


@pytest.mark.parametrize(
    ("mechanism", "sampler", "what"),
    [
        (INDEPENDENT, samplers.balls_in_bins(4), "balls in bins"),
        (CORRELATED, samplers.full(), "correlated noise"),
        (INDEPENDENT, SCHEDULED, "a schedule"),
    ],
)
def test_a_run_that_is_no_sum_of_its_phases_is_not_added_in_phases(mechanism, sampler, what):
    phase = privacy.Ledger().add(mechanism, sampler, rounds=8)
    for changed in (
        mechanism,
        mechanism._replace(event=OTHER.event),
    ):  # the noise may change midway
        with pytest.raises(ValueError, match=f"with {what} is in the ledger.*restarted=True"):
            phase.add(changed, sampler, rounds=8)
    phase.add(mechanism, sampler, rounds=0).add(OTHER, samplers.cyclic(4), rounds=3)
    two = phase.add(mechanism, sampler, rounds=8, restarted=True)
    (run,) = two.runs
    assert (run.times, run.rounds) == (2 * phase.runs[0].times, 16)


def test_bins_in_phases_would_claim_too_little():
    z, sampler = privacy.gaussian(clip_norm=1.0, noise_multiplier=2.0), samplers.balls_in_bins(10)
    phases = privacy.Ledger()
    for _ in range(20):
        phases = phases.add(z, sampler, rounds=10, restarted=True)
    apart = phases.epsilon(delta=1e-5, method="rdp")
    whole = privacy.Ledger().add(z, sampler, rounds=200).epsilon(delta=1e-5, method="rdp")
    assert whole > 1.5 * apart


def test_blocks_by_turns_are_meant_in_the_zero_out_sense():
    sampler = samplers.cyclic_poisson(2, rate=0.5)
    claim = privacy.epsilon(INDEPENDENT, sampler, rounds=2, delta=1e-5, method="rdp")
    assert "An absent client counts as one whose update is zero" in str(claim)


def test_a_ledger_is_a_value():
    empty = privacy.Ledger()
    assert empty.add(OTHER, samplers.full(), rounds=1) != empty
    assert empty.runs == ()
    assert empty.epsilon(delta=1e-5) == 0
    with pytest.raises(AttributeError):
        empty.runs = ()


# --------------------------------------------------------------------------------------------------
# Methods
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_the_best_method_is_the_lower_of_those_that_apply():
    how = {"rounds": 10, "delta": 1e-5, "num_clients": 100, "grid": 1e-2}
    for mechanism, sampler, winner in (
        (INDEPENDENT, samplers.poisson(0.1), "pld"),
        (INDEPENDENT, samplers.uniform(5), "pld"),
        (DISGUISED, samplers.uniform(5), "rdp"),
        (DISGUISED, samplers.poisson(0.1), "rdp"),
        (INDEPENDENT, samplers.poisson(0.1, cap=60), "pld"),
    ):
        best = privacy.epsilon(mechanism, sampler, method="best", **how)
        assert best.method == winner
        assert best == privacy.epsilon(mechanism, sampler, method=winner, **how)
    with pytest.raises(ValueError, match=r"neither method applies: .* Renyi curve.*; capped"):
        privacy.epsilon(DISGUISED, samplers.poisson(0.1, cap=60), method="best", **how)


def test_a_grid_is_an_upper_bound_and_finer_is_lower():
    how = {"rounds": 100, "delta": 1e-5}
    coarse, fine, chosen = (
        float(privacy.epsilon(INDEPENDENT, samplers.poisson(0.1), grid=grid, **how))
        for grid in (1e-1, 1e-2, None)
    )
    assert chosen < fine < coarse < 1.5 * chosen


def test_an_example_is_protected_as_its_clients_data_are():
    """It moves what its client sends, and so the sum by 2 C."""
    how = {"rounds": 1, "delta": 1e-5, "method": "rdp"}
    claim = privacy.epsilon(INDEPENDENT, samplers.full(), unit="example", **how)
    assert "example-level, replace-one" in str(claim)
    twice = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
    assert claim == pytest.approx(privacy.epsilon(twice, samplers.full(), **how), rel=1e-9)
    report = privacy.report(INDEPENDENT, samplers.full(), unit="example", points=1, **how)
    assert report.claims[0] == claim
    with pytest.raises(ValueError, match=r"moves the sum by twice.*relation='replace_one'"):
        privacy.epsilon(
            INDEPENDENT, samplers.full(), unit="example", relation="add_or_remove_one", **how
        )


RESPONSE = of(lambda moves: dp_accounting.RandomizedResponseDpEvent(0.5, 2))


def test_repeated_randomized_responses_are_counted():
    """Each keeps with probability 3/4: log(3) a time; dp-accounting's PLD forgets the repetitions."""
    how = {"delta": 1e-9, "relation": "replace_one"}
    once = privacy.epsilon(RESPONSE, samplers.full(), rounds=1, **how)
    assert once == pytest.approx(math.log(3), abs=1e-3)
    often = privacy.epsilon(RESPONSE, samplers.full(), rounds=10, method="best", **how)
    assert often.method == "rdp"
    assert 10 * math.log(3) * 0.9 < often < 10 * math.log(3) * 1.01


@pytest.mark.parametrize(
    ("mechanism", "sampler", "how", "message"),
    [
        (DISGUISED, samplers.full(), {}, "a Gaussian in disguise is described by.*method='rdp'"),
        (
            RESPONSE,
            samplers.uniform(5),
            {"method": "rdp", "num_clients": 9},
            "Gaussian noise only",
        ),
        (DISGUISED, samplers.poisson(0.1, cap=3), {"method": "rdp"}, "sample without a cap"),
        (
            DISGUISED,
            samplers.poisson(0.1),
            {"method": "rdp", "relation": "replace_one"},
            "cannot be accounted by method='rdp'",
        ),
        (RESPONSE, samplers.full(), {"relation": "replace_one"}, "do not count how often"),
        (RESPONSE, samplers.full(), {}, "no privacy loss distribution is known"),
        (
            of(lambda _: dp_accounting.dp_event.DiscreteLaplaceDpEvent(1.0, 1)),
            samplers.full(),
            {"method": "rdp"},
            "no Renyi bound is known",
        ),
        (INDEPENDENT, samplers.full(), {"unit": "user"}, "unit must be one of.*got 'user'"),
        (INDEPENDENT, samplers.full(), {"grid": 0.0}, "grid must be greater than 0"),
    ],
)
def test_what_has_no_bound_is_refused(mechanism, sampler, how, message):
    with pytest.raises(ValueError, match=message):
        privacy.epsilon(mechanism, sampler, **{"rounds": 10, "delta": 1e-5, **how})


def test_something_else_than_a_mechanism_is_refused():
    with pytest.raises(TypeError, match="mechanism must have noise_multiplier"):
        privacy.epsilon(1.0, samplers.full(), rounds=1, delta=1e-5)
