"""Epsilons: published and exact numbers, closed forms, and what must be refused."""

import copy
import functools
import itertools
import logging
import math
import pickle
import subprocess
import sys

import dp_accounting
import jax
import numpy as np
import pytest
from scipy import stats

from fjx import privacy, samplers
from fjx.privacy._accounting import renyi as _renyi

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def mechanism(noise_multiplier: float) -> privacy.Mechanism:
    # Epsilon does not depend on the clip norm, so any will do.
    return privacy.gaussian(clip_norm=0.3, noise_multiplier=noise_multiplier)


def ideal(rate: float) -> samplers.Sampler:
    """Poisson sampling without the tail that a finite capacity costs."""
    sampler = samplers.poisson(rate)
    return sampler._replace(subsampling=sampler.subsampling._replace(overflow=0.0))


def epsilon(z, sampler, rounds, delta, **how):
    return privacy.epsilon(mechanism(z), sampler, rounds=rounds, delta=delta, **how)


# --------------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------------

# rate, noise multiplier, rounds, delta, epsilon by RDP, epsilon by PLD: dp-accounting 0.6.0, called
# directly.  The row of rate 0.1 is in jax-privacy's documentation as 3.77.
TABLE = [
    (0.01, 4, 10_000, 1e-5, 1.03549, 0.94700),
    slow(0.01, 1, 1000, 1e-5, 2.10137, 1.82824),
    slow(0.01, 1, 10_000, 1e-5, 6.71276, 6.18774),
    slow(256 / 60_000, 1.1, 14_062, 1e-5, 2.59656, 2.38169),
    slow(250 / 60_000, 1.3, 3600, 1e-5, 0.94220, 0.85303),
    slow(0.001, 0.8, 10_000, 1e-5, 1.38382, 0.78252),
    (0.001, 1, 1000, 1e-5, 0.67783, 0.14896),
    slow(100 / 342_477, 1, 1600, 1 / 342_477, 0.60607, 0.05473),
    (0.1, 3, 512, 1e-6, 4.05097, 3.76969),
    (1.0, 10, 100, 1e-5, 4.72851, 4.37718),
]


@pytest.mark.few(2)
@pytest.mark.parametrize(("rate", "z", "rounds", "delta", "rdp", "pld"), TABLE)
def test_poisson_table(rate, z, rounds, delta, rdp, pld):
    assert epsilon(z, ideal(rate), rounds, delta, method="rdp") == pytest.approx(rdp, abs=1e-5)
    assert epsilon(z, ideal(rate), rounds, delta, method="pld") == pytest.approx(pld, abs=1e-5)
    # What a finite capacity costs is visible in the fourth digit at most.
    paid = epsilon(z, samplers.poisson(rate), rounds, delta, method="rdp")
    assert rdp - 1e-5 < paid < rdp + 5e-4


@pytest.mark.few(1)
@pytest.mark.parametrize(("z", "expected"), [(1, 20.98707), (2, 3.57611), (4, 1.44530)])
def test_fixed_size_counts_replacement_as_twice_the_clip_norm(z, expected):
    # dp-accounting's numbers for 0.5, 1 and 2: half the multiplier that the user gave.
    how = {"method": "rdp", "num_clients": 100_000}
    got = epsilon(z, samplers.uniform(1000), 1000, 1e-5, **how)
    assert got == pytest.approx(expected, abs=1e-5)
    assert (got.relation, got.method) == ("replace_one", "rdp")


def test_fixed_size_never_costs_more_than_no_sampling():
    how = {"method": "rdp", "relation": "replace_one"}
    unsampled = epsilon(2, samplers.full(), 10, 1e-5, **how)
    for size in (99, 100):
        sampled = epsilon(2, samplers.uniform(size), 10, 1e-5, num_clients=100, **how)
        assert float(sampled) == float(unsampled)


