"""The same model, to the bit, whether XLA adds or parties do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, privacy, samplers, secure
from fjx._kernels.inner import right_options
from fjx.rounds._state import RoundState
from fjx.secure import _halves
from fjx.secure._halves import Layout

N, D = 6, 12
DATA = fjx.data.from_clients(
    [
        {"x": jnp.asarray(np.random.default_rng(i).normal(size=(2 + i % 3, D)), jnp.float32)}
        for i in range(N)
    ]
)
PARAMS = {"w": jnp.zeros((3, 3)), "b": jnp.zeros(3)}
KEY = jax.random.key(7)

INTEGERS = aggregators.integer_mean(0.01, bits=12, clients=N)
GAUSSIAN = privacy.distributed_gaussian(
    clip_norm=1.0,
    noise_multiplier=1.0,
    granularity=0.01,
    bits=16,
    clients=N,
    dimension=16,
    dropped=2,
)
AGGREGATORS = {
    "integer_mean": INTEGERS,
    "weighted": aggregators.integer_mean(0.01, bits=12, clients=N, max_weight=10),
    "rotated": aggregators.rotated(INTEGERS),
    "shared_rand_k": aggregators.shared_rand_k(0.5, INTEGERS),
    "sketched": aggregators.sketched(rows=3, columns=4, aggregator=INTEGERS),
    "distributed_gaussian": aggregators.rotated(aggregators.distributed(GAUSSIAN, N)),
}
PROTOCOLS = {
    "plain": secure.plain(),
    "two_servers": secure.two_servers(),
    "bonawitz": secure.bonawitz(),
    "active": secure.bonawitz(active=True),
    "secagg_plus": secure.secagg_plus(),
    "lightsecagg": secure.lightsecagg(dropout_rate=0.4, privacy_rate=0.3),
    "bfv": secure.bfv(),
}


def loss(params, batch, key):
    flat = jnp.concatenate([params["w"].reshape(-1), params["b"]])
    return jnp.mean((flat[None] - batch["x"]) ** 2)


def algorithm(aggregator):
    client = fjx.clients.local_sgd(loss, optax.sgd(0.5), epochs=1, batch_size=2)
    return fjx.compose(client=client, aggregator=aggregator, server=optax.sgd(1.0, momentum=0.5))


INTEGER_FEDAVG = algorithm(INTEGERS)
SAMPLER = samplers.uniform(4)


def same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


def run(protocol=PROTOCOLS["plain"], algorithm=INTEGER_FEDAVG, **others):
    arguments = {"sampler": SAMPLER, "rounds": 2, **others}
    return secure.run(KEY, algorithm, PARAMS, DATA, protocol=protocol, **arguments)


@pytest.fixture(scope="module")
def simulated():
    return fjx.simulate(KEY, INTEGER_FEDAVG, PARAMS, DATA, sampler=SAMPLER, rounds=2)


@pytest.mark.ci
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_model_is_that_of_the_simulation(simulated, name):
    result = run(PROTOCOLS[name])
    assert same(result.state, simulated.state)
    assert not same(result.params, PARAMS)
    assert [len(one.survivors) for one in result.rounds] == [4, 4]
    assert result.bill.up == sum(one.bill.up for one in result.rounds) > 0


def test_halves_are_compiled_as_whole_rounds_are(monkeypatch):
    """With the same options: with others, training differs in its last bits and so in its integers."""
    options, jit = [], jax.jit

    def recorded(function, **others):
        options.append(others.get("compiler_options"))
        return jit(function, **others)

    monkeypatch.setattr(_halves.jax, "jit", recorded)
    _halves._halves.__wrapped__(INTEGER_FEDAVG, None)
    assert options == [right_options()] * 2


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_aggregator_of_integers_under_every_protocol(name):
    ours = algorithm(AGGREGATORS[name])
    simulated = fjx.simulate(KEY, ours, PARAMS, DATA, sampler=SAMPLER, rounds=3)
    assert not same(simulated.params, PARAMS)
    for protocol in PROTOCOLS.values():
        assert same(run(protocol, ours, rounds=3).state, simulated.state), protocol.name


@pytest.mark.ci
def test_a_weighted_mean_has_its_weights_in_the_sum():
    """Messages on the grid: the sum of w x over the sum of w, whatever protocol adds the two."""
    x, w = jnp.array([[3.0, -1.0], [1.0, 2.0], [-2.0, 0.0]]), jnp.array([1.0, 4.0, 2.0])
    a = aggregators.integer_mean(1.0, bits=4, clients=3, max_weight=4)
    found, _, _ = aggregators.aggregate(KEY, a, x, weights=w)
    assert np.allclose(found, np.average(x, axis=0, weights=w), rtol=1e-6)
    public = fjx.Public.first(a, x[0], KEY, size=3)
    shares = jax.vmap(lambda m, weight: a.contribute(a.encode(KEY, m, public), weight, public))(
        x, w
    )
    rows = np.concatenate([shares[0], np.asarray(shares[1])[:, None]], axis=1)
    for protocol in PROTOCOLS.values():
        total = secure.play(protocol, rows, bits=8).signed
        assert np.allclose(total[:2] / total[2], found, rtol=1e-6)
    heavy, _, _ = aggregators.aggregate(KEY, a, x, weights=jnp.array([1.0, 9.0, 2.0]))
    assert np.array_equal(heavy, found)
    with pytest.raises(ValueError, match="times a weight of 4096 may add up"):
        aggregators.integer_mean(1.0, bits=20, clients=3, max_weight=4096)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["secagg_plus", "lightsecagg"])
def test_clients_that_leave_early_have_not_taken_part(name):
    """One leaves before its contribution in round 0: as if the sampler had left it out.

    In round 1 one leaves behind its contribution: it counts.
    """
    seen = {}

    def leaves(round, ids):
        seen[round] = ids
        return {ids[0]: 2 if round == 0 else 3}

    result = run(PROTOCOLS[name], leaves=leaves)
    gone = seen[0][0]
    assert gone not in result.rounds[0].survivors
    assert result.rounds[1].survivors == seen[1] == result.rounds[1].invited

    def sample(key, round, population):
        drawn = SAMPLER.sample(key, round, population)
        taking_part = (drawn.ids != gone) | (round > 0)
        return drawn._replace(taking_part=taking_part)

    other = run(sampler=SAMPLER._replace(sample=sample))
    assert gone not in other.rounds[0].survivors
    assert same(result.state, other.state)


@pytest.mark.ci
def test_a_round_without_enough_clients_is_an_empty_round():
    def leaves(round, ids):
        return dict.fromkeys(ids[:3], 2) if round == 0 else {}

    result = run(PROTOCOLS["bonawitz"], leaves=leaves)
    first, second = result.rounds
    assert isinstance(first.aborted, secure.TooFew)
    assert (first.survivors, len(second.survivors), second.aborted) == ((), 4, None)
    assert first.bill.up > 0
    assert int(result.state.algorithm.round) == 2
    alone = run(PROTOCOLS["bonawitz"], rounds=1, leaves=leaves)
    assert same(alone.params, PARAMS)


@pytest.mark.slow
def test_a_sum_with_too_little_noise_is_not_known():
    """GAUSSIAN is calibrated for two dropouts of six; in a cohort of four, one is too many."""
    ours = algorithm(AGGREGATORS["distributed_gaussian"])
    (only,) = run(algorithm=ours, rounds=1, leaves=lambda round, ids: {ids[0]: 0}).rounds
    assert "sum of 3 clients, and the session asks for 4" in str(only.aborted)


@pytest.mark.ci
def test_only_what_the_model_needs_is_sent():
    """The integers of a message and their count: no loss, no norm, no count of examples."""
    result = run(rounds=1, bits=16)
    (message, *_) = result.rounds[0].bill.messages
    assert message.bytes == 34 + 32 + 2 * (D + 1) + 16
    assert set(result.rounds[0].metrics) == {"invited", "rejected"}


@pytest.mark.ci
def test_fewer_bits_give_the_same_model_or_are_refused(simulated):
    assert same(run(bits=14).state, simulated.state)
    with pytest.raises(ValueError, match="does not fit into bits=4; take more bits"):
        run(bits=4)


def test_the_layout_keeps_signs_and_widths():
    total = {"a": jax.ShapeDtypeStruct((2,), "int32"), "b": jax.ShapeDtypeStruct((), "uint8")}
    layout = Layout.of(total, (True, True), frozenset())
    each = {"a": np.array([[-5, 2], [1, -9]], np.int32), "b": np.array([200, 100], np.uint8)}
    vectors = layout.vectors(each, 32)
    assert vectors.tolist() == [[-5, 2, 200], [1, -9, 100]]
    outcome = secure.play(secure.plain(), vectors)
    found = layout.totals(outcome.total, outcome.signed)
    assert found["a"].tolist() == [-4, -7]
    assert (found["b"].dtype, int(found["b"])) == (np.uint8, 300 % 256)  # it wraps as in XLA


@pytest.mark.ci
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"algorithm": algorithm(aggregators.mean())}, TypeError, "needs the sum of float32 at"),
        ({"algorithm": algorithm(aggregators.median())}, ValueError, "gives their sum only"),
        ({"protocol": "plain"}, TypeError, "protocol must be a fjx.secure.Protocol"),
        ({"rounds": 0}, ValueError, "rounds"),
        ({"leaves": lambda round, ids: {77: 0}}, ValueError, r"leaves names clients \[77\]"),
    ],
)
def test_bad_arguments_are_refused(change, error, match):
    with pytest.raises(error, match=match):
        run(**change)


@pytest.mark.ci
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_simulation_pays_what_the_protocol_costs(name):
    paid = secure.simulated(INTEGER_FEDAVG, PROTOCOLS[name], DATA, clients=4)
    found, alone = paid.traffic(PARAMS), INTEGER_FEDAVG.traffic(PARAMS)
    bill = secure.play(PROTOCOLS[name], np.zeros((4, D + 1), int)).bill.of(0)
    if name == "bfv":  # lengths of compressed ciphertexts differ by some bytes
        assert abs(found.uplink / 8 / bill.up - 1) < 0.01
    else:
        assert found.uplink == 8 * bill.up
        assert found.downlink == alone.downlink + 8 * bill.down


def counting(cohorts):
    """A round that keeps the cohort that it is given, and its number."""

    def round(key, state, rows, cohort, *, executor=None):
        cohorts.append((cohort.present.tolist(), cohort.weights.tolist()))
        return state, rows, {}

    return round


def round_state(number):
    return RoundState((), (), (), jnp.int32(number))


def test_the_simulation_gives_up_where_the_protocol_does():
    """Two of four are too few for bonawitz(): the round is given a cohort in which nobody is."""
    seen = []
    paid = secure.simulated(
        INTEGER_FEDAVG._replace(round=counting(seen)), PROTOCOLS["bonawitz"], DATA, clients=4
    )
    for present in (2, 3):
        cohort = DATA.cohort(jnp.arange(4), jnp.arange(4) < present)
        _, _, metrics = paid.round(KEY, round_state(0), (), cohort)
        assert int(metrics["given_up"]) == (present == 2)
    weights = cohort.weights.tolist()
    assert seen == [([False] * 4, [0.0] * 4), ([True] * 3 + [False], weights)]


ROUNDS = 16
LEAVING = np.random.default_rng(3).choice(5, (ROUNDS, N), p=[0.05, 0.1, 0.1, 0.05, 0.7])
"""A step for each round and client, of the four of SecAgg+; 4 stays."""


def schedule(round, ids):
    """In even rounds two clients leave, one of them after it has sent its vector.

    On a circle of six the others hold enough shares of all only if the two stand opposite each other.
    """
    slot = jnp.arange(len(ids))
    two = jnp.where(slot == 0, 2, jnp.where(slot == 1, 3, 4))
    return jnp.where(round % 2 == 0, two, jnp.asarray(LEAVING)[round, jnp.minimum(ids, N - 1)])


def played_schedule(round, ids):
    steps = schedule(round, jnp.asarray(ids, jnp.int32)).tolist() if ids else []
    return {i: step for i, step in zip(ids, steps, strict=True) if step < 4}


@pytest.mark.ci
def test_a_simulation_with_dropouts_is_the_run():
    """Two of three neighbours are enough at SecAgg+ of six clients, and so are two of all six.

    So rounds are given up for one neighbourhood alone, under the very graph that the parties draw.
    """
    protocol, rounds = PROTOCOLS["secagg_plus"], ROUNDS
    paid = secure.simulated(INTEGER_FEDAVG, protocol, DATA, clients=N, leaves=schedule)
    found = fjx.simulate(KEY, paid, PARAMS, DATA, sampler=samplers.full(), rounds=rounds)
    result = run(protocol, rounds=rounds, leaves=played_schedule, sampler=samplers.full())
    aborted = [one.aborted is not None for one in result.rounds]
    assert found.history.rounds["given_up"].tolist() == aborted
    assert same(found.state, result.state)
    reasons = " ".join(str(one.aborted) for one in result.rounds)
    assert "fall apart" in reasons
    assert 0 < sum(aborted[::2]) < rounds / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_simulation_with_dropouts_is_the_run_of_every_protocol(name):
    """On cohorts of any size, for which thresholds and graphs differ, and padding between slots."""
    protocol, rounds = PROTOCOLS[name], ROUNDS if name != "bfv" else 10
    sampler = samplers.poisson(0.7, cap=N)
    steps = len(protocol.steps)

    def leaves(round, ids):
        return jnp.minimum(schedule(round, ids), steps)

    def played(round, ids):
        return {i: min(step, steps) for i, step in played_schedule(round, ids).items()}

    paid = secure.simulated(INTEGER_FEDAVG, protocol, DATA, clients=N, leaves=leaves)
    found = fjx.simulate(KEY, paid, PARAMS, DATA, sampler=sampler, rounds=rounds)
    result = run(protocol, rounds=rounds, leaves=played, sampler=sampler)
    aborted = [one.aborted is not None for one in result.rounds]
    assert found.history.rounds["given_up"].tolist() == aborted
    assert same(found.state, result.state)


def test_noise_of_the_server_is_not_claimed_for_rounds_that_may_be_given_up():
    """On Poisson cohorts one client more may decide that the sum of all the others is seen."""
    central = aggregators.private(
        privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), denominator=4
    )
    for aggregator, claimed in ((central, False), (AGGREGATORS["distributed_gaussian"], True)):
        paid = secure.simulated(algorithm(aggregator), PROTOCOLS["bonawitz"], DATA, clients=N)
        assert paid.runs_its_aggregator == claimed


@pytest.mark.slow
def test_a_simulation_without_dropouts_is_the_usual_one(simulated):
    paid = secure.simulated(INTEGER_FEDAVG, PROTOCOLS["secagg_plus"], DATA, clients=4)
    assert paid.runs_its_aggregator
    result = fjx.simulate(KEY, paid, PARAMS, DATA, sampler=SAMPLER, rounds=2)
    assert same(result.state, simulated.state)
    assert result.history.rounds["given_up"].tolist() == [0, 0]
    assert result.ledger.uplink == 8 * paid.traffic(PARAMS).uplink


@pytest.mark.few(3)
@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "secagg_plus"])
def test_the_fewest_clients_are_those_that_a_protocol_needs(name):
    protocol, n = PROTOCOLS[name], 5
    fewest = protocol.fewest(n)
    rows = np.ones((n, 1), int)
    gone = dict.fromkeys(range(fewest, n), 0)
    assert secure.play(protocol, rows, leaves=gone).total.tolist() == [fewest]
    if fewest > 1:
        with pytest.raises(secure.TooFew):
            secure.play(protocol, rows, leaves={**gone, 0: 0})
