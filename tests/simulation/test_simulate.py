"""Whole runs: resumed, interrupted, stopped, diverged, counted."""

import signal
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import algorithms, clients, compressors, data, samplers, simulation, wire

VALUES = ([1.0, 3.0], [5.0], [-2.0, 0.0, 2.0], [8.0], [4.0, 4.0])
DATASET = data.from_clients([np.float32(v) for v in VALUES])
N = len(VALUES)
ZERO = jnp.zeros(())


def loss_fn(w, batch, key):
    return jnp.mean((jnp.ravel(w)[None] - batch[:, None]) ** 2) / 2


def error(w, batch):
    return {"error": (w - batch) ** 2}


EVALUATE = simulation.evaluation(error, jnp.array([1.0, 3.0]))
FEDSGD = algorithms.fedsgd(loss_fn, learning_rate=0.5)


def simulate(seed=0, algorithm=FEDSGD, params=ZERO, dataset=DATASET, **options):
    options = {"sampler": samplers.full(), "rounds": 6, "progress": False, **options}
    return fjx.simulate(jax.random.key(seed), algorithm, params, dataset, **options)


# --------------------------------------------------------------------------------------------------
# One run, looked at from all sides
# --------------------------------------------------------------------------------------------------

COHORTS = jnp.array([[0, 3, 1], [2, N, 0], [N, N, N], [4, 1, 2], [3, 0, 4]])
STAYS = jnp.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]], bool)
SCHEDULE = samplers.Sampler(
    lambda key, t, n: samplers.Sample(COHORTS[t], STAYS[t], jnp.int32(t)), lambda n: 3, None
)


@pytest.fixture(scope="module")
def scheduled():
    model = {"w": jnp.zeros(7), "b": jnp.zeros(())}
    algorithm = fjx.compose(
        client=clients.gradient(
            lambda m, x, key: loss_fn(m["b"] + m["w"].sum(), x, key), batch_size=2
        ),
        uplink=compressors.top_k(2 / 7),
        downlink=compressors.cast(jnp.bfloat16),
        server=optax.sgd(0.05),
    )
    return simulate(
        algorithm=algorithm,
        params=model,
        sampler=SCHEDULE,
        rounds=5,
        evaluate=lambda m: {"b": m["b"]},
        evaluate_every=2,
    )


@pytest.mark.ci
def test_the_ledger_counts_participants_times_bits(scheduled):
    """By hand: 2 of 7 values and 3-bit indices, and one of one; 8 numbers of 16 bits down."""
    bits = scheduled.ledger.traffic
    assert bits.downlink == 8 * 16
    message = {"w": jnp.zeros(7), "b": jnp.zeros(())}
    payload, _ = jax.jit(compressors.top_k(2 / 7).encode)(jax.random.key(0), message, ())
    assert bits.uplink == wire.bits(payload)
    invited, delivered = [3, 2, 0, 3, 3], [2, 2, 0, 0, 3]
    assert scheduled.ledger.invited.tolist() == invited
    assert scheduled.ledger.delivered.tolist() == delivered
    assert scheduled.ledger.uplink == 7 * bits.uplink
    assert scheduled.ledger.downlink == 11 * bits.downlink
    np.testing.assert_array_equal(
        scheduled.ledger.cumulative_uplink, bits.uplink * np.cumsum(delivered)
    )
    np.testing.assert_array_equal(
        scheduled.ledger.cumulative_downlink, bits.downlink * np.cumsum(invited)
    )
    assert isinstance(scheduled.ledger.uplink, int)


def test_the_ledger_does_not_round_or_wrap():
    many = simulation.Ledger(fjx.Traffic(2**40 + 1, 1), np.array([1]), np.array([2**20, 1]))
    assert many.uplink == (2**40 + 1) * (2**20 + 1)


def test_histories_have_an_entry_a_round_or_an_evaluation(scheduled):
    history = scheduled.history
    assert history.evaluated_at.tolist() == [2, 4, 5]
    assert history.evaluations["b"].shape == (3,)
    assert float(history.evaluations["b"][-1]) == float(scheduled.params["b"])
    assert {x.shape for x in history.rounds.values()} == {(5,)}
    assert history.rounds["participants"].tolist() == [2, 2, 0, 0, 3]
    assert history.rounds["truncated"].tolist() == [0, 1, 2, 3, 4]
    assert history.rounds["finite"].all()
    assert scheduled.stopped == "finished"
    assert scheduled.diverged_at is None
    assert int(scheduled.state.round) == 5
    assert scheduled.seconds.compiling > 0
    assert scheduled.seconds.running > 0