@pytest.mark.parametrize(
    ("z", "exact"), [(1, 4.377178095681), slow(2, 1.993091404415), slow(0.5, 9.997256146)]
)
def test_one_gaussian_is_exact(z, exact):
    for method, error in (("pld", 1e-4), ("rdp", 0.8)):
        assert 0 <= epsilon(z, samplers.full(), 1, 1e-5, method=method) - exact < error
    # T rounds are one with z / sqrt(T), and replacement is one with z / 2.
    assert epsilon(4 * z, samplers.full(), 16, 1e-5) == pytest.approx(exact, abs=1e-4)
    replaced = epsilon(2 * z, samplers.full(), 1, 1e-5, relation="replace_one")
    assert replaced == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("delta", [1e-5, 1e-16, 1e-60])
def test_gaussians_without_sampling_are_exact_at_any_delta(delta):
    """The curve itself: noise from tables cannot support so large an epsilon or so small a delta."""
    how = {"relation": "replace_one", "delta": delta}
    for z, rounds in ((0.1, 3), (1.0, 10), (300.0, 2)):
        exact = dp_accounting.get_epsilon_gaussian(z / math.sqrt(rounds) / 2, delta)
        ideal = mechanism(z)._replace(distance=0.0)
        pld, rdp = (
            privacy.epsilon(ideal, samplers.full(), rounds=rounds, method=method, **how)
            for method in ("pld", "rdp")
        )
        assert exact < pld <= exact * (1 + 1e-8) + 1e-8
        assert pld <= rdp


def test_noise_multipliers_mean_the_same_to_both_accountants():
    for relation in ("add_or_remove_one", "replace_one"):
        pld, rdp = (
            epsilon(2, samplers.full(), 1, 1e-5, relation=relation, method=method)
            for method in ("pld", "rdp")
        )
        assert pld < rdp < 1.1 * pld


@pytest.mark.parametrize(("order", "published"), [(2, 1.71813422e-4), (4, 3.63154049e-4),
                                                 (8, 8.93643908e-4), (16, 3.08785078)])  # fmt: skip
def test_renyi_divergences_of_poisson_rounds(order, published):
    # Mironov, Talwar, Zhang 2019, equation 6 for integer orders, at q = 0.01 and sigma = 1.
    q, k = 0.01, np.arange(order + 1)
    log_choose = [math.log(math.comb(order, i)) for i in k]
    terms = log_choose + k * math.log(q) + (order - k) * math.log1p(-q) + (k * k - k) / 2
    closed_form = np.logaddexp.reduce(terms) / (order - 1)
    (run,) = privacy.Ledger().add(mechanism(1), ideal(q), rounds=7).runs
    curve = _renyi.curve_of(run.release, "add_or_remove_one")
    assert run.times * curve(np.array([float(order)]))[0] == pytest.approx(
        7 * closed_form, rel=1e-6
    )
    assert closed_form == pytest.approx(published, rel=1e-8)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("rate", "z", "rounds"),
    [
        (slow if z == 0.8 else pytest.param)(rate, z, rounds)
        for rate, z, rounds in itertools.product((0.002, 0.1, 1.0), (0.8, 4.0), (1, 300))
    ],
)
def test_pld_is_the_lower_bound(rate, z, rounds):
    pld, rdp = (
        epsilon(z, samplers.poisson(rate), rounds, 1e-5, method=method) for method in ("pld", "rdp")
    )
    assert 0 <= pld <= rdp


def test_replacement_costs_more_than_removal_under_poisson():
    coarse = {"grid": 1e-2}
    added = epsilon(1, samplers.poisson(0.05), 100, 1e-5, **coarse)
    replaced = epsilon(1, samplers.poisson(0.05), 100, 1e-5, relation="replace_one", **coarse)
    unsampled = epsilon(1, samplers.full(), 100, 1e-5, relation="replace_one", **coarse)
    assert added < replaced < unsampled


def test_cycles_count_participations():
    for rounds, participations in ((1, 1), (10, 1), (11, 2), (20, 2), (101, 11)):
        cyclic = epsilon(3, samplers.cyclic(10), rounds, 1e-5, method="rdp")
        every = epsilon(3, samplers.full(), participations, 1e-5, method="rdp")
        assert float(cyclic) == float(every)


