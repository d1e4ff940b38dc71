"""Frozen leaves keep their bits, and nothing is computed, sent, noised or billed for them."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, algorithms, clients, compressors, privacy, rounds, samplers, simulation
from tests.support import tables

N = len(tables.SIZES)
WIDE = 13  # no other axis has this length
DATASET = tables.federated()
PARAMS = {
    "body": {"kernel": jnp.linspace(-1.0, 1.0, 4 * WIDE).reshape(4, WIDE)},
    "head": jnp.linspace(0.0, 0.1, WIDE),
}
TRAINED = {"body": {"kernel": None}, "head": PARAMS["head"]}


def loss_fn(params, batch, key):
    features = jnp.tanh(batch["x"] @ params["body"]["kernel"])
    return jnp.mean((features @ params["head"] - batch["y"]) ** 2)


def beside(kernel):
    """The loss of the head, closed over the body."""
    return lambda params, *others: loss_fn({**params, "body": {"kernel": kernel}}, *others)


def sgd(loss):
    return clients.local_sgd(loss, optax.sgd(0.1), epochs=2, batch_size=2)


LOCAL = {"client_lr": 0.1, "batch_size": 2, "epochs": 2}
STEP = {"learning_rate": 0.1, "batch_size": 2}
TOP = compressors.top_k(0.5)
NOISED = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
AXES = {"body": {"kernel": None}, "head": ("units",)}
UNITS = clients.ordered_dropout([0.5])

MAKERS = {
    "codec with memory": lambda loss: fjx.compose(
        client=sgd(loss), uplink=compressors.error_feedback(compressors.chain(TOP, TOP))
    ),
    "codec by path": lambda loss: fjx.compose(
        client=sgd(loss), uplink=compressors.on("^head", compressors.quantize(bits=4))
    ),
    "downlink": lambda loss: fjx.compose(client=sgd(loss), downlink=compressors.quantize(bits=4)),
    "one vector": lambda loss: fjx.compose(
        client=sgd(loss), aggregator=aggregators.as_vector(aggregators.rotated(aggregators.mean()))
    ),
    "stacked": lambda loss: fjx.compose(client=sgd(loss), aggregator=aggregators.median()),
    "noise": lambda loss: fjx.compose(
        client=sgd(loss), aggregator=aggregators.private(NOISED, denominator=3)
    ),
    "adaptive server": lambda loss: algorithms.fedadam(loss, **LOCAL, server_lr=0.1),
    "control variates": lambda loss: algorithms.scaffold(loss, num_clients=N, **LOCAL),
    "memories": lambda loss: algorithms.ef21_sgdm(loss, TOP, num_clients=N, **STEP, eta=0.5),
    "two phases": lambda loss: algorithms.fedlin(loss, **STEP, steps=2),
    "replicas": lambda loss: algorithms.marina(loss, TOP, **STEP, p=0.5),
    "rounds of two kinds": lambda loss: algorithms.scaffnew(loss, **STEP, p=0.5),
    "gossip": lambda loss: algorithms.choco_sgd(
        loss, TOP, mixing=np.full((N, N), 1 / N), step_size=0.5, **STEP
    ),
    "private client": lambda loss: fjx.compose(
        client=clients.dp_sgd(
            loss, optax.sgd(0.1), clip_norm=1.0, noise_multiplier=0.5, sampling_rate=0.5, steps=2,
            batch_size=2, capacity=8,
        )
    ),
    "batches": lambda loss: rounds.minibatch(algorithms.fedsgd(loss, **STEP), 2),
    "sub-models": lambda loss: fjx.compose(
        client=clients.submodel(loss, sgd, axes=AXES, units=UNITS),
        aggregator=aggregators.submodel_mean(
            lambda choice, like: clients.held_coordinates(AXES, UNITS, choice, like)
        ),
    ),
    "subspaces": lambda loss: fjx.compose(
        client=clients.structured(loss, sgd, subspace=clients.random_mask(0.5)),
        aggregator=aggregators.structured_mean(clients.random_mask(0.5).expand),
    ),
    "frozen": lambda loss: rounds.frozen(
        lambda params, batch, key: loss(params, batch, key) * params["scale"],
        lambda loss: fjx.compose(client=sgd(loss)),
        pattern="^scale$",
    ),
}  # fmt: skip
"""A function of the loss for each kind of part that may be composed."""


def begun(algorithm, params):
    """State and rows of all clients before the first round."""
    rows = simulation.make_table(algorithm.init_client(params), N)
    return algorithm.init(params), rows


def model_of(name):
    return {**PARAMS, "scale": jnp.float32(0.5)} if name == "frozen" else PARAMS


def shapes_in(jaxpr):
    """Shapes of all values that a program computes, inner programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for part in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