def test_the_model_is_the_one_worked_out_by_hand():
    """Full-batch FedSGD at rate 1/2 halves the distance to the mean of all examples."""
    result = simulate(rounds=3)
    mean = np.mean(np.concatenate(VALUES))
    np.testing.assert_allclose(result.params, mean * (1 - 2**-3), rtol=1e-6)
    np.testing.assert_allclose(
        result.history.rounds["loss"][0], np.mean(np.concatenate(VALUES) ** 2) / 2, rtol=1e-6
    )


def test_the_caller_s_parameters_survive_and_the_state_may_be_used():
    params = {"w": jnp.array(1.0)}
    algorithm = algorithms.fedsgd(lambda m, x, key: loss_fn(m["w"], x, key), learning_rate=0.5)
    result = simulate(algorithm=algorithm, params=params, rounds=1)
    assert float(params["w"]) == 1.0
    assert float(result.state.params["w"]) != 1.0


def test_a_server_whose_state_holds_the_model_itself_can_be_run():
    """Nothing that is donated twice: the anchor of this transformation is the initial model."""
    server = optax.chain(clients.proximal(1.0), optax.sgd(0.1))
    algorithm = fjx.compose(client=clients.gradient(loss_fn, batch_size=2), server=server)
    assert np.isfinite(simulate(algorithm=algorithm, rounds=1).params)


@pytest.mark.slow
def test_parameters_may_be_python_numbers():
    result = simulate(params=0.0, rounds=2)
    np.testing.assert_array_equal(result.params, simulate(rounds=2).params)


# --------------------------------------------------------------------------------------------------
# A run, and the same run by other ways
# --------------------------------------------------------------------------------------------------


def stochastic():
    """Random cohorts and a random codec, with a state for every client."""
    return fjx.compose(
        client=clients.gradient(loss_fn, batch_size=4),
        uplink=compressors.error_feedback(compressors.quantize(bits=3)),
        server=optax.sgd(0.5, momentum=0.9),
    )


RANDOM = {
    "algorithm": stochastic(),
    "params": jnp.array([0.0, 1.0]),
    "sampler": samplers.dropout(samplers.full(), 0.4),
    "evaluate": lambda w: {"w": w[0]},
    "evaluate_every": 3,
}
WATCHED = {name: RANDOM[name] for name in ("sampler", "evaluate", "evaluate_every")}


@pytest.fixture(scope="module")
def whole():
    return simulate(7, **RANDOM, rounds=6)


@pytest.mark.ci
def test_resuming_is_bitwise_the_run_without_interruption(whole, tmp_path):
    """The first part ends between blocks; the second goes on to the same multiples of three."""
    first = simulate(7, **RANDOM, rounds=4, checkpoint=tmp_path)
    assert first.history.evaluated_at.tolist() == [3, 4]
    second = simulate(7, **RANDOM, rounds=6, checkpoint=tmp_path)
    chex.assert_trees_all_equal(second.state, whole.state)
    chex.assert_trees_all_equal(second.history.rounds, whole.history.rounds)
    assert second.history.evaluated_at.tolist() == [3, 4, 6]
    np.testing.assert_array_equal(
        second.history.evaluations["w"][[0, 2]], whole.history.evaluations["w"]
    )
    assert second.ledger.uplink == whole.ledger.uplink

    third = simulate(7, **RANDOM, rounds=6, checkpoint=tmp_path)  # nothing is left to do
    chex.assert_trees_all_equal(third.state, whole.state)
    chex.assert_trees_all_equal(third.history, second.history)

    with pytest.raises(ValueError, match="a run with another key"):
        simulate(8, **RANDOM, rounds=9, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="has done 6 rounds, more than rounds=5"):
        simulate(7, **RANDOM, rounds=5, checkpoint=tmp_path)
    for other in (
        {"params": jnp.zeros(3)},
        {"algorithm": algorithms.fedavg(loss_fn, client_lr=0.1, batch_size=2)},
        {"dataset": data.from_clients([np.ones(1, np.float32)] * 4)},
    ):
        with pytest.raises(ValueError, match="another model, algorithm or number of clients"):
            simulate(7, **{**RANDOM, **other}, rounds=9, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="other evaluations or metrics"):
        simulate(7, **{**RANDOM, "evaluate": lambda w: {"v": w[0]}}, rounds=9, checkpoint=tmp_path)