@pytest.mark.slow
def test_a_cap_costs_and_a_wide_one_does_not():
    caps = [10, 60]
    how = {"num_clients": 1000}
    capped = [epsilon(1, samplers.poisson(0.01, cap=c), 100, 1e-5, **how) for c in caps]
    assert capped == sorted(capped, reverse=True)
    free = float(epsilon(1, ideal(0.01), 100, 1e-5))
    assert capped[0] > 2 * free
    assert capped[-1] == pytest.approx(free, abs=1e-4)


def test_dropouts_are_accounted_like_the_inner_sampler():
    inner = samplers.poisson(0.1)
    dropping = samplers.dropout(inner, 0.5)
    for how in ({"method": "rdp"}, {"grid": 1e-2}):
        assert epsilon(1, dropping, 10, 1e-5, **how) == epsilon(1, inner, 10, 1e-5, **how)


def test_without_noise_or_rounds():
    for method in ("pld", "rdp"):
        assert epsilon(0, samplers.poisson(0.1), 10, 1e-5, method=method) == math.inf
        assert epsilon(1, samplers.poisson(0.1), 0, 1e-5, method=method) == 0
        assert epsilon(0, samplers.poisson(0.1), 0, 1e-5, method=method) == 0


@pytest.mark.slow
def test_little_noise_and_much_noise_are_affordable():
    # On a fixed grid the first of these would need 10^10 points.  Tables of noise support no such claim.
    ideal, how = mechanism(1e-3)._replace(distance=0.0), {"rounds": 1, "delta": 1e-5}
    assert privacy.epsilon(ideal, samplers.full(), **how) == pytest.approx(5e5, rel=0.02)
    assert epsilon(1e-3, samplers.full(), 1, 1e-5) == math.inf
    assert epsilon(1e-9, samplers.full(), 1, 1e-5) == math.inf
    assert 0 < epsilon(1e3, samplers.poisson(0.1), 10, 1e-5) < 0.01


# --------------------------------------------------------------------------------------------------
# The price of a finite capacity
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [-1.0, 0.0, 1.0])
def test_the_price_of_truncation_covers_it(other):
    """By enumeration: delta of a truncated round <= delta of the ideal one + tau, either way.

    Three others and a client that sends 1.  The adversary is told which others were drawn.
    """
    rate, capacity, z, others = 0.2, 2, 0.5, 3
    grid, step = np.linspace(-12, 12, 4801, retstep=True)

    def density(drawn):
        kept = list(itertools.combinations(drawn, min(capacity, len(drawn))))
        return sum(stats.norm.pdf(grid, sum(subset), z) for subset in kept) / len(kept)

    def hockey_stick(p, q, eps):
        return float(np.maximum(p - np.exp(eps) * q, 0).sum() * step)

    sizes = range(others + 1)
    without = [density([other] * k) for k in sizes]
    with_client = [(1 - rate) * without[k] + rate * density([1.0] + [other] * k) for k in sizes]
    absent = stats.norm.pdf(grid, 0, z)
    present = (1 - rate) * absent + rate * stats.norm.pdf(grid, 1, z)
    tau = stats.binom.sf(capacity - 1, others, rate)

    excess = []
    for eps in (0.1, 0.5, 1.0, 2.0, 4.0):
        for p, q, ideal in (
            (with_client, without, hockey_stick(present, absent, eps)),
            (without, with_client, hockey_stick(absent, present, eps)),
        ):
            actual = sum(
                stats.binom.pmf(k, others, rate) * hockey_stick(p[k], q[k], eps) for k in sizes
            )
            assert actual <= ideal + tau
            excess.append(actual - ideal)
    # Truncation does cost something where the client displaces others unlike it.
    assert (max(excess) > 1e-3) == (other < 0)