@tables.rows(MAKERS, {"codec by path", "noise", "control variates", "sub-models"})
def test_nothing_is_computed_sent_or_remembered_for_a_frozen_leaf(name):
    """States and bits are those of the trained part; no value has the frozen leaf's shape and more."""
    params, make = model_of(name), MAKERS[name]
    algorithm = rounds.frozen(loss_fn, make, pattern="kernel")
    whole = {k: v for k, v in params.items() if k != "body"} | {"body": {"kernel": None}}
    alone = make(beside(PARAMS["body"]["kernel"]))
    assert algorithm.traffic(params) == alone.traffic(whole)
    state, rows = jax.eval_shape(lambda p: begun(algorithm, p), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        (state.inner, rows), jax.eval_shape(lambda p: begun(alone, p), whole)
    )
    cohort = DATASET.cohort(jnp.arange(N))
    program = jax.make_jaxpr(algorithm.round)(jax.random.key(0), state, rows, cohort)
    kernel = PARAMS["body"]["kernel"].shape
    found = {shape for shape in shapes_in(program.jaxpr) if shape[-2:] in (kernel, kernel[::-1])}
    assert found <= {kernel}, (
        found
    )  # a copy for all clients may be made, a gradient of each may not


def test_the_law_sees_a_gradient_of_a_leaf():
    algorithm = fjx.compose(client=sgd(loss_fn))
    state, rows = jax.eval_shape(lambda p: begun(algorithm, p), PARAMS)
    cohort = DATASET.cohort(jnp.arange(N))
    program = jax.make_jaxpr(algorithm.round)(jax.random.key(0), state, rows, cohort)
    assert (N, 4, WIDE) in set(shapes_in(program.jaxpr))


@pytest.mark.ci
@tables.rows([name for name in MAKERS if name != "frozen"], {"codec by path"})
def test_the_trained_part_moves_as_if_the_loss_were_closed_over_the_rest(name):
    make = MAKERS[name]
    algorithm = rounds.frozen(loss_fn, make, pattern="kernel")
    alone = make(beside(PARAMS["body"]["kernel"]))

    def two_rounds(algorithm, params):
        def step(carry, t):
            *carry, metrics = algorithm.round(jax.random.key(t), *carry, cohort)
            return tuple(carry), metrics

        cohort = DATASET.cohort(jnp.arange(N))
        return jax.lax.scan(step, begun(algorithm, params), jnp.arange(2))

    both = jax.jit(lambda a, b: (two_rounds(algorithm, a), two_rounds(alone, b)))
    ((state, *rows), metrics), ((inner, *expected), scores) = both(PARAMS, TRAINED)
    others, expected = (*rows, metrics), (*expected, scores)
    chex.assert_trees_all_equal(state.params["body"], PARAMS["body"])
    assert not np.array_equal(state.params["head"], PARAMS["head"])
    chex.assert_trees_all_close((state.inner, *others), (inner, *expected), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor",
    [
        simulation.chunked(2),
        simulation.lanes(2),
        simulation.sharded(jax.make_mesh((2,), ("clients",)), simulation.vectorized()),
    ],
    ids=["chunked", "lanes", "sharded"],
)
def test_every_executor_carries_frozen_leaves(executor):
    algorithm = rounds.frozen(loss_fn, MAKERS["control variates"], pattern="kernel")

    def run(executor):
        return fjx.simulate(
            jax.random.key(0), algorithm, PARAMS, DATASET, sampler=samplers.uniform(4), rounds=2,
            executor=executor,
        ).params  # fmt: skip

    found, expected = run(executor), run(simulation.vectorized())
    chex.assert_trees_all_equal(found["body"], PARAMS["body"])
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_memory_of_training_falls():
    """Eight clients of a large frozen body need the gradient of its head."""

    def bytes_of(algorithm, params):
        carry = jax.eval_shape(lambda p: begun(algorithm, p), params)
        cohort = DATASET.cohort(jnp.arange(N))
        lowered = jax.jit(algorithm.round).lower(jax.random.key(0), *carry, cohort)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    params = {"body": {"kernel": jnp.ones((4, 2**16))}, "head": jnp.ones(2**16)}
    frozen = rounds.frozen(loss_fn, lambda loss: fjx.compose(client=sgd(loss)), pattern="kernel")
    assert bytes_of(frozen, params) < bytes_of(fjx.compose(client=sgd(loss_fn)), params) / 2