@pytest.mark.slow
def test_checkpoints_of_another_structure_with_the_same_shapes_are_refused(tmp_path):
    def named(*names):
        algorithm = algorithms.fedsgd(
            lambda m, x, key: sum(loss_fn(w, x, key) for w in m.values()), learning_rate=0.5
        )
        params = {name: jnp.zeros(()) for name in names}
        return {"algorithm": algorithm, "params": params, "checkpoint": tmp_path}

    simulate(**named("a", "b"), rounds=1)
    with pytest.raises(ValueError, match="another model"):
        simulate(**named("a", "c"), rounds=2)


@pytest.mark.ci
def test_checkpoints_whose_parts_have_other_shapes_or_dtypes_are_refused(tmp_path):
    algorithm = algorithms.fedsgd(
        lambda m, x, key: loss_fn(m["a"].sum() + m["b"].sum(), x, key), learning_rate=0.1
    )

    def run(a, b, dtype=jnp.float32):
        params = {"a": jnp.zeros(a, dtype), "b": jnp.zeros(b, dtype)}
        return simulate(algorithm=algorithm, params=params, rounds=1, checkpoint=tmp_path)

    run(3, 2)
    for other in ({"a": 2, "b": 3}, {"a": 3, "b": 2, "dtype": jnp.bfloat16}):
        with pytest.raises(ValueError, match="belongs to a run with another model"):
            run(**other)
    assert int(run(3, 2).state.round) == 1


KINDS = [np.int64, jnp.int32, np.array]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [KINDS, *(pytest.param(KINDS[i:] + KINDS[:i], marks=pytest.mark.slow) for i in (1, 2))],
    ids=["rounds from NumPy", "rounds from JAX", "rounds an array"],
)
def test_integers_may_be_numpy_s_or_jax_s(kinds):
    rounds, every, size = (kind(n) for kind, n in zip(kinds, (3, 3, 2), strict=True))
    found = simulate(rounds=rounds, evaluate_every=every, sampler=samplers.uniform(size))
    chex.assert_trees_all_equal(
        found.params, simulate(rounds=3, sampler=samplers.uniform(2)).params
    )


@pytest.mark.parametrize(
    "name", ["participants", "finite", pytest.param("truncated", marks=pytest.mark.slow)]
)
def test_metrics_do_not_overwrite_one_another(name):
    def named(w, x, key):
        return loss_fn(w, x, key), {name: jnp.float32(7)}

    with pytest.raises(ValueError, match=rf"report metrics called \['{name}'\]"):
        simulate(algorithm=algorithms.fedsgd(named, learning_rate=0.5))


@pytest.mark.parametrize(
    "leaf", [jnp.array([True]), jax.random.key(0), jnp.zeros(1, jnp.complex64)]
)
def test_parameters_are_numbers_that_can_be_averaged(leaf):
    params = {"w": ZERO, "mask": leaf}
    with pytest.raises(TypeError, match=r"params must be floats.*'mask'"):
        simulate(
            params=params, algorithm=algorithms.fedsgd(lambda m, x, key: m["w"], learning_rate=1.0)
        )


@pytest.mark.ci
def test_program_is_simulate_and_goes_on_where_it_was(whole):
    """Blocks of other lengths change nothing; a cut may be anywhere."""
    p = simulation.program(RANDOM["algorithm"], DATASET, **{**WATCHED, "evaluate_every": 4})
    state, first = p.run(jax.random.key(7), jax.jit(p.init)(RANDOM["params"]), 2)
    state, rest = p.run(jax.random.key(7), state, 4)
    assert first.evaluated_at.tolist() + rest.evaluated_at.tolist() == [2, 6]
    chex.assert_trees_all_close(state, whole.state, rtol=1e-6)
    rounds = jax.tree.map(lambda *x: np.concatenate(x), first.rounds, rest.rounds)
    chex.assert_trees_all_close(rounds, whole.history.rounds, rtol=1e-6)