def test_the_price_is_taken_from_delta():
    sampler = samplers.poisson(0.01)
    assert sampler.subsampling.overflow == 2.0**-40
    dear = sampler._replace(subsampling=sampler.subsampling._replace(overflow=1e-9))
    for how in ({"grid": 1e-2}, {"method": "rdp"}):
        paid = epsilon(1, dear, 1000, 2e-6, **how)
        assert paid == pytest.approx(epsilon(1, ideal(0.01), 1000, 1e-6, **how), rel=1e-9)
        assert epsilon(1, dear, 2000, 2e-6, **how) == math.inf


# --------------------------------------------------------------------------------------------------
# Calibration
# --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "target", "expected", "how"),
    [
        (samplers.poisson(0.1), 1.0, 9.66, {"rounds": 512, "delta": 1e-6}),
        slow(samplers.poisson(0.01), 2.0, 1.02922, {"rounds": 1000, "delta": 1e-6}),
        (samplers.poisson(0.01), 2.0, 1.09387, {"rounds": 1000, "delta": 1e-6, "method": "rdp"}),
        slow(
            samplers.uniform(1000),
            20.98707,
            1.0,
            {"rounds": 1000, "delta": 1e-5, "method": "rdp", "num_clients": 100_000},
        ),
        (
            samplers.full(),
            0.5,
            4 * dp_accounting.get_sigma_gaussian(0.5, 1e-6),
            {"rounds": 16, "delta": 1e-6},
        ),
    ],
)
def test_calibration_meets_the_target_and_not_more(sampler, target, expected, how):
    z = privacy.calibrate(sampler, epsilon=target, **how)
    assert z == pytest.approx(expected, rel=5e-4)
    assert privacy.epsilon(mechanism(z), sampler, **how) <= target
    assert privacy.epsilon(mechanism(z * (1 - 1e-3)), sampler, **how) > target


def test_calibration_of_nothing_and_of_the_impossible():
    assert privacy.calibrate(samplers.full(), epsilon=1.0, delta=1e-5, rounds=0) == 0
    with pytest.raises(ValueError, match=r"no noise reaches epsilon = 1.0 .* larger delta"):
        privacy.calibrate(samplers.poisson(0.1), epsilon=1.0, delta=1e-12, rounds=1000)
    with pytest.raises(ValueError, match="epsilon must be greater than 0, got 0"):
        privacy.calibrate(samplers.full(), epsilon=0.0, delta=1e-5, rounds=1)
    with pytest.raises(
        ValueError, match="num_clients is needed to account for cohorts of fixed size"
    ):
        privacy.calibrate(samplers.uniform(3), epsilon=1.0, delta=1e-5, rounds=1)


# --------------------------------------------------------------------------------------------------
# The claim
# --------------------------------------------------------------------------------------------------


def test_an_epsilon_states_its_claim():
    got = epsilon(3, samplers.poisson(0.1), 512, 1e-6)
    assert isinstance(got, float)
    assert (
        str(got)
        == got.statement()
        == (
            "epsilon = 3.770 at delta = 1e-06 "
            "(client-level, add-or-remove-one, Poisson rate 0.1, 512 rounds, PLD)"
        )
    )
    assert (got.delta, got.unit, got.relation) == (1e-6, "client", "add_or_remove_one")
    assert (got.rounds, got.method, got.caveats) == (512, "pld", ())
    for same in (copy.deepcopy(got), pickle.loads(pickle.dumps(got))):
        assert (same, vars(same)) == (got, vars(got))


def test_statements_round_up():
    for exact, stated in ((1.23401, "1.235"), (1.2340, "1.234"), (0.00012341, "0.0001235")):
        claim = dict(vars(epsilon(3, samplers.full(), 0, 1e-6)))
        assert privacy.Epsilon(exact, **claim).statement().startswith(f"epsilon = {stated} at")
    assert epsilon(0, samplers.full(), 1, 1e-6).statement().startswith("epsilon = inf at")


def test_statements_name_the_sampling():
    how = {"method": "rdp", "num_clients": 50}
    assert "fixed size 5 of 50, 1 round, RDP" in str(
        epsilon(9, samplers.uniform(5), 1, 1e-6, **how)
    )
    assert "every client once in 4 rounds" in str(epsilon(9, samplers.cyclic(4), 1, 1e-6))
    capped = epsilon(9, samplers.poisson(0.5, cap=30), 1, 1e-6, num_clients=50)
    assert "Poisson rate 0.5 of 50 truncated to 30" in str(capped)