def planned():
    return fjx.plan(
        num_clients=N, rounds=3, delta=1e-2, noise_multiplier=1.0, clip_norm=1.0, cohort_size=3,
        method="rdp",
    )  # fmt: skip


@pytest.mark.ci
def test_a_plan_is_kept_where_its_aggregator_runs():
    plan = planned()
    check = {"sampler": plan.sampler, "num_clients": N, "rounds": 3}
    algorithm = rounds.frozen(
        loss_fn,
        lambda loss: fjx.compose(client=sgd(loss), aggregator=plan.aggregator),
        pattern="kernel",
    )
    plan.check(algorithm, **check)
    remade = rounds.frozen(
        loss_fn,
        lambda loss: fjx.compose(client=sgd(loss), aggregator=planned().aggregator),
        pattern="kernel",
    )
    with pytest.raises(ValueError, match="aggregator is not the plan's"):
        plan.check(remade, **check)
    assert not remade.runs_its_aggregator


@pytest.mark.ci
def test_a_claim_is_lost_where_another_aggregator_runs():
    plan, calls = planned(), []

    def make(loss):
        calls.append(loss)
        honest = len(calls) <= 2
        return fjx.compose(
            client=sgd(loss), aggregator=plan.aggregator if honest else aggregators.mean()
        )

    algorithm = rounds.frozen(loss_fn, make, pattern="kernel")
    state, rows = jax.eval_shape(lambda p: begun(algorithm, p), PARAMS)
    with pytest.raises(ValueError, match="runs another aggregator"):
        jax.eval_shape(
            algorithm.round, jax.random.key(0), state, rows, DATASET.cohort(jnp.arange(N))
        )


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("tail", r"matches no leaf among \['body/kernel', 'head'\]"),
        ("", "every floating parameter"),
    ],
)
def test_a_pattern_takes_some_leaves_and_not_all(pattern, words):
    algorithm = rounds.frozen(loss_fn, lambda loss: fjx.compose(client=sgd(loss)), pattern=pattern)
    for function in (algorithm.init, algorithm.init_client, algorithm.traffic):
        with pytest.raises(ValueError, match=words):
            function(PARAMS)


def test_arguments():
    with pytest.raises(TypeError, match=r"make must return an fjx.Algorithm, got ClientUpdate"):
        rounds.frozen(loss_fn, sgd, pattern="kernel")
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        rounds.frozen(None, lambda loss: fjx.compose(client=sgd(loss)), pattern="kernel")
    with pytest.raises(re.error):
        rounds.frozen(loss_fn, lambda loss: fjx.compose(client=sgd(loss)), pattern="(")


