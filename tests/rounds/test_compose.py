"""The wiring of a round, by parts that write down what they were given."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import (
    STACK,
    SUM,
    Aggregator,
    ClientUpdate,
    Compressor,
    ServerUpdate,
    aggregators,
    compressors,
    data,
    privacy,
    simulation,
)

SIZES = (3, 5, 1, 7, 2)
N = len(SIZES)
DATASET = data.from_clients([np.zeros(n, np.float32) for n in SIZES])


class Log(NamedTuple):
    """A server that keeps the aggregate message."""

    params: Any
    seen: Any


log = ServerUpdate(
    lambda params: Log(params, None),
    lambda state: state.params,
    lambda state, message: Log(state.params, message),
)


def client_of(update, shape=(2,), init=lambda params: ()):
    return ClientUpdate(init, update, lambda params: jax.ShapeDtypeStruct(shape, jnp.float32))


def collected(key, total, public):
    return total, public.state, {}


def stacked(contribute, encode=None):
    return Aggregator(lambda like: (), contribute, collected, STACK, encode)


def run(algorithm, ids, taking_part=None, params=0.0, executor=None, rows=None):
    state = algorithm.init(params)
    if rows is None:
        rows = simulation.make_table(algorithm.init_client(params), len(ids))
    cohort = DATASET.cohort(np.asarray(ids, np.int32), taking_part)
    round = jax.jit(functools.partial(algorithm.round, executor=executor))
    return round(jax.random.key(5), state, rows, cohort)


# --------------------------------------------------------------------------------------------------
# What a client draws, and what it is told
# --------------------------------------------------------------------------------------------------


def train(key, broadcast, state, examples, turn):
    return jnp.stack([jax.random.normal(key), jnp.zeros(())]), state, {}


def encode(key, message, state):
    return message.at[1].set(jax.random.normal(key)), state


def agreed(key, message, public):
    return jnp.concatenate([message, jax.random.normal(key)[None]])


def contribute(draws, weight, public):
    shared = jax.random.normal(public.key)
    return {"draws": draws, "shared": shared, "rank": public.rank, "size": public.size}


PROBE = fjx.compose(
    client=client_of(train),
    uplink=Compressor(lambda like: (), encode, lambda payload: payload, lambda like: None),
    aggregator=stacked(contribute, agreed),
    server=log,
)


@pytest.mark.ci
def test_what_a_client_draws_depends_on_the_round_key_and_its_id_alone():
    seen = run(PROBE, [0, 1, 2, 3, 4])[0].server.seen["draws"]
    assert (
        len(np.unique(seen)) == 3 * N
    )  # for training, the codec and the aggregator, of each client
    for executor in (simulation.vectorized(), simulation.chunked(2)):
        other = run(PROBE, [4, N, 1], executor=executor)[0].server.seen["draws"]
        np.testing.assert_array_equal(other[np.array([0, 2])], seen[np.array([4, 1])])


@pytest.mark.ci
def test_public_is_the_same_for_all_but_for_the_rank():
    """Ranks go by id, whatever the slot; padding does not count, a client that drops out does."""
    seen = run(PROBE, [4, N, 1, 3, N], np.array([1, 1, 0, 1, 1], bool))[0].server.seen
    came = np.array([0, 3])  # the share of an absent client is zeros
    assert seen["rank"][came].tolist() == [2, 1]
    assert seen["size"][came].tolist() == [3, 3]
    assert len(np.unique(seen["shared"][came])) == 1


@pytest.mark.slow
def test_absentees_are_silenced_whatever_an_aggregator_adds_of_its_own():
    noisy = Aggregator(
        init=lambda like: (),
        encode=lambda key, message, public: jax.random.normal(key),
        contribute=lambda noise, weight, public: {"noise": noise, "n": jnp.int32(1)},
        finish=collected,
        combine=SUM,
    )
    algorithm = fjx.compose(client=client_of(train), aggregator=noisy, server=log)
    seen = run(algorithm, [0, N, 2, 3], np.array([1, 1, 0, 1], bool))[0].server.seen
    expected = run(algorithm, [0, 3])[0].server.seen
    assert int(seen["n"]) == 2
    chex.assert_trees_all_close(seen, expected, rtol=1e-6)


def test_clients_see_the_decoded_broadcast_and_the_server_keeps_its_own():
    algorithm = fjx.compose(
        client=client_of(lambda key, w, state, examples, turn: (w, state, {}), ()),
        downlink=compressors.cast(jnp.bfloat16),
        aggregator=aggregators.mean(),
        server=log,
    )
    state, _, _ = run(algorithm, range(N), params=jnp.float32(1.001))
    assert float(state.params) == np.float32(1.001)
    assert float(state.server.seen) == 1.0  # the nearest bfloat16


def test_no_codec_enlarges_what_the_aggregator_bounds():
    """The clip comes after decoding: a codec that multiplies by a thousand is clipped all the same."""
    amplifier = Compressor(
        lambda like: (),
        lambda key, message, state: (message, state),
        lambda payload: 1000 * payload,
        lambda like: None,
    )
    private = aggregators.private(privacy.gaussian(clip_norm=1.0, noise_multiplier=0.0), 1)
    algorithm = fjx.compose(
        client=client_of(lambda key, w, state, examples, turn: (jnp.full(2, 0.1), state, {})),
        uplink=amplifier,
        aggregator=private,
        server=log,
    )
    np.testing.assert_allclose(np.linalg.norm(run(algorithm, [0])[0].server.seen), 1.0, rtol=1e-5)


# --------------------------------------------------------------------------------------------------
# Metrics
# --------------------------------------------------------------------------------------------------


def reporting(key, broadcast, state, examples, turn):
    return jnp.zeros(2), state, {"size": examples.size.astype(jnp.float32)}


@pytest.mark.ci
def test_metrics_are_averaged_over_the_examples_of_those_who_take_part():
    algorithm = fjx.compose(client=client_of(reporting), server=log)
    _, _, metrics = run(algorithm, [0, 3, N, 4], np.array([1, 1, 1, 0], bool))
    np.testing.assert_allclose(metrics["size"], (3 * 3 + 7 * 7) / (3 + 7), rtol=1e-6)
    assert int(metrics["invited"]) == 3
    assert int(metrics["participants"]) == 2


@pytest.mark.ci
def test_a_mean_over_nobody_is_nan_and_counts_are_zero():
    """Where nobody came, where all dropped out, and where nobody that came has an example."""
    algorithm = fjx.compose(client=client_of(reporting), server=log)
    for ids, taking_part in (([N, N], None), ([0, 3], np.zeros(2, bool))):
        _, _, metrics = run(algorithm, ids, taking_part)
        assert np.isnan(metrics["size"])
        assert int(metrics["participants"]) == int(metrics["nonfinite"]) == 0


def test_a_metric_is_never_overwritten():
    def clashing(key, broadcast, state, examples, turn):
        return jnp.zeros(2), state, {"participants": jnp.float32(0)}

    with pytest.raises(ValueError, match=r"report metrics called \['participants'\]"):
        run(fjx.compose(client=client_of(clashing), server=log), [0])


def test_impossible_slots_are_counted_when_they_cannot_raise():
    algorithm = fjx.compose(client=client_of(reporting), server=log)

    @jax.jit
    def metrics(ids):
        state, rows = algorithm.init(0.0), simulation.make_table(algorithm.init_client(0.0), 4)
        return algorithm.round(jax.random.key(0), state, rows, DATASET.cohort(ids))[2]

    counted = metrics(jnp.array([1, 1, 77, -3]))
    assert int(counted["rejected"]) == 3
    assert int(counted["invited"]) == int(counted["participants"]) == 1


# --------------------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------------------


def test_rows_hold_the_client_s_state_and_the_codec_s():
    def remember(key, broadcast, state, examples, turn):
        return jnp.array([1.0, 2.0]), state + 1, {}

    algorithm = fjx.compose(
        client=client_of(remember, init=lambda params: jnp.int32(0)),
        uplink=compressors.error_feedback(compressors.top_k(0.5)),
        server=log,
    )
    _, rows, _ = run(algorithm, [0, 1, 2], np.array([True, False, True]))
    assert rows.client.tolist() == [1, 0, 1]
    assert rows.uplink.residual.tolist() == [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    _, rows, _ = run(algorithm, [0, 1, N], rows=rows)
    assert rows.client.tolist() == [2, 1, 1]


def test_the_price_is_that_of_the_payloads():
    algorithm = fjx.compose(
        client=client_of(train, (10,)),
        uplink=compressors.cast(jnp.bfloat16),
        downlink=compressors.quantize(bits=8),
        server=log,
    )
    assert algorithm.traffic(jnp.zeros(3)) == fjx.Traffic(uplink=160, downlink=3 * 8 + 32)


# --------------------------------------------------------------------------------------------------
# Refusals
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "value"),
    [
        ("client", optax.sgd(0.1)),
        ("uplink", compressors.identity),
        ("downlink", "identity"),
        ("aggregator", aggregators.mean),
        ("server", 1.0),
    ],
)
def test_slots_take_their_own_kind(slot, value):
    slots = {"client": client_of(train), slot: value}
    with pytest.raises(TypeError, match=f"compose: {slot} must be a fjx"):
        fjx.compose(**slots)


def test_a_message_must_be_as_its_template_says():
    algorithm = fjx.compose(client=client_of(train, (3,)), server=log)
    with pytest.raises(ValueError, match="the client's message must match its template"):
        run(algorithm, [0])


def test_a_round_needs_one_row_a_slot():
    algorithm = fjx.compose(client=client_of(train, init=lambda params: jnp.zeros(2)), server=log)
    table = simulation.make_table(algorithm.init_client(0.0), N)
    with pytest.raises(ValueError, match=r"each of the cohort's 2 slots; at \.client got \[5, 2\]"):
        run(algorithm, [0, 1], rows=table)


def test_a_round_needs_a_typed_key():
    state, rows = PROBE.init(0.0), simulation.make_table(PROBE.init_client(0.0), 1)
    with pytest.raises(TypeError, match="key must be a typed key"):
        PROBE.round(jax.random.PRNGKey(0), state, rows, DATASET.cohort(np.array([0])))


@pytest.mark.parametrize("size", [0, 1.0, True])
def test_a_chunk_holds_a_number_of_clients(size):
    with pytest.raises((TypeError, ValueError), match="size must be"):
        simulation.chunked(size)