def test_caveats_are_stated():
    full = epsilon(9, samplers.full(), 1, 1e-6)
    assert str(full).endswith("An absent client counts as one whose update is zero")
    assert epsilon(9, samplers.full(), 1, 1e-6, relation="replace_one").caveats == ()
    assert epsilon(9, samplers.poisson(0.1), 1, 0.009, num_clients=100).caveats == ()
    (caveat,) = epsilon(9, samplers.poisson(0.1), 1, 0.01, num_clients=100).caveats
    assert "delta is not below 1 / num_clients = 0.01" in caveat


class Availability(tuple):
    """A subsampling that the accountant does not know."""


@pytest.mark.parametrize(
    ("sampler", "how", "error", "message"),
    [
        *(
            (
                samplers.uniform(5),
                {"method": method, "relation": "add_or_remove_one", "num_clients": 50},
                ValueError,
                "relation='replace_one' only, got 'add_or_remove_one'.*samplers.poisson",
            )
            for method in ("pld", "rdp")
        ),
        (samplers.uniform(5), {"method": "rdp"}, ValueError, "num_clients is needed"),
        (
            samplers.uniform(5),
            {"method": "rdp", "num_clients": 4},
            ValueError,
            "num_clients must be at least the cohort's size 5, got 4",
        ),
        (
            samplers.poisson(0.1),
            {"method": "rdp", "relation": "replace_one"},
            ValueError,
            "pass method='pld'",
        ),
        (samplers.poisson(0.1, cap=9), {}, ValueError, "num_clients is needed.*capped Poisson"),
        (
            samplers.poisson(0.1, cap=9),
            {"method": "rdp", "num_clients": 50},
            ValueError,
            "capped Poisson cohorts.*method='pld'.*without a cap",
        ),
        (
            samplers.full()._replace(subsampling=Availability()),
            {},
            TypeError,
            r"cannot be accounted.*k rounds of samplers.full\(\)",
        ),
        (samplers.full(), {"method": "prv"}, ValueError, "method must be one of.*got 'prv'"),
        (samplers.full(), {"relation": "zero"}, ValueError, "relation must be one of.*got 'zero'"),
        (samplers.full(), {"delta": 0.0}, ValueError, "delta must be greater than 0"),
        (samplers.full(), {"delta": 1.0}, ValueError, "delta must be .* less than 1"),
        (samplers.full(), {"rounds": -1}, ValueError, "rounds must be at least 0, got -1"),
        (samplers.full(), {"rounds": 1.5}, TypeError, "rounds must be an integer, got 1.5"),
        (samplers.full(), {"num_clients": 0}, ValueError, "num_clients must be at least 1"),
    ],
)
def test_what_cannot_be_accounted_is_refused(sampler, how, error, message):
    with pytest.raises(error, match=message):
        privacy.epsilon(mechanism(1.0), sampler, **{"rounds": 10, "delta": 1e-5, **how})


def test_a_traced_mechanism_is_refused():
    def claim(z):
        return epsilon(z, samplers.full(), 1, 1e-5)

    with pytest.raises(TypeError, match="noise_multiplier is traced"):
        jax.jit(claim)(1.0)


def test_accounting_is_silent_and_leaves_the_logger_as_it_was(caplog):
    # dp-accounting warns of orders that do not converge here.
    with caplog.at_level(logging.WARNING, logger="absl"):
        epsilon(0.5, samplers.poisson(0.1), 10, 1e-5, method="rdp")
    assert caplog.records == []
    assert not logging.getLogger("absl").disabled


@pytest.mark.ci
def test_importing_privacy_does_not_import_the_accountants():
    script = (
        "import sys, fjx.privacy, fjx.samplers; fjx.privacy.epsilon, fjx.privacy.calibrate;"
        "print({'dp_accounting', 'scipy', 'mpmath'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