@pytest.mark.ci
def test_runs_over_seeds_are_one_program(whole):
    """And scans of scans give what blocks between looks of the host give."""
    p = simulation.program(RANDOM["algorithm"], DATASET, **WATCHED)
    keys = jax.vmap(jax.random.key)(jnp.array([3, 7]))
    _, history = jax.jit(jax.vmap(lambda key: p.run(key, p.init(RANDOM["params"]), 6)))(keys)
    assert not np.array_equal(*history.evaluations["w"])
    second = jax.tree.map(lambda x: np.asarray(x)[1], (history.rounds, history.evaluations))
    chex.assert_trees_all_close(
        second, (whole.history.rounds, whole.history.evaluations), rtol=1e-5
    )


# --------------------------------------------------------------------------------------------------
# Ends before the end
# --------------------------------------------------------------------------------------------------


def test_stops_early_when_told():
    """The error around 2 falls from 5 to 1.6 as w goes to 2.78 by halves; stop looks every 2 rounds."""
    asked = []

    def stop(scores):
        asked.append(scores)
        return scores["error"] < 1.7

    result = simulate(evaluate=EVALUATE, evaluate_every=2, rounds=40, stop=stop)
    assert result.stopped == "early"
    assert int(result.state.round) == len(result.history.rounds["loss"]) == 2 * len(asked)
    assert asked[-1]["error"] < 1.7
    assert all(scores["error"] >= 1.7 for scores in asked[:-1])


def test_ctrl_c_ends_the_run_after_the_block(capsys):
    def press(scores):
        signal.raise_signal(signal.SIGINT)
        return False

    before = signal.getsignal(signal.SIGINT)
    result = simulate(evaluate=EVALUATE, evaluate_every=2, rounds=40, stop=press)
    assert signal.getsignal(signal.SIGINT) is before
    assert result.stopped == "interrupted"
    assert result.history.evaluated_at.tolist() == [2]
    assert np.isfinite(result.params)
    assert "Ctrl-C again" in capsys.readouterr().err


@pytest.mark.slow
def test_the_second_ctrl_c_is_not_waited_for():
    def press_twice(scores):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        simulate(evaluate=EVALUATE, stop=press_twice)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_runs_outside_the_main_thread():
    """Where no signal handler can be set."""
    results = []
    thread = threading.Thread(target=lambda: results.append(simulate(rounds=1)))
    thread.start()
    thread.join()
    assert results[0].stopped == "finished"


@pytest.mark.ci
def test_a_model_that_overflows_stops_the_run():
    """W - 1e20 (w - x) is 1e20 after a round and infinite after two; the block of 3 is finished."""
    wild = algorithms.fedsgd(loss_fn, learning_rate=1e20)
    result = simulate(algorithm=wild, evaluate_every=3, rounds=9)
    assert result.stopped == "diverged"
    assert result.diverged_at == 2
    assert result.history.rounds["finite"].tolist() == [True, False, False]

    on = simulate(algorithm=wild, evaluate_every=3, rounds=6, on_nonfinite="continue")
    assert on.stopped == "finished"
    assert on.diverged_at == 2
    assert len(on.history.rounds["finite"]) == 6


@pytest.mark.slow
def test_clients_that_all_overflow_stop_the_run_and_leave_the_model():
    wild = algorithms.fedavg(loss_fn, client_lr=1e20, batch_size=4, epochs=3)
    result = simulate(algorithm=wild, params=jnp.array(1.5), evaluate_every=2, rounds=4)
    assert result.stopped == "diverged"
    assert result.diverged_at == 1
    assert result.history.rounds["nonfinite"].tolist() == [N, N]
    assert result.history.rounds["participants"].tolist() == [0, 0]
    assert float(result.params) == 1.5
    assert result.ledger.delivered.tolist() == [N, N]  # they were sent all the same


def test_one_client_that_overflows_does_not_stop_the_others():
    dataset = data.from_clients([np.float32([np.inf]), np.float32([1.0])])
    result = simulate(dataset=dataset, rounds=3)
    assert result.stopped == "finished"
    assert result.diverged_at is None
    np.testing.assert_allclose(result.params, 1 - 2**-3)


# --------------------------------------------------------------------------------------------------
# Refusals
# --------------------------------------------------------------------------------------------------


