"""Hyper-parameters that follow the number of the round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import algorithms, clients, compressors, data, samplers, simulation

DATASET = data.from_clients([np.float32([1.0, 1.0, 1.0]), np.float32([3.0, 3.0])])
EXACT = compressors.identity()
SCHEDULE = optax.cosine_decay_schedule(0.5, decay_steps=6, alpha=0.1)
RATES = [0.5 * (0.9 * (1 + np.cos(np.pi * t / 6)) / 2 + 0.1) for t in range(6)]
"""The cosine schedule by its formula."""


def loss_fn(w, batch, key):
    return jnp.mean((w - batch) ** 2) / 2


def simulate(algorithm, **options):
    options = {"rounds": 5, "evaluate_every": 3, "progress": False, **options}
    return fjx.simulate(
        jax.random.key(0), algorithm, jnp.float32(0), DATASET, sampler=samplers.full(), **options
    )


def by_hand(rates, epochs=1):
    """Each client makes a step of full batches an epoch, and examples weigh alike."""
    w = np.zeros(2)
    for rate in rates:
        w = w + (1 - (1 - rate) ** epochs) * (np.array([1.0, 3.0]) - w)
        w[:] = w @ [0.6, 0.4]
    return w[0]


def test_a_schedule_of_optax_counts_rounds():
    """Also in the second part of a run, which begins in the midst of the schedule."""
    algorithm = algorithms.fedavg(loss_fn, client_lr=SCHEDULE, batch_size=3)
    p = simulation.program(algorithm, DATASET, sampler=samplers.full())
    half = p.run(jax.random.key(0), p.init(jnp.float32(0)), 3)[0]
    np.testing.assert_allclose(half.params, by_hand(RATES[:3]), rtol=1e-6)
    whole = p.run(jax.random.key(0), half, 3)[0]
    np.testing.assert_allclose(whole.params, by_hand(RATES), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor", [simulation.lanes(2), simulation.chunked(1)], ids=["lanes", "chunked"]
)
def test_everything_traced_may_follow_the_round(executor):
    """Epochs as well, whatever drives the loop."""
    client = clients.by_round(
        lambda round: clients.local_sgd(
            loss_fn, optax.sgd(SCHEDULE(round)), epochs=1 + round % 2, batch_size=3
        )
    )
    result = simulate(fjx.compose(client=client), rounds=1, executor=executor)
    np.testing.assert_allclose(result.params, by_hand(RATES[:1]), rtol=1e-6)
    two = simulate(fjx.compose(client=client), rounds=2, executor=executor)
    first = np.float64(result.params)
    one = np.array([1.0, 3.0])
    second = (first + (1 - (1 - RATES[1]) ** 2) * (one - first)) @ [0.6, 0.4]
    np.testing.assert_allclose(two.params, second, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_schedule_moves_models_of_any_dtype(dtype):
    algorithm = algorithms.fedavg(
        lambda w, batch, key: loss_fn(w, batch.astype(dtype), key), client_lr=SCHEDULE, batch_size=3
    )
    result = fjx.simulate(
        jax.random.key(0), algorithm, jnp.zeros((), dtype), DATASET, sampler=samplers.full(),
        rounds=2, progress=False,
    )  # fmt: skip
    assert result.params.dtype == dtype
    np.testing.assert_allclose(float(result.params), by_hand(RATES[:2]), rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        lambda rate: algorithms.scaffold(loss_fn, num_clients=2, client_lr=rate, batch_size=3),
        lambda rate: algorithms.fedcom(loss_fn, EXACT, client_lr=rate, steps=2, batch_size=3),
        lambda rate: algorithms.fedpaq(loss_fn, EXACT, client_lr=rate, steps=2, batch_size=3),
        lambda rate: algorithms.fedcomgate(loss_fn, EXACT, client_lr=rate, steps=2, batch_size=3),
        lambda rate: algorithms.fedprox(loss_fn, mu=0.5, client_lr=rate, batch_size=3),
        lambda rate: algorithms.fedadam(loss_fn, client_lr=rate, server_lr=0.1, batch_size=3),
    ],
    ids=["scaffold", "fedcom", "fedpaq", "fedcomgate", "fedprox", "fedadam"],
)
def test_every_recipe_follows_a_schedule(recipe):
    """A rate of 0.4, then of 0.2, is a run of one and then of the other from its state."""
    scheduled = simulate(recipe(lambda round: jnp.where(round < 1, 0.4, 0.2)), rounds=2)
    state = None
    for rate in (0.4, 0.2):
        p = simulation.program(recipe(rate), DATASET, sampler=samplers.full())
        state = p.run(jax.random.key(0), state or p.init(jnp.float32(0)), 1)[0]
    for actual, expected in zip(
        jax.tree.leaves((scheduled.state.params, scheduled.state.clients)),
        jax.tree.leaves((state.params, state.clients)),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


DIVIDE = {
    "scaffold": lambda rate: algorithms.scaffold(
        loss_fn, num_clients=2, client_lr=rate, batch_size=3
    ),
    "fedcomgate": lambda rate: algorithms.fedcomgate(
        loss_fn, EXACT, client_lr=rate, steps=2, batch_size=3
    ),
    "fedcom": lambda rate: algorithms.fedcom(loss_fn, EXACT, client_lr=rate, steps=2, batch_size=3),
    "fedavg": lambda rate: algorithms.fedavg(loss_fn, client_lr=rate, batch_size=3),
    "qffl": lambda rate: algorithms.qffl(loss_fn, q=0.5, client_lr=rate, batch_size=3),
}


@pytest.mark.ci
@pytest.mark.few(2)
@pytest.mark.parametrize("recipe", DIVIDE)
def test_a_round_of_rate_zero_changes_nothing(recipe):
    """Round 0 of a warm-up, and a round in the midst: states are those without the two rounds."""
    rates = jnp.array([0.0, 0.4, 0.0, 0.2])
    made = {
        "with": DIVIDE[recipe](lambda round: rates[round]),
        "without": DIVIDE[recipe](lambda round: rates[2 * round + 1]),
    }
    ends = {
        name: simulate(algorithm, rounds=rounds).state
        for (name, algorithm), rounds in zip(made.items(), (4, 2), strict=True)
    }
    for actual, expected in zip(
        *(jax.tree.leaves((end.params, end.clients)) for end in ends.values()), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(ends["with"].params) > 0.1


@pytest.mark.parametrize("recipe", DIVIDE)
def test_a_rate_that_is_zero_in_every_round_is_refused(recipe):
    with pytest.raises(ValueError, match="client_lr must be greater than 0"):
        DIVIDE[recipe](0.0)


def test_memories_follow_the_round_too():
    """What a client keeps once its message is sent, and once it hears the aggregate."""
    made = clients.gradient(loss_fn, batch_size=2)

    def make(round):
        return made._replace(
            on_sent=lambda received, state, public: state + round,
            on_aggregate=lambda aggregate, state, public: state * round,
        )

    client = clients.by_round(make)
    public = fjx.Public((), jax.random.key(0), 0, 1, round=jnp.int32(7))
    assert int(client.on_sent(None, jnp.int32(1), public)) == 8
    assert int(client.on_aggregate(None, jnp.int32(2), public)) == 14
    plain = clients.by_round(lambda round: made)
    assert plain.on_sent is plain.on_aggregate is None


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (clients.gradient(loss_fn, batch_size=2), r"make must be a function \(round\)"),
        (lambda round: optax.sgd(0.1), "make must return a fjx.ClientUpdate"),
    ],
)
def test_wrong_arguments_are_named(make, match):
    with pytest.raises(TypeError, match=match):
        clients.by_round(make)


LISTED = clients.listed(RATES[:3])
SHORT = {
    "fedavg": algorithms.fedavg(loss_fn, client_lr=LISTED, batch_size=3),
    "scaffold": algorithms.scaffold(loss_fn, num_clients=2, client_lr=LISTED, batch_size=3),
    "fednova": algorithms.fednova(loss_fn, client_lr=LISTED, batch_size=3),
    "mime": algorithms.mime(loss_fn, client_lr=LISTED, batch_size=3),
    "mimelite": algorithms.mimelite(loss_fn, client_lr=LISTED, batch_size=3),
    "power_of_choice": algorithms.power_of_choice(
        loss_fn, cohort_size=1, client_lr=LISTED, batch_size=3
    ),
    "ditto": algorithms.ditto(loss_fn, client_lr=0.1, personal_lr=LISTED, batch_size=3),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_schedule_that_is_shorter_than_the_run_is_refused(name):
    with pytest.raises(ValueError, match="more than the 3 rounds"):
        simulate(SHORT[name], rounds=4)
    program = simulation.program(SHORT[name], DATASET, sampler=samplers.full())
    with pytest.raises(ValueError, match="a value for each round"):
        program.run(jax.random.key(0), program.init(jnp.float32(0)), 4)


@pytest.mark.parametrize("values", [[], [0.1, -0.1], [np.nan], [[0.1]]])
def test_a_list_of_rates_is_checked(values):
    with pytest.raises(ValueError, match="values must be"):
        clients.listed(values)


def test_a_list_is_the_function_of_its_values():
    np.testing.assert_allclose(jax.vmap(LISTED)(jnp.arange(4)), [*RATES[:3], RATES[2]], rtol=1e-6)


@pytest.mark.slow
def test_the_rate_of_the_server_follows_the_round():
    """FedAvg, and the direction of FedAdam, whose rate scales the step of a round."""

    def path(recipe, rates):
        algorithm = recipe(loss_fn, client_lr=0.1, batch_size=3, server_lr=rates)
        p = simulation.program(algorithm, DATASET, sampler=samplers.full(), evaluate_every=1,
                               evaluate=lambda w: {"w": w})  # fmt: skip
        _, history = p.run(jax.random.key(0), p.init(jnp.float32(0)), 4)
        return np.asarray(history.evaluations["w"], np.float64)

    moved, w, expected = 0.1, 0.0, []
    for rate in RATES[:4]:
        w += rate * moved * (9 / 5 - w)  # nine fifths is the mean of the examples
        expected.append(w)
    np.testing.assert_allclose(path(algorithms.fedavg, SCHEDULE), expected, rtol=1e-5)
    first = path(algorithms.fedadam, SCHEDULE)[0] / path(algorithms.fedadam, 1.0)[0]
    assert first == pytest.approx(RATES[0], rel=1e-5)
