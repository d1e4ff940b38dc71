"""Plans of single examples: read from the client that trains, and held against the dataset."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients, privacy, samplers

SIZES = (3, 8, 5)
DATASET = fjx.data.from_clients([jnp.full((n,), 1.0) for n in SIZES])
GIVEN = {
    "num_clients": 3,
    "num_examples": 8,
    "rounds": 4,
    "delta": 1e-3,
    "method": "rdp",
    "sampler": samplers.cyclic(2),
}


def loss_fn(w, x, key):
    return jnp.mean((w - x) ** 2)


PLAIN = clients.gradient(loss_fn, batch_size=1)


def client(z, **changed):
    how = {"clip_norm": 0.5, "sampling_rate": 0.25, "steps": 3, "batch_size": 2, "capacity": 8}
    return clients.dp_sgd(loss_fn, optax.sgd(0.1), noise_multiplier=z, **{**how, **changed})


PLAN = fjx.plan_examples(client, noise_multiplier=2.0, **GIVEN)


def simulate(plan=PLAN, of=None, **changed):
    of = plan.client if of is None else of
    how = {"dataset": DATASET, "sampler": plan.sampler, "rounds": 4, **changed}
    return fjx.simulate(
        jax.random.key(0), fjx.compose(client=of), jnp.zeros(()), plan=plan, progress=False, **how
    )


def by_hand(z, **changed):
    how = {"steps": 3, "participations": 2, "num_examples": 8, "delta": 1e-3, "method": "rdp"}
    mechanism = privacy.gaussian(clip_norm=0.5, noise_multiplier=z)
    return privacy.examples_epsilon(
        mechanism, **{"sampling_rate": 0.25, "capacity": 8, **how, **changed}
    )


@pytest.mark.ci
def test_a_claim_reads_the_client_and_the_sampler():
    assert PLAN.claim == by_hand(2.0)  # four rounds of a cycle of two
    assert (PLAN.claim.unit, PLAN.claim.rounds) == ("example", 2)
    assert PLAN.epsilon(2) == by_hand(2.0, participations=1)
    every = fjx.plan_examples(client, noise_multiplier=2.0, **{**GIVEN, "sampler": samplers.full()})
    assert every.claim == by_hand(2.0, participations=4)


@pytest.mark.parametrize(
    "changed", [{"steps": 5}, {"sampling_rate": 0.5}, {"capacity": 6}, {"clip_norm": 1.0}]
)
def test_another_client_is_another_claim(changed):
    given = {**GIVEN, "delta": 1e-2}
    plan = fjx.plan_examples(lambda z: client(z, **changed), noise_multiplier=2.0, **given)
    changed = {name: x for name, x in changed.items() if name != "clip_norm"}
    assert plan.claim == by_hand(2.0, delta=1e-2, **changed)


@pytest.mark.ci
def test_noise_is_calibrated_to_the_target():
    plan = fjx.plan_examples(client, epsilon=2.0, **GIVEN)
    z = float(plan.mechanism.noise_multiplier)
    assert plan.claim == by_hand(z) <= 2.0 < by_hand(z * (1 - 1e-3))


def test_a_report_is_of_the_same_claims():
    report = PLAN.report(points=2)
    assert report.claims == (PLAN.epsilon(2), PLAN.claim)
    assert "2 times the sensitivity 0.5" in str(report)


@pytest.mark.ci
def test_a_planned_run_returns_its_claim():
    result = simulate()
    assert result.privacy == PLAN.claim
    assert np.isfinite(result.params)


BIG = fjx.data.from_clients([jnp.ones(9), jnp.ones(1), jnp.ones(1)])
MANY = fjx.data.from_clients([jnp.ones(8)] * 150)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"of": client(2.0)}, r"does not run the plan's client.*client=plan\.client"),
        (
            {"of": PLAN.client._replace(message=lambda params: params)},
            "does not run the plan's client",
        ),
        ({"of": clients.averaged(PLAN.client, eta=0.5)}, "does not run the plan's client"),
        ({"sampler": samplers.full()}, r"sampler is Full\(\), and Cyclic\(period=2\) was planned"),
        ({"rounds": 5}, "5 rounds are asked for"),
        ({"dataset": BIG}, "has 9 examples, and at most 8 were planned.*num_examples=9"),
        ({"dataset": MANY}, "delta must be below 1 / the number of examples = 0.00083"),
    ],
)
def test_a_run_that_differs_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        simulate(**changed)


def test_rounds_that_give_other_examples_are_refused():
    algorithm = fjx.rounds.minibatch(fjx.compose(client=PLAN.client), 2)
    with pytest.raises(ValueError, match=r"another loss, as fjx\.rounds\.minibatch and"):
        PLAN.check(algorithm, PLAN.sampler, num_clients=3, rounds=4)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"delta": 0.125}, ValueError, "delta must be below 1 / num_examples = 0.12"),
        ({"epsilon": 1.0}, ValueError, "give either epsilon or noise_multiplier, got both"),
        ({"num_examples": 10**4}, ValueError, "capacity=8 is too small"),
        ({"sampler": None}, ValueError, "give cohort_size"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changed, error, message):
    with pytest.raises(error, match=message):
        fjx.plan_examples(client, noise_multiplier=2.0, **{**GIVEN, "delta": 1e-6, **changed})


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda z: PLAIN, ValueError),
        (lambda z: client(z)._replace(update=PLAIN.update), ValueError),
        (lambda z: z, TypeError),
    ],
    ids=["no noise", "a claim of another function", "no client"],
)
def test_clients_that_claim_nothing_are_refused(made, error):
    with pytest.raises(error, match=r"client made|client must make"):
        fjx.plan_examples(made, noise_multiplier=2.0, **GIVEN)


@pytest.mark.ci
def test_noise_on_the_server_holds_delta_against_examples():
    given = {"num_clients": 3, "rounds": 4, "cohort_size": 2, "clip_norm": 0.5, "method": "pld"}
    how = {"noise_multiplier": 2.0, "unit": "example", "delta": 0.1, **given}
    with pytest.raises(ValueError, match=r"1 / num_examples = 0\.062"):
        fjx.plan(num_examples=16, **how)
    with pytest.raises(ValueError, match='num_examples is for unit="example"'):
        fjx.plan(num_examples=16, **{**how, "unit": "client", "delta": 1e-3})
    plan = fjx.plan(**how)
    assert "one over the number of all examples" in plan.claim.caveats[-1]
    algorithm = fjx.compose(client=PLAIN, aggregator=plan.aggregator)
    with pytest.raises(ValueError, match=r"1 / the number of examples = 0\.062"):
        plan.check(algorithm, plan.sampler, num_clients=3, rounds=1, sizes=np.array(SIZES))