NOBODY = data.from_clients([np.zeros((0,), np.float32)] * 2)
HOST = r"evaluate is compiled by JAX .* jax\.pure_callback"


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rounds": 0}, ValueError, "rounds must be at least 1, got 0"),
        ({"rounds": 2.0}, TypeError, "rounds must be an integer"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every must be at least 1"),
        ({"on_nonfinite": "ignore"}, ValueError, 'must be "stop" or "continue"'),
        ({"algorithm": FEDSGD.round}, TypeError, r"algorithm must be a fjx.*Algorithm"),
        ({"dataset": list(VALUES)}, TypeError, r"dataset must be a fjx.*FederatedData"),
        ({"sampler": samplers.full}, TypeError, r"sampler must be a fjx.*Sampler"),
        ({"sampler": samplers.uniform(6)}, ValueError, "size must be at most num_clients = 5"),
        ({"stop": lambda scores: True}, ValueError, "stop .* evaluate"),
        ({"evaluate_first": True}, ValueError, "evaluate_first=True calls evaluate"),
        (
            {"callbacks": print},
            TypeError,
            r"callbacks must be a list .* one function is \[function\]",
        ),
        ({"callbacks": ["run.csv"]}, TypeError, "callbacks must be a list of functions"),
        ({"evaluate": lambda w: w}, ValueError, "must return a dict of arrays"),
        ({"evaluate": lambda w: {"w": {"x": w}}}, ValueError, "must return a dict of arrays"),
        ({"evaluate": lambda w: {"w": np.sin(np.asarray(w))}}, TypeError, HOST),
        ({"evaluate": lambda w: {"w": float(w)}}, TypeError, HOST),
        ({"evaluate": lambda w: {"w": VALUES[0][w.astype(int)]}}, TypeError, HOST),
        ({"evaluate": lambda w: {"w": 1.0 if w > 0 else 0.0}}, TypeError, HOST),
        (
            {"evaluate": lambda w: {"w": float(w)}, "dataset": data.on_host(DATASET)},
            TypeError,
            HOST,
        ),
        ({"dataset": NOBODY}, ValueError, "none of the 2 clients .* has an example"),
        ({"dataset": data.on_host(NOBODY)}, ValueError, "none of the 2 clients .* has an example"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(options, error, match):
    with pytest.raises(error, match=match):
        simulate(**options)


@pytest.mark.parametrize("key", [0, jax.random.PRNGKey(0)], ids=["seed", "legacy"])
def test_keys_are_typed(key):
    with pytest.raises(TypeError, match=r"key must be a typed key.*jax\.random\.key"):
        fjx.simulate(key, FEDSGD, ZERO, DATASET, sampler=samplers.full(), rounds=1)
    p = simulation.program(FEDSGD, DATASET, sampler=samplers.full())
    with pytest.raises(TypeError, match="key must be a typed key"):
        p.run(key, p.init(ZERO), 1)


# --------------------------------------------------------------------------------------------------
# Evaluation
# --------------------------------------------------------------------------------------------------

EXAMPLES = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)


def scores(w, batch):
    return {"square": jnp.sum((batch - w[None]) ** 2, axis=1), "positive": batch[:, 0] > w[0]}


@pytest.mark.parametrize("batch_size", [1, 4, 10, 256])
def test_evaluation_is_the_mean_over_all_examples(batch_size):
    w = np.float32([0.1, -0.2, 0.3])
    actual = jax.jit(simulation.evaluation(scores, EXAMPLES, batch_size=batch_size))(w)
    np.testing.assert_allclose(
        actual["square"], ((EXAMPLES - w) ** 2).sum(1).astype(np.float64).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(actual["positive"], (EXAMPLES[:, 0] > w[0]).mean(), rtol=1e-6)


def test_per_client_is_the_mean_of_each():
    sizes = [3, 0, 6, 1]
    parts = np.split(EXAMPLES, np.cumsum(sizes)[:-1])
    evaluate = jax.jit(simulation.per_client(scores, data.from_clients(parts), batch_size=2))
    actual = evaluate(jnp.zeros(3))["square"]
    expected = [(p**2).sum(1).mean() if len(p) else np.nan for p in parts]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_an_intended_nan_is_selected_and_others_are_found():
    """Searching for a NaN with jax_debug_nans stops at those of the score alone."""
    dataset = data.from_clients([np.ones(3, np.float32), np.zeros((0,), np.float32)])
    with jax.debug_nans(True):
        found = simulation.per_client(error, dataset)(ZERO)["error"]
        np.testing.assert_array_equal(found, [1, np.nan])
        with pytest.raises(FloatingPointError):
            simulation.per_client(lambda w, x: {"root": jnp.sqrt(w - x)}, dataset)(ZERO)


def test_what_needs_the_host_is_told_how():
    """The remedy that the error names works."""

    def median(w):
        return np.float32(np.median(np.asarray(w) * EXAMPLES))

    def evaluate(w):
        number = jax.ShapeDtypeStruct((), jnp.float32)
        return {"median": jax.pure_callback(median, number, w)}

    result = simulate(rounds=2, evaluate=evaluate, evaluate_every=1)
    last = median(result.params)
    np.testing.assert_allclose(result.history.evaluations["median"][-1], last, rtol=1e-6)
    with pytest.raises(TypeError, match=r"score is compiled by JAX .* jax\.pure_callback"):
        simulation.evaluation(lambda w, x: {"x": np.sin(np.asarray(x))}, EXAMPLES)(jnp.zeros(3))


def test_evaluations_that_are_none():
    with pytest.raises(ValueError, match=r"none of the 2 clients .* has an example"):
        simulation.per_client(error, NOBODY)
    with pytest.raises(ValueError, match="needs examples"):
        simulation.evaluation(scores, np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="as many in every leaf"):
        simulation.evaluation(scores, {"x": np.zeros(2), "y": np.zeros(3)})
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        simulation.evaluation(scores, EXAMPLES, batch_size=0)
    total = simulation.evaluation(lambda w, x: {"total": jnp.sum(x)}, EXAMPLES, batch_size=4)
    with pytest.raises(ValueError, match=r"one number per example: 'total' has shape \[\]"):
        total(jnp.zeros(3))


# --------------------------------------------------------------------------------------------------
# The table of clients
# --------------------------------------------------------------------------------------------------


def test_rows_are_gathered_by_id_and_scattered_back():
    table = simulation.make_table({"a": jnp.array([1.0, 2.0]), "n": jnp.int32(3)}, 4)
    chex.assert_trees_all_equal_shapes(table, {"a": jnp.zeros((4, 2)), "n": jnp.zeros(4)})
    ids = jnp.array([2, 4, 0])
    rows = simulation.gather(table, ids)
    assert rows["n"].tolist() == [3, 0, 3]
    table = simulation.scatter(table, ids, jax.tree.map(lambda x: x + 1, rows))
    assert table["n"].tolist() == [4, 3, 4, 3]
    assert table["a"][:, 1].tolist() == [3.0, 2.0, 3.0, 2.0]


def rare(hosted):
    """Clients of whom hardly anybody comes, and what is reported of each round."""
    dataset = fjx.data.from_clients([jnp.full(3, float(i)) for i in range(10)])
    noised = algorithms.dp_fedavg(
        loss_fn, client_lr=0.1, batch_size=3, clip_norm=1.0, noise_multiplier=1.0, cohort_size=1
    )
    return fjx.simulate(
        jax.random.key(1), noised, ZERO, fjx.data.on_host(dataset) if hosted else dataset,
        sampler=samplers.poisson(0.1), rounds=4,
    ).history.rounds  # fmt: skip


@pytest.mark.ci
@pytest.mark.parametrize("hosted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_round_with_nobody_does_not_stop_a_search_for_nan(hosted):
    """What is NaN on purpose is selected among the reports, which jax_debug_nans does not search."""
    with jax.debug_nans(True):
        reports = rare(hosted)
    nobody = reports["unnoised_invited"] == 0
    assert nobody.any()
    assert not nobody.all()
    for name in ("unnoised_norm", "unnoised_clipped"):
        np.testing.assert_array_equal(np.isnan(reports[name]), nobody)
    assert np.isfinite(reports["noise_std"]).all()


@pytest.mark.ci
def test_a_search_for_nan_stops_at_one_of_the_model():
    broken = fjx.compose(
        client=clients.gradient(loss_fn, batch_size=2), server=optax.scale(float("nan"))
    )
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="algorithm/server/params"):
        simulate(algorithm=broken, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("hosted", [False, True])
def test_scores_of_clients_without_examples_do_not_stop_a_search_for_nan(hosted):
    dataset = fjx.data.from_clients([jnp.ones(3), jnp.zeros(0)])
    scores = simulation.per_client(lambda w, x: {"error": (w - x) ** 2}, dataset)
    with jax.debug_nans(True):
        result = simulate(
            dataset=data.on_host(dataset) if hosted else dataset,
            sampler=samplers.full(), rounds=2, evaluate=scores,
        )  # fmt: skip
    errors = result.history.evaluations["error"]
    np.testing.assert_array_equal(np.isnan(errors), np.broadcast_to([False, True], errors.shape))
