"""Plans: what they build, what they refuse to run, and what a run may then claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import aggregators, privacy, samplers

CLIENTS = 40
DATASET = fjx.data.from_clients([jnp.full((2,), float(i)) for i in range(CLIENTS)])
GIVEN = {
    "num_clients": CLIENTS,
    "rounds": 6,
    "delta": 1e-4,
    "cohort_size": 10,
    "clip_norm": 0.5,
    "method": "rdp",
}
PLAN = fjx.plan(noise_multiplier=2.0, **GIVEN)


def loss_fn(w, x, key):
    return jnp.mean((w - x) ** 2)


def algorithm(aggregator):
    return fjx.algorithms.fedavg(loss_fn, client_lr=0.1, batch_size=2, aggregator=aggregator)


def simulate(plan, aggregator=None, sampler=None, dataset=DATASET, rounds=6, **how):
    return fjx.simulate(
        jax.random.key(0),
        algorithm(plan.aggregator if aggregator is None else aggregator),
        jnp.zeros(()),
        dataset,
        sampler=plan.sampler if sampler is None else sampler,
        rounds=rounds,
        plan=plan,
        **how,
    )


# --------------------------------------------------------------------------------------------------
# What is built
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_plan_meets_its_target_with_the_parts_it_names():
    plan = fjx.plan(epsilon=1.5, **GIVEN)
    assert plan.sampler.subsampling.rate == 0.25
    assert plan.denominator == 10
    how = {"rounds": 6, "delta": 1e-4, "method": "rdp", "num_clients": CLIENTS}
    assert plan.claim == privacy.epsilon(plan.mechanism, plan.sampler, **how) <= 1.5
    less = privacy.gaussian(
        clip_norm=0.5, noise_multiplier=plan.mechanism.noise_multiplier * (1 - 1e-3)
    )
    assert privacy.epsilon(less, plan.sampler, **how) > 1.5
    assert plan.mechanism.sensitivity("add_or_remove_one") == 0.5


@pytest.mark.parametrize(
    ("sampler", "cohort", "denominator"),
    [
        (samplers.full(), None, 40),
        (samplers.cyclic(3), None, 40 / 3),
        (samplers.poisson(0.5), None, 20),
        (samplers.cyclic_poisson(4, rate=0.5), None, 5),
        (samplers.uniform(7), None, 7),
        (samplers.poisson(0.5), 9, 9),
        (samplers.balls_in_bins(4), None, 10),
        (samplers.min_separation(2, period=4), 10, 10),
    ],
)
def test_the_denominator_is_the_expected_cohort(sampler, cohort, denominator):
    given = {**GIVEN, "cohort_size": cohort, "noise_multiplier": 2.0}
    assert fjx.plan(sampler=sampler, **given).denominator == pytest.approx(denominator)


def test_correlated_mechanisms_are_planned_by_their_participation():
    def make(z):
        correlated = privacy.gaussian(clip_norm=1.0, noise_multiplier=z)
        return correlated._replace(correlation=lambda often: often.most**0.5)

    given = {**GIVEN, "clip_norm": None, "sampler": samplers.min_separation(2, period=4)}
    plan = fjx.plan(mechanism=make, epsilon=3.0, **given)
    two = privacy.gaussian(clip_norm=1.0, noise_multiplier=plan.mechanism.noise_multiplier)
    alike = privacy.epsilon(two, samplers.full(), rounds=2, delta=1e-4, method="rdp")
    assert 2.9 < plan.claim <= 3.0
    assert plan.claim == pytest.approx(float(alike), rel=1e-9)


@pytest.mark.ci
def test_examples_are_protected_under_replacement():
    plan = fjx.plan(noise_multiplier=2.0, unit="example", **{**GIVEN, "method": "pld"})
    assert (plan.accounting.relation, plan.claim.unit) == ("replace_one", "example")
    assert plan.claim > PLAN.claim


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"delta": 1 / CLIENTS}, ValueError, "delta must be below 1 / num_clients = 0.025"),
        ({"epsilon": 1.0}, ValueError, "give either epsilon or noise_multiplier, got both"),
        ({"noise_multiplier": None}, ValueError, "epsilon or noise_multiplier, got neither"),
        ({"clip_norm": None}, ValueError, "give either clip_norm or mechanism, got neither"),
        ({"cohort_size": None}, ValueError, "give cohort_size, the expected number"),
        ({"cohort_size": 41}, ValueError, "cohort_size must be .* at most 40"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1"),
        (
            {"cohort_size": None, "sampler": samplers.random_check_in(3, window=2)},
            ValueError,
            "cohort_size is needed",
        ),
        (
            {"sampler": samplers.uniform(5), "relation": "add_or_remove_one"},
            ValueError,
            "relation='replace_one' only",
        ),
        ({"sampler": 0.1}, TypeError, "sampler must be a fjx Sampler"),
        (
            {"unit": "example", "relation": "add_or_remove_one"},
            ValueError,
            "moves the sum by twice.*relation='replace_one'",
        ),
    ],
)
def test_what_does_not_add_up_is_refused(changed, error, message):
    with pytest.raises(error, match=message):
        fjx.plan(**{**GIVEN, "noise_multiplier": 2.0, **changed})


# --------------------------------------------------------------------------------------------------
# What is refused
# --------------------------------------------------------------------------------------------------

WEAKER = aggregators.private(privacy.gaussian(clip_norm=0.5, noise_multiplier=0.1), 10)


@pytest.mark.parametrize(
    ("swapped", "message"),
    [
        ({"aggregator": WEAKER}, "aggregator is not the plan's.*aggregator=plan.aggregator"),
        ({"aggregator": aggregators.mean()}, "aggregator is not the plan's"),
        (
            {"aggregator": aggregators.rotated(PLAN.aggregator)},
            r"aggregator=lambda mechanism, denom",
        ),
        ({"aggregator": PLAN.aggregator._replace(encode=None)}, "aggregator is not the plan's"),
        (
            {"sampler": samplers.full()},
            r"is Full\(\), and Poisson\(rate=0.25.*sampler=plan.sampler",
        ),
        ({"sampler": samplers.poisson(0.26)}, "the sampler is Poisson"),
        ({"rounds": 7}, "7 rounds are asked for.*and 6 were planned.*rounds=7"),
        (
            {"dataset": fjx.data.from_clients([jnp.ones(2)] * 41)},
            "has 41 clients, and 40 were planned: plan with num_clients=41",
        ),
    ],
)
def test_a_run_with_swapped_parts_is_refused(swapped, message):
    with pytest.raises(ValueError, match=message):
        simulate(PLAN, **swapped)


def test_a_description_on_other_functions_is_another_sampler():
    """Everybody in every round, described as chance."""
    full, planned = samplers.full(), PLAN.sampler
    for changed in ({"sample": full.sample}, {"capacity": full.capacity}):
        with pytest.raises(
            ValueError, match=r"as planned, and draws by other functions.*plan\.sampler"
        ):
            simulate(PLAN, sampler=samplers.dropout(planned._replace(**changed), 0.1))
    again = samplers.poisson(planned.subsampling.rate, overflow=planned.subsampling.overflow)
    for sampler in (planned, again, samplers.dropout(again, 0.1)):
        PLAN.check(algorithm(PLAN.aggregator), sampler, num_clients=CLIENTS, rounds=1)


def test_descriptions_of_other_kinds_are_other_samplers():
    plan = fjx.plan(sampler=samplers.cyclic(4), noise_multiplier=2.0, **GIVEN)
    with pytest.raises(ValueError, match=r"is FixedSize\(size=4\), and Cyclic\(period=4\) was"):
        simulate(plan, sampler=samplers.uniform(4))


def test_an_algorithm_that_was_not_composed_is_refused():
    composed = algorithm(PLAN.aggregator)

    def other(*args, **options):
        return composed.round(*args, **options)

    unknown = composed._replace(round=other)
    assert not unknown.runs_its_aggregator
    with pytest.raises(ValueError, match=r"was replaced.*runs=fjx\.Runs\("):
        PLAN.check(unknown, PLAN.sampler, num_clients=CLIENTS, rounds=1)
    said = unknown._replace(runs=fjx.Runs(PLAN.aggregator, other))
    PLAN.check(said, PLAN.sampler, num_clients=CLIENTS, rounds=1)


def test_what_is_planned_is_accepted():
    dropping = samplers.dropout(PLAN.sampler, 0.1)
    PLAN.check(algorithm(PLAN.aggregator), dropping, num_clients=CLIENTS, rounds=6)
    around = fjx.plan(
        noise_multiplier=2.0,
        aggregator=lambda m, d: aggregators.rotated(aggregators.private(m, d)),
        **GIVEN,
    )
    around.check(algorithm(around.aggregator), around.sampler, num_clients=CLIENTS, rounds=6)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda m, d: aggregators.mean(), "does not claim that all of its result is noised"),
        (lambda m, d: WEAKER, "another mechanism than the one it was given"),
        (
            lambda m, d: aggregators.per_field(
                params=aggregators.private(m, d), control=aggregators.private(m, d)
            ),
            "2 results of the same cohort.*accounted as one gaussian",
        ),
        (
            lambda m, d: aggregators.per_field(
                params=aggregators.private(m, d), control=aggregators.mean()
            ),
            "does not claim that all",
        ),
    ],
)
def test_an_aggregator_that_is_not_one_release_of_the_mechanism_is_not_planned(factory, message):
    with pytest.raises(ValueError, match=message):
        fjx.plan(noise_multiplier=2.0, aggregator=factory, **GIVEN)


def test_what_changes_messages_and_results_only_passes_its_releases_on():
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
    inner = aggregators.private(mechanism, 10)
    for around in (
        inner,
        aggregators.rotated(inner),
        aggregators.uniform(inner),
        aggregators.shared_rand_k(0.5, inner),
        aggregators.sketched(rows=3, columns=8, aggregator=inner),
        aggregators.compressed(fjx.compressors.cast(jnp.bfloat16), inner),
        aggregators.rotated(aggregators.compressed(fjx.compressors.cast(jnp.bfloat16), inner)),
        aggregators.per_field(params=inner),
    ):
        (released,) = around.mechanisms
        assert released is mechanism
    assert aggregators.rotated(aggregators.mean()).mechanisms == ()


# --------------------------------------------------------------------------------------------------
# What is claimed
# --------------------------------------------------------------------------------------------------


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "part",
    [
        {"rounds": 600},
        {"sampler": samplers.full()},
        {"mechanism": privacy.gaussian(clip_norm=0.5, noise_multiplier=0.5)},
        {"accounting": PLAN.accounting._replace(delta=1e-6)},
    ],
    ids=lambda part: next(iter(part)),
)
def test_the_claim_of_a_plan_follows_its_parts(part):
    other = PLAN._replace(**part)
    true = other.accounting.epsilon(other.mechanism, other.sampler, rounds=other.rounds)
    assert PLAN.claim < other.claim == other.epsilon(other.rounds) == true
    assert other._replace(**{name: getattr(PLAN, name) for name in part}).claim is PLAN.claim


@pytest.mark.slow
def test_a_result_claims_the_rounds_that_ran(tmp_path):
    first = simulate(PLAN, rounds=2, checkpoint=tmp_path, evaluate_every=2, progress=False)
    assert first.privacy == PLAN.epsilon(2) < PLAN.claim
    assert first.privacy.rounds == 2
    with pytest.raises(ValueError, match="those of a checkpoint included, and 6 were planned"):
        simulate(PLAN, rounds=8, checkpoint=tmp_path, progress=False)
    last = simulate(PLAN, rounds=6, checkpoint=tmp_path, evaluate_every=2, progress=False)
    assert last.privacy is PLAN.claim
    assert "not what is without noise: losses" in str(last.privacy)


@pytest.mark.slow
def test_a_run_that_ends_by_itself_says_so():
    result = simulate(
        PLAN,
        evaluate=lambda w: {"w": w},
        evaluate_every=2,
        stop=lambda scores: True,
        progress=False,
    )
    assert (result.stopped, int(result.state.round), result.privacy.rounds) == ("early", 2, 6)
    assert float(result.privacy) == float(PLAN.claim)
    assert "after 2 rounds" in str(result.privacy)
    assert "It holds only if the scores that stop reads" in result.privacy.caveats[-1]


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"delta": 1e-6},
        {"sampler": samplers.full(), "method": "pld"},
        {"sampler": samplers.full(), "relation": "replace_one"},
        {"sampler": samplers.full(), "relation": "replace_one", "unit": "example"},
        {"sampler": samplers.uniform(10), "num_clients": 50},
    ],
    ids=["plain", "delta", "method", "relation", "unit", "num_clients"],
)
def test_noise_claims_and_reports_are_on_the_same_terms(terms):
    """One value forwards delta, method, relation, unit and population: none is lost on the way."""
    plan = fjx.plan(epsilon=3.0, **{**GIVEN, **terms})
    how = {n: v for n, v in {**GIVEN, **terms}.items() if n in privacy.Accounting._fields}

    def facts(claim):
        return {"epsilon": float(claim), **vars(claim), "caveats": ()}

    def direct(rounds, **terms):
        return facts(privacy.epsilon(plan.mechanism, plan.sampler, rounds=rounds, **terms))

    half, whole = direct(3, **how), direct(6, **how)
    assert facts(plan.epsilon(3)) == half
    assert facts(plan.claim) == whole
    assert [facts(claim) for claim in plan.report(points=2).claims] == [half, whole]
    calibration = {name: value for name, value in how.items() if name != "unit"}
    z = privacy.calibrate(plan.sampler, epsilon=3.0, rounds=6, **calibration)
    assert z == plan.mechanism.noise_multiplier
    # And the terms do matter.
    assert (whole == direct(6, delta=1e-4, method="rdp", num_clients=CLIENTS)) == (not terms)


# --------------------------------------------------------------------------------------------------
# Reports
# --------------------------------------------------------------------------------------------------


def test_a_report_has_a_row_for_each_claim_and_all_that_must_be_told():
    report = PLAN.report(points=3)
    assert [claim.rounds for claim in report.claims] == [2, 4, 6]
    assert list(report.claims) == sorted(report.claims)
    assert float(report.claims[-1]) == float(PLAN.claim)
    text = str(report)
    for told in ("client", "add-or-remove-one", "Poisson rate 0.25", "2 times the sensitivity 0.5"):
        assert told in text
    for told in ("0.0001", "RDP", "without noise", "k clients", "ledger", "last bits"):
        assert told in text
    for claim in report.claims:
        assert f"{claim.rounds}  " in text
    without = privacy.report(PLAN.mechanism, PLAN.sampler, rounds=1, delta=1e-4, method="rdp")
    assert "num_clients, which was not given" in str(without)


@pytest.mark.slow
def test_a_report_is_drawn():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    report = PLAN.report(points=3)
    axes = report.plot()
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [2, 4, 6])
    np.testing.assert_array_equal(line.get_ydata(), np.array(report.claims, float))
    assert "0.0001" in axes.get_ylabel()
    assert report.plot(axes) is axes
    pyplot.close("all")


# --------------------------------------------------------------------------------------------------
# A deployment's noise in a simulation
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_rescaled_noise_is_that_of_the_deployment_on_the_mean():
    def make(z):
        return privacy.gaussian(clip_norm=0.5, noise_multiplier=z)

    both = privacy.rescaled(make, noise_multiplier=3.0, simulated=20, deployed=1000)
    nothing = privacy.Contribution(jnp.zeros(3), jnp.int32(0), jnp.int32(0), jnp.zeros(()))

    def noise_of_mean(mechanism, cohort):
        return mechanism.release(jax.random.key(1), nothing, ())[0] / cohort

    small = noise_of_mean(both.simulation, both.simulated)
    np.testing.assert_allclose(small, noise_of_mean(both.deployment, both.deployed), rtol=1e-6)
    how = {"rounds": 5, "delta": 1e-6, "method": "rdp"}
    claim = both.epsilon(samplers.poisson(0.01), **how)
    assert claim == privacy.epsilon(make(3.0), samplers.poisson(0.01), **how)
    assert "deployment with cohorts of 1000 clients, and not of the simulation" in str(claim)
    assert privacy.epsilon(both.simulation, samplers.poisson(0.01), **how) > 100 * claim
    with pytest.raises(ValueError, match="deployed must be at least 20"):
        privacy.rescaled(make, noise_multiplier=3.0, simulated=20, deployed=19)


def test_only_noise_in_proportion_can_be_rescaled():
    """Past noise is; the noise on the sum beside an adaptive bound's count is not."""

    def adaptive(z):
        return privacy.adaptive_gaussian(initial_clip=1.0, noise_multiplier=z, cohort_size=20)

    def correlated(z):
        return privacy.correlated(privacy.tree(4), clip_norm=1.0, noise_multiplier=z)

    how = {"noise_multiplier": 1.5, "simulated": 2, "deployed": 20}
    assert privacy.rescaled(correlated, **how).simulation.noise_multiplier == pytest.approx(0.15)
    with pytest.raises(
        ValueError, match="with a state, such as a bound that follows a noised count"
    ):
        privacy.rescaled(adaptive, **how)
    with pytest.raises(TypeError, match=r"mechanism must make a fjx.privacy.Mechanism, got 0\.15"):
        privacy.rescaled(lambda z: z, **how)


def test_an_algorithm_cannot_be_relabelled():
    """The round still runs the mean, whatever the field says."""
    relabelled = algorithm(aggregators.mean())._replace(aggregator=PLAN.aggregator)
    with pytest.raises(ValueError, match="round or aggregator was replaced"):
        PLAN.check(relabelled, PLAN.sampler, num_clients=CLIENTS, rounds=1)