MASKED = optax.masked(optax.set_to_zero(), {"body": True, "head": False})


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.sgd(0.1), MASKED),
        optax.chain(optax.adam(0.1), MASKED),
        optax.multi_transform(
            {"train": optax.adamw(0.1), "keep": optax.set_to_zero()},
            {"body": {"kernel": "keep"}, "head": "train"},
        ),
        optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9), MASKED),
    ],
)
def test_an_optimizer_that_never_moves_a_leaf_is_refused(optimizer):
    """Its zeros would be billed and noised."""
    algorithm = fjx.compose(
        client=clients.local_sgd(loss_fn, optimizer, epochs=1, batch_size=2),
        aggregator=aggregators.private(NOISED, denominator=3),
    )
    for function in (algorithm.init, algorithm.init_client, algorithm.traffic):
        with pytest.raises(ValueError, match=r"never moves \['body/kernel'\].*rounds.frozen"):
            function(PARAMS)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.0),
        optax.adamw(1e-3),
        optax.lion(0.1),
        optax.chain(clients.proximal(0.1), optax.sgd(0.1)),
        optax.chain(
            optax.masked(optax.clip(1.0), {"body": True, "head": False}),
            optax.sgd(optax.linear_schedule(0.0, 1.0, 5)),
        ),
        optax.lbfgs(),
    ],
)
def test_an_optimizer_that_may_move_every_leaf_is_not(optimizer):
    fjx.compose(client=clients.local_sgd(loss_fn, optimizer, epochs=1, batch_size=2)).traffic(
        PARAMS
    )


STATEFUL = tables.PARAMS["mutable_state"]


@pytest.mark.ci
def test_a_part_of_the_state_may_be_frozen():
    algorithm = rounds.frozen(
        clients.whole_batch(tables.centred_error),
        lambda loss: fjx.compose(client=sgd(loss)),
        pattern="^state/batches$",
    )
    state, rows = begun(algorithm, STATEFUL)
    state, _, _ = jax.jit(algorithm.round)(
        jax.random.key(0), state, rows, DATASET.cohort(jnp.arange(N))
    )
    assert int(state.params.state["batches"]) == 0
    assert np.abs(state.params.state["mean"]).min() > 0
    expected = algorithms.fedavg(tables.squared_error, **LOCAL).traffic(tables.weights())
    assert algorithm.traffic(STATEFUL).uplink == expected.uplink + 4 * 32


@pytest.mark.ci
def test_a_model_whose_state_is_frozen_is_trained_as_its_parameters_alone():
    """So clients that refuse a state train it, and the loss sees it."""

    def normalised(model, batch, key):
        centred = {**batch, "x": batch["x"] - model.state["mean"][None]}
        return tables._per_example(model.params, centred, key)

    algorithm = rounds.frozen(normalised, MAKERS["private client"], pattern="^state/")
    assert algorithm.traffic(STATEFUL).uplink == 5 * 32
    state, rows = jax.eval_shape(lambda p: begun(algorithm, p), STATEFUL)
    chex.assert_trees_all_equal_shapes_and_dtypes(state.params, STATEFUL)
    after, _, _ = jax.eval_shape(
        algorithm.round, jax.random.key(0), state, rows, DATASET.cohort(jnp.arange(N))
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize("leaf", [jnp.arange(3), jnp.array([True]), jnp.zeros((0,), jnp.int8)])
def test_what_nothing_trains_is_refused_and_may_be_frozen(leaf):
    params = {**tables.weights(), "table": leaf}

    def make(loss):
        return algorithms.fedavg(loss, **LOCAL)

    algorithm = make(tables.squared_error)
    for function in (algorithm.init, algorithm.traffic):
        with pytest.raises(TypeError, match=r"'table': nothing trains.*pattern='table'"):
            function(params)
    frozen = rounds.frozen(tables.squared_error, make, pattern="table")
    assert frozen.traffic(params) == algorithm.traffic(tables.weights())
    np.testing.assert_array_equal(frozen.init(params).params["table"], leaf)


@pytest.mark.parametrize("name", [n for n in tables.ALGORITHMS if n not in tables.PARAMS])
def test_every_algorithm_refuses_integers_that_nothing_trains(name):
    algorithm = tables.ALGORITHMS[name]
    with pytest.raises(TypeError, match="float"):
        begun(algorithm, {**tables.weights(), "table": jnp.arange(3)})
