"""Ends of runs: what they depend on, what a checkpoint keeps of them, and what a claim says of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import aggregators, privacy, samplers, simulation
from fjx.simulation import History
from fjx.simulation._checkpoint import Checkpoints, noise_of
from fjx.simulation._ends import claim, diverged_at, ends

N = 20
DATASET = fjx.data.from_clients([np.full(2, i % 3, np.float32) for i in range(N)])


def loss_fn(w, x, key):
    return jnp.mean((w - x) ** 2)


def algorithm(aggregator=None):
    given = {} if aggregator is None else {"aggregator": aggregator}
    return fjx.algorithms.fedavg(loss_fn, client_lr=0.1, batch_size=2, **given)


PLAIN = algorithm()


def simulate(algorithm=PLAIN, dataset=DATASET, **options):
    options = {"sampler": samplers.full(), "rounds": 20, "progress": False, **options}
    return fjx.simulate(jax.random.key(0), algorithm, jnp.array(0.0), dataset, **options)


def plan_of(noise_multiplier=1.0, rounds=6, clip_norm=1.0, **given):
    return fjx.plan(
        num_clients=N,
        cohort_size=10,
        rounds=rounds,
        delta=1e-3,
        noise_multiplier=noise_multiplier,
        method="rdp",
        **({"clip_norm": clip_norm} if "mechanism" not in given else {}),
        **given,
    )


PLAN = plan_of()

# --------------------------------------------------------------------------------------------------
# What is not finite
# --------------------------------------------------------------------------------------------------


def history(rounds=4, scores=None, prefix="", **changed):
    """Reports of a sound run, evaluated after rounds 2 and 4, with some changed."""
    told = {
        "participants": np.full(rounds, 3),
        "nonfinite": np.zeros(rounds, int),
        "loss": np.ones(rounds),
    }
    told = {f"{prefix}{name}": changed.get(name, x) for name, x in told.items()}
    finite = changed.get("finite", np.full(rounds, True))
    return History({"finite": finite, **told}, scores or {}, np.array([2, 4]))


NAN = np.nan
BROKEN = {
    "model": ({"finite": np.array([True, True, False, False])}, 3),
    "every message": (
        {"nonfinite": np.array([0, 1, 3, 0]), "participants": np.array([3, 2, 0, 3])},
        3,
    ),
    "loss": ({"loss": np.array([1, NAN, NAN, 1])}, 2),
    "infinite loss": ({"loss": np.array([1, 1, 1, np.inf])}, 4),
    "score": ({"scores": {"accuracy": np.array([NAN, 0.5])}}, 2),
    "last score": ({"scores": {"gap": np.array([0.1, np.inf]), "hits": np.array([3, 4])}}, 4),
    "scores of all clients": ({"scores": {"accuracy": np.array([[0.5, 1.0], [NAN, NAN]])}}, 4),
}
SOUND = {
    "sound": {},
    "nobody came": {"participants": np.array([3, 0, 3, 3]), "loss": np.array([1, NAN, 1, 1])},
    "some messages": {"nonfinite": np.array([1, 1, 1, 1])},
    "a client without examples": {"scores": {"accuracy": np.array([[0.5, NAN], [0.6, NAN]])}},
    "integers": {"scores": {"hits": np.array([3, 4])}},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_whatever_is_not_finite_is_found_in_its_round(name):
    changed, at = BROKEN[name]
    assert diverged_at(history(**changed)) == at
    assert ends(history(**changed))
    later = history(**changed)._replace(evaluated_at=np.array([12, 14]))  # a later block
    assert diverged_at(later) == at


@pytest.mark.parametrize("name", SOUND)
def test_gaps_are_no_divergence(name):
    assert diverged_at(history(**SOUND[name])) is None
    assert not ends(history(**SOUND[name]))


def test_the_initial_model_has_no_round_that_diverged():
    first = {"scores": {"precision": np.array([NAN, 0.5, 0.6])}}
    scored = history(**first)._replace(evaluated_at=np.array([0, 2, 4]))
    assert diverged_at(scored) is None


def test_clients_need_not_tell_their_loss():
    told = history()
    del told.rounds["loss"]
    assert diverged_at(told) is None


@pytest.mark.parametrize("name", BROKEN)
def test_noised_runs_end_by_their_models_alone(name):
    """Whatever has no noise is reported, and ends nothing."""
    changed, at = BROKEN[name]
    noised = history(prefix="unnoised_", **changed)
    assert diverged_at(noised) == at
    assert ends(noised) == (name == "model")


@pytest.mark.slow
def test_a_broken_population_does_not_tell_whether_a_client_is_there():
    plan = fjx.plan(
        num_clients=4, sampler=samplers.full(), rounds=4, clip_norm=1.0, epsilon=1.0, delta=1e-3
    )
    for mine in (np.ones(2, np.float32), np.zeros(0, np.float32)):
        dataset = fjx.data.from_clients([np.full(2, NAN, np.float32)] * 3 + [mine])
        result = simulate(
            algorithm(plan.aggregator), dataset, plan=plan, rounds=4, evaluate_every=1
        )
        assert (result.stopped, int(result.state.round)) == ("finished", 4)
        assert result.privacy is plan.claim


@pytest.mark.ci
def test_a_loss_that_is_nan_ends_the_run():
    """The gradient of what NaN is added to is finite, as that of a label out of range."""
    nan = fjx.algorithms.fedavg(
        lambda w, x, key: loss_fn(w, x, key) + jnp.nan, client_lr=0.1, batch_size=2
    )
    result = simulate(nan, evaluate_every=2)
    assert (result.stopped, result.diverged_at, int(result.state.round)) == ("diverged", 1, 2)
    assert np.isfinite(result.params)


# --------------------------------------------------------------------------------------------------
# What a checkpoint keeps
# --------------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_run_that_ended_is_returned_as_it_is(tmp_path):
    asked = []

    def stop(scores):
        asked.append(scores)
        return len(asked) == 2  # asked again in a new process it would answer otherwise

    def run(**changed):
        options = {"evaluate": lambda w: {"w": w}, "evaluate_every": 3, "stop": stop}
        return simulate(checkpoint=tmp_path, **{**options, **changed})

    first, again = run(), run()
    assert len(asked) == 2
    assert first.stopped == again.stopped == "early"
    chex.assert_trees_all_equal(again.state, first.state)
    chex.assert_trees_all_equal(again.history, first.history)
    on = run(stop=None, rounds=8)
    assert (on.stopped, int(on.state.round)) == ("finished", 8)


@pytest.mark.slow
def test_a_run_that_diverged_goes_on_only_if_told(tmp_path):
    options = {"evaluate": lambda w: {"w": w / 0}, "evaluate_every": 3, "checkpoint": tmp_path}
    for _ in range(2):
        result = simulate(**options)
        assert (result.stopped, int(result.state.round)) == ("diverged", 3)
    on = simulate(**options, on_nonfinite="continue", rounds=6)
    assert (on.stopped, on.diverged_at, int(on.state.round)) == ("finished", 3, 6)


def noise(plan=None, sampler=None, num_clients=N):
    if plan is None:
        return noise_of(PLAIN, sampler or samplers.full(), None, num_clients)
    return noise_of(algorithm(plan.aggregator), sampler or plan.sampler, plan, num_clients)


def correlated(strategy):
    return plan_of(
        mechanism=lambda z: privacy.correlated(strategy, clip_norm=1.0, noise_multiplier=z),
        sampler=samplers.cyclic(4),
    )


def scheduled(rounds):
    sampler = samplers.full()
    most = samplers.Scheduled("a schedule", 1, lambda t: min(t, rounds))
    return plan_of(sampler=sampler._replace(subsampling=most))


HISTORIES = {
    "none": noise(),
    "none, others": noise(num_clients=N + 1),
    "gaussian": noise(PLAN),
    "less noise": noise(plan_of(0.999999)),
    "another bound": noise(plan_of(clip_norm=2.0)),
    "laplace": noise(
        plan_of(mechanism=lambda z: privacy.laplace(clip_norm=1.0, noise_multiplier=z))
    ),
    "another rate": noise(PLAN, samplers.poisson(0.6)),
    "toeplitz": noise(correlated(privacy.toeplitz([1.0, 0.5]))),
    "longer toeplitz": noise(correlated(privacy.toeplitz([1.0, 0.5, 0.25]))),
    "schedule": noise(scheduled(2)),
    "longer schedule": noise(scheduled(3)),
    "grid": noise(
        plan_of(
            mechanism=lambda z: privacy.discrete_gaussian(
                clip_norm=1.0, noise_multiplier=z, granularity=2.0**-8, dimension=1
            )
        )
    ),
}


def test_histories_are_told_apart_by_what_their_epsilon_rests_on():
    told = [str(facts) for facts in HISTORIES.values()]
    assert len(set(told)) == len(told)
    assert not any(" at 0x" in words for words in told)  # an address differs in every process


@pytest.mark.parametrize(
    "same",
    [plan_of(), plan_of(rounds=60), PLAN._replace(accounting=None), plan_of(1.0 + 1e-13)],
    ids=["made again", "for more rounds", "on other terms", "to rounding"],
)
def test_the_same_noise_may_go_on(same):
    assert noise(same) == HISTORIES["gaussian"]
    alone = noise_of(algorithm(PLAN.aggregator), PLAN.sampler, None, N)  # without the plan
    assert alone == HISTORIES["gaussian"]


@pytest.fixture
def run(tmp_path):
    def run(plan, rounds):
        aggregator, sampler = (plan.aggregator, plan.sampler) if plan else (None, samplers.full())
        return simulate(
            algorithm(aggregator), sampler=sampler, plan=plan, rounds=rounds,
            checkpoint=tmp_path, evaluate_every=1,
        )  # fmt: skip

    return run


@pytest.mark.ci
def test_a_claim_covers_the_rounds_of_its_checkpoint(run):
    first = run(PLAN, 1)
    assert first.privacy == PLAN.epsilon(1)
    for other in (plan_of(5.0), None):
        with pytest.raises(ValueError, match=r"run with .*so no epsilon of this run covers"):
            run(other, 2)
    assert run(plan_of(rounds=9), 1).privacy == first.privacy


@pytest.mark.slow
def test_a_run_that_is_extended_says_what_it_costs_in_all(run):
    first, longer = run(PLAN, 6), plan_of(rounds=9)
    with pytest.raises(ValueError, match="9 rounds are asked for"):
        run(PLAN, 9)
    assert run(longer, 9).privacy == longer.claim > first.privacy == PLAN.claim


@pytest.mark.slow
def test_rounds_without_noise_are_not_claimed(run):
    run(None, 1)
    with pytest.raises(ValueError, match="run with no noise, 20 clients, and this run has"):
        run(PLAN, 2)


# --------------------------------------------------------------------------------------------------
# What a claim says
# --------------------------------------------------------------------------------------------------


def public(scores):
    return False


@pytest.mark.parametrize("stopped", ["early", "diverged", "interrupted"])
def test_an_end_that_may_depend_on_the_models_is_claimed_as_if_it_had_not_been(stopped):
    stop = public if stopped == "early" else None
    told = claim(PLAN, asked=5, done=2, stopped=stopped, stop=stop)
    assert (float(told), told.rounds) == (float(PLAN.epsilon(5)), 5)
    assert "after 2 rounds" in str(told)
    assert "the 5 rounds that it could have had" in str(told)


def test_fewer_rounds_than_were_asked_for_at_first_are_claimed_as_if_all_had_run():
    told = claim(PLAN, asked=5, done=2, stopped="finished", stop=None)
    assert (float(told), told.rounds) == (float(PLAN.epsilon(5)), 5)
    assert "the run ended after 2 rounds, a number that may depend on the models" in str(told)


def test_a_checkpoint_remembers_how_many_rounds_were_asked_for(tmp_path):
    """Else a run that its scores ended early is claimed by its own length once it is asked for again."""
    start, noise = {"w": jnp.zeros(2)}, {"num_clients": 1, "mechanisms": []}
    key, history = jax.random.key(0), History({"finite": np.ones(1)}, {}, np.array([1]))
    with Checkpoints.open(tmp_path) as store:
        assert store.resume(key, start, noise, {})[3] == 0
        store.save(1, key, start, history, noise, {}, "early", 9)
        assert store.resume(key, start, noise, {})[2:] == ("early", 9)


@pytest.mark.ci
def test_a_stop_that_might_read_clients_is_told_of_even_if_it_did_not_end_the_run():
    assert claim(PLAN, 5, 5, "finished", None) == PLAN.epsilon(5)
    assert claim(PLAN, 5, 5, "finished", None).caveats == PLAN.epsilon(5).caveats
    told = claim(PLAN, 5, 5, "finished", public)
    assert float(told) == float(PLAN.epsilon(5))
    assert "no epsilon covers a stop that reads scores of clients' data" in str(told)


@pytest.mark.parametrize(
    "evaluate",
    [
        simulation.per_client(lambda w, x: {"gap": jnp.abs(w - x)}, DATASET),
        simulation.evaluation(lambda w, x: {"gap": jnp.abs(w - x)}, DATASET.arrays),
    ],
    ids=["per_client", "evaluation"],
)
def test_stop_on_scores_of_the_clients_is_refused(evaluate):
    with pytest.raises(ValueError, match="scores of the clients' own examples"):
        simulate(algorithm(PLAN.aggregator), sampler=PLAN.sampler, rounds=2, plan=PLAN,
                 evaluate=evaluate, stop=public)  # fmt: skip


def test_a_private_aggregator_does_not_take_mutable_state():
    model = fjx.Stateful(jnp.ones(2), {"var": jnp.ones(2)})
    noised = algorithm(PLAN.aggregator)
    with pytest.raises(TypeError, match=r"running variance becomes negative.*GroupNorm"):
        noised.init(model)
    noised.init(fjx.Stateful(jnp.ones(2), {}))
    algorithm(aggregators.mean()).init(model)
