"""Attacks inside a compiled round: who lies, what attackers see, and what stays as it was."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import (
    STACK,
    Aggregator,
    ClientUpdate,
    ServerUpdate,
    _tree,
    aggregators,
    attacks,
    clients,
    compressors,
    data,
    privacy,
    simulation,
    testing,
)

N, D, KEY = 8, 6, jax.random.key(3)
ROWS = np.random.default_rng(0).normal(1.0, 2.0, size=(N, D)).astype(np.float32)
DATASET = data.from_clients([row[None] for row in ROWS])
BAD = attacks.ids([1, 5], num_clients=N)


class Got(NamedTuple):
    params: Any
    got: Any


def tells():
    """A client that sends its only example."""

    def update(key, broadcast, state, examples, turn):
        return examples.take(jnp.zeros(1, jnp.int32))[0], (), {}

    return ClientUpdate(lambda params: (), update, _tree.like)


def rows_of():
    """An aggregator whose result is the messages themselves, with the weights that they count with."""

    def contribute(message, weight, public):
        return message, weight

    def finish(key, total, public):
        return total, public.state, {}

    return Aggregator(lambda like: (), contribute, finish, STACK)


def keeps(like):
    """A server that keeps what it was given."""
    return ServerUpdate(
        lambda params: Got(params, like), lambda s: s.params, lambda s, m: Got(s.params, m)
    )


def played(aggregator, cohort=None, *, like=None, executor=None, uplink=None, number=0):
    """The aggregate and the metrics of one round of vectors."""
    cohort = DATASET.cohort(jnp.arange(N)) if cohort is None else cohort
    m = cohort.ids.shape[0]
    like = (jnp.zeros((m, D)), jnp.zeros(m)) if like is None else like
    algorithm = fjx.compose(
        client=tells(), aggregator=aggregator, server=keeps(like), uplink=uplink
    )
    params = jnp.zeros(D)
    state = algorithm.init(params)._replace(round=jnp.int32(number))
    table = jax.vmap(lambda _: algorithm.init_client(params))(jnp.arange(m))
    state, _, metrics = algorithm.round(KEY, state, table, cohort, executor=executor)
    return state.server.got, metrics


@pytest.mark.parametrize(
    "executor", [None, *(pytest.param(x, marks=pytest.mark.ci) for x in ("chunked", "sharded"))]
)
def test_an_attack_changes_liars_only(executor):
    mesh = jax.make_mesh((jax.device_count(),), ("clients",))
    run = {
        None: None,
        "chunked": simulation.chunked(3),
        "sharded": simulation.sharded(mesh),
    }[executor]
    attacked = attacks.colluding(rows_of(), attacks.ipm(2.0), byzantine=BAD)
    (rows, weights), metrics = jax.jit(lambda: played(attacked, executor=run))()
    honest = np.delete(np.arange(N), [1, 5])
    np.testing.assert_array_equal(rows[honest], ROWS[honest])
    expected = np.broadcast_to(-2 * ROWS[honest].mean(0), (2, D))
    np.testing.assert_allclose(rows[jnp.array([1, 5])], expected, rtol=1e-5)
    assert metrics["byzantine"] == 2
    assert np.all(weights == 1)


def test_absent_clients_neither_lie_nor_are_seen():
    """Padding, drop-outs and messages that are not finite, whether of liars or of honest clients."""
    bad = attacks.ids([1, 5, 6], num_clients=N)
    ids = jnp.array([5, 0, N, 1, 6, 3, N, 7])
    cohort = DATASET.cohort(ids, jnp.array([1, 1, 1, 1, 0, 1, 1, 1], bool))
    arrays = cohort.examples.arrays.at[jnp.array([1, 7])].set(jnp.nan)
    cohort = cohort._replace(examples=cohort.examples._replace(arrays=arrays))

    def attack(key, view):
        # What it sees, for the test to look at.
        return jnp.where(view.byzantine[:, None], view.messages.sum(0)[None], jnp.nan)

    (rows, weights), metrics = jax.jit(
        lambda: played(attacks.colluding(rows_of(), attack, byzantine=bad), cohort)
    )()
    expected = np.zeros((8, D), np.float32)
    expected[0], expected[1], expected[5] = ROWS[[0, 3]].sum(0), ROWS[0], ROWS[3]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    assert weights.tolist() == [1, 1, 0, 0, 0, 1, 0, 0]
    assert metrics["byzantine"] == 1
    assert metrics["nonfinite"] == 2


def noised():
    return aggregators.private(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), N)


DEFENCES = {
    "mean": aggregators.mean(),
    "median": aggregators.median(),
    "private": noised(),
    "encoded": aggregators.compressed(compressors.rand_k(0.5)),
    "votes": aggregators.majority_vote(),
    "distributed": aggregators.distributed(
        privacy.distributed_gaussian(
            clip_norm=1.0,
            noise_multiplier=1.0,
            granularity=0.05,
            bits=16,
            clients=N,
            dimension=8,
            dropped=2,
        ),
        N,
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        "mean",
        "median",
        *(pytest.param(n, marks=pytest.mark.ci) for n in ("private", "encoded")),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("votes", "distributed")),
    ],
)
def test_nobody_lies_and_nothing_changes(name):
    """Bit for bit, with padding and drop-outs; the price as well."""
    cohort = DATASET.cohort(jnp.array([5, 0, N, 1, 2]), jnp.array([1, 1, 1, 0, 1], bool))
    plain, like = DEFENCES[name], jnp.zeros(D)
    nobody = attacks.first(0, num_clients=N)
    attacked = attacks.colluding(plain, attacks.alie(), byzantine=nobody)
    results = [jax.jit(lambda a=a: played(a, cohort, like=like))() for a in (plain, attacked)]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[1][1].pop("byzantine") == 0
    told = {k.removeprefix("unnoised_"): v for k, v in results[0][1].items()}
    same = {k.removeprefix("unnoised_"): v for k, v in results[1][1].items()}
    assert told.keys() == same.keys()
    for metric, value in told.items():
        np.testing.assert_array_equal(value, same[metric], metric)
    prices = [fjx.compose(client=tells(), aggregator=a).traffic(like) for a in (plain, attacked)]
    assert prices[0] == prices[1]
    assert attacked.mechanisms == ()


def test_lies_that_are_not_finite_are_left_out():
    def attack(key, view):
        return jnp.full(D, jnp.inf)

    attacked = attacks.colluding(aggregators.mean(), attack, byzantine=BAD)
    found, _ = jax.jit(lambda: played(attacked, like=jnp.zeros(D)))()
    np.testing.assert_allclose(found, np.delete(ROWS, [1, 5], axis=0).mean(0), rtol=1e-5)


@pytest.mark.ci
def test_lies_through_a_codec_and_arbitrary_ones():
    """The uplink codec keeps two coordinates; an attacker that is not held to it sends six."""
    codec = compressors.top_k(2 / D)
    kept = {}
    for name, through in (("any", None), ("codec", codec)):
        attacked = attacks.colluding(rows_of(), attacks.ipm(1.0), byzantine=BAD, codec=through)
        (rows, _), _ = jax.jit(lambda a=attacked: played(a, uplink=codec))()
        kept[name] = np.count_nonzero(rows, axis=1)
    assert kept["any"][[1, 5]].min() > 2
    assert (kept["codec"] == 2).all()
    # The aggregator's own encoding is always applied: the mean of two entries at random.
    inside = attacks.colluding(aggregators.shared_rand_k(2 / D), attacks.ipm(1.0), byzantine=BAD)
    found, _ = jax.jit(lambda: played(inside, like=jnp.zeros(D)))()
    assert np.count_nonzero(found) == 2


@pytest.mark.ci
def test_one_program_for_seeds_numbers_of_liars_and_attacks():
    """A traced f, a traced attack and a key of who lies, under vmap, equal the rounds one by one."""

    def run(f, index, seed):
        attack = attacks.one_of(index, attacks.sign_flip(), attacks.alie(2.0))
        bad = attacks.at_random(jax.random.key(seed), f, num_clients=N)
        attacked = attacks.colluding(aggregators.median(), attack, byzantine=bad)
        found, metrics = played(attacked, like=jnp.zeros(D))
        return found, metrics["byzantine"]

    grid = [x.reshape(-1) for x in jnp.meshgrid(jnp.arange(3), jnp.arange(2), jnp.arange(2))]
    found, counts = jax.jit(jax.vmap(run))(*grid)
    assert counts.tolist() == grid[0].tolist()
    for f, index, seed, result in zip(*map(np.asarray, grid), np.asarray(found), strict=True):
        order = np.asarray(jax.random.permutation(jax.random.key(int(seed)), N))
        liars = order < f
        rows, honest = ROWS.copy(), ROWS[~liars]
        lies = (-honest.mean(0), honest.mean(0) + 2 * honest.std(0, ddof=1))
        rows[liars] = lies[index]
        np.testing.assert_allclose(result, np.median(rows, axis=0), rtol=1e-5, atol=1e-6)


def test_liars_that_sleep():
    late = lambda turn: (turn.id < 2) & (turn.round >= 5)  # noqa: E731
    attacked = attacks.colluding(aggregators.mean(), attacks.noise(1.0), byzantine=late)
    run = jax.jit(lambda number: played(attacked, like=jnp.zeros(D), number=number)[1]["byzantine"])
    assert [int(run(number)) for number in (4, 5)] == [0, 2]


# ------------------------------------------------------------------ a client's own data and message


def loss_fn(w, batch, key):
    return jnp.mean((w["a"] * batch["x"] - batch["y"]) ** 2)


def trained(client, shards, **parts):
    dataset = data.from_clients(shards)
    params = {"a": jnp.float32(0.5)}
    m = len(shards)
    like = {"a": jnp.zeros(m)}, jnp.zeros(m)
    algorithm = fjx.compose(client=client, aggregator=rows_of(), server=keeps(like), **parts)
    table = jax.vmap(lambda _: algorithm.init_client(params))(jnp.arange(m))
    state, _, metrics = algorithm.round(
        KEY, algorithm.init(params), table, dataset.cohort(jnp.arange(m))
    )
    return state.server.got[0]["a"], metrics


@pytest.mark.ci
def test_own_data_and_own_message():
    """Training on flipped labels is training on data that were flipped before; a lie is of the honest
    update, and passes the codec; nobody else changes by a bit.
    """
    rng = np.random.default_rng(0)
    shards = [
        {"x": rng.normal(size=n).astype(np.float32), "y": rng.integers(0, 3, n).astype(np.float32)}
        for n in (5, 9, 3)
    ]
    flipped = [shards[0], {**shards[1], "y": 2 - shards[1]["y"]}, shards[2]]
    bad = attacks.ids([1], num_clients=3)
    honest = clients.local_sgd(loss_fn, optax.sgd(0.1), epochs=2, batch_size=4)
    codec = compressors.cast(jnp.bfloat16)
    found = jax.jit(
        lambda: {
            "honest": trained(honest, shards)[0],
            "before": trained(honest, flipped)[0],
            "poisoned": trained(
                attacks.poisoned(honest, attacks.label_flip(3), byzantine=bad), shards
            )[0],
            "tenfold": trained(
                attacks.lying(honest, attacks.model_replacement(10.0), byzantine=bad),
                shards,
                uplink=codec,
            )[0],
            "reversed": trained(attacks.lying(honest, attacks.reverse(), byzantine=bad), shards)[0],
            "perturbed": trained(
                attacks.lying(honest, attacks.perturb(1.0), byzantine=bad), shards
            )[0],
        }
    )()
    found = {name: np.asarray(x) for name, x in found.items()}
    own, liar = found["honest"], 1
    for name in ("before", "poisoned", "reversed", "perturbed"):
        np.testing.assert_array_equal(np.delete(found[name], liar), np.delete(own, liar), name)
        assert found[name][liar] != own[liar]
    assert found["poisoned"][liar] == found["before"][liar]
    assert found["reversed"][liar] == -own[liar]
    as_sent = (own * np.array([1, 10, 1], np.float32)).astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found["tenfold"], as_sent)


def test_a_backdoor_is_measured():
    """Two classes by the sign of x; a model that looks at the trigger alone is a perfect backdoor."""
    examples = {"x": jnp.array([[1.0, 0], [-1, 0], [2, 0]]), "y": jnp.array([1, 0, 1])}

    def stamp(x):
        return x.at[:, 1].set(1.0)

    def apply(weight, x):
        return jnp.stack([jnp.zeros(len(x)), x[:, 0] + weight * x[:, 1]], axis=1)

    score = attacks.backdoor_success(apply, stamp, target=1)
    evaluate = simulation.evaluation(score, examples)
    for weight, rate in ((0.0, 0.0), (9.0, 1.0)):
        found = evaluate(weight)
        assert float(found["backdoor_hits"] / found["backdoor_tried"]) == rate


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: attacks.colluding(aggregators.mean, attacks.alie(), byzantine=BAD), "Aggregator"),
        (lambda: attacks.colluding(aggregators.mean(), 3, byzantine=BAD), "attack"),
        (lambda: attacks.colluding(aggregators.mean(), attacks.alie(), byzantine=[1]), "ids"),
        (
            lambda: attacks.colluding(
                aggregators.mean(), attacks.alie(), byzantine=lambda turn: turn.id
            ),
            "one bool",
        ),
        (
            lambda: attacks.colluding(
                aggregators.mean(), attacks.alie(), byzantine=BAD, codec=compressors.top_k
            ),
            "codec",
        ),
        (lambda: attacks.lying(tells, attacks.reverse(), byzantine=BAD), "ClientUpdate"),
        (lambda: attacks.lying(tells(), 2.0, byzantine=BAD), "message"),
        (lambda: attacks.poisoned(tells(), "flip", byzantine=BAD), "batch"),
        (lambda: attacks.ids([0.5], num_clients=4), "ids must be an integer"),
    ],
)
def test_wrong_kinds_are_refused(call, words):
    with pytest.raises(TypeError, match=words):
        call()


def test_an_unknown_client_is_refused():
    attacked = attacks.colluding(aggregators.mean(), attacks.alie(), byzantine=BAD)
    public = fjx.Public((), KEY, 0, 1)
    with pytest.raises(ValueError, match=r"Public\.id is None"):
        attacked.contribute(jnp.ones(2), jnp.float32(1), public)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "median", "encoded"])
def test_an_attacked_aggregator_keeps_the_laws(name):
    testing.check_aggregator(
        attacks.colluding(
            DEFENCES[name], attacks.ipm(0.5), byzantine=attacks.ids([2], num_clients=7)
        )
    )
