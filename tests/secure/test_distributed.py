"""Noise under a secure sum: enough for the fewest survivors, and the attack that it stops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, privacy, samplers, secure
from fjx.privacy import auditing

N, D = 6, 16
KEY = jax.random.key(7)
MECHANISMS = {"gaussian": privacy.distributed_gaussian, "skellam": privacy.distributed_skellam}
SETTINGS = {
    "clip_norm": 1.0,
    "noise_multiplier": 1.0,
    "granularity": 0.01,
    "bits": 16,
    "clients": N,
    "dimension": D,
    "dropped": 2,
}
DATA = fjx.data.from_clients(
    [jnp.asarray(np.random.default_rng(i).normal(size=(2, D)), jnp.float32) for i in range(N)]
)
PROTOCOLS = [secure.secagg_plus(), secure.lightsecagg(dropout_rate=0.4, privacy_rate=0.3)]


def algorithm(mechanism):
    client = fjx.clients.local_sgd(
        lambda w, x, key: jnp.mean((w[None] - x) ** 2), optax.sgd(0.5), epochs=1, batch_size=2
    )
    aggregator = aggregators.rotated(aggregators.distributed(mechanism, N))
    return fjx.compose(client=client, aggregator=aggregator)


@pytest.mark.ci
@pytest.mark.parametrize("name", MECHANISMS)
def test_noise_and_all_is_the_sum_of_the_simulation(name):
    ours, start = algorithm(MECHANISMS[name](**SETTINGS)), jnp.zeros(D)
    simulated = fjx.simulate(KEY, ours, start, DATA, sampler=samplers.full(), rounds=2)
    for protocol in PROTOCOLS:
        found = secure.run(
            KEY, ours, start, DATA, sampler=samplers.full(), rounds=2, protocol=protocol
        )
        assert np.array_equal(found.params, simulated.params)
    assert np.abs(simulated.params).max() > 0.05


@pytest.mark.ci
@pytest.mark.parametrize("name", MECHANISMS)
def test_fewer_survivors_than_the_noise_is_for_give_no_sum(name):
    """Noise is for N - 2 survivors: two may leave, and the third one ends the round."""
    ours = algorithm(MECHANISMS[name](**SETTINGS))

    def leaves(round, ids):
        return dict.fromkeys(ids[: 2 + round], 0)

    enough, few = secure.run(
        KEY, ours, jnp.zeros(D), DATA, sampler=samplers.full(), rounds=2,
        protocol=secure.plain(), leaves=leaves,
    ).rounds  # fmt: skip
    assert (len(enough.survivors), enough.aborted) == (4, None)
    assert "sum of 3 clients, and the session asks for 4" in str(few.aborted)


@pytest.mark.ci
def test_a_weighted_mean_under_a_secure_sum_is_the_plain_weighted_mean():
    """Weights 1 to 6 travel in the sum: no more than a step of rounding from the mean of floats."""
    weighted, start = DATA.with_weights(jnp.arange(1.0, N + 1)), jnp.zeros(D)
    step, same = 2.0**-12, {"sampler": samplers.full(), "rounds": 1}
    client = fjx.clients.local_sgd(
        lambda w, x, key: jnp.mean((w[None] - x) ** 2), optax.sgd(0.5), epochs=1, batch_size=2
    )
    integers = aggregators.integer_mean(step, bits=20, clients=N, max_weight=N)
    ours = fjx.compose(client=client, aggregator=integers)
    plain = fjx.compose(client=client, aggregator=aggregators.mean())
    exact = fjx.simulate(KEY, plain, start, weighted, **same).params
    for data, close in ((weighted, True), (DATA.with_weights(jnp.ones(N)), False)):
        found = secure.run(KEY, ours, start, data, protocol=PROTOCOLS[0], **same).params
        assert (float(jnp.abs(found - exact).max()) <= step) is close


def sums(mechanism, rows, draws):
    """Sums of the rows under SecAgg+, ``[draws, d]``, with new noise in each draw.

    All draws are one vector of the protocol, so that each client masks once.
    """
    keys = jax.random.split(jax.random.key(3), (len(rows), draws))
    each = jax.vmap(lambda ks, row: jax.vmap(lambda k: mechanism.encode(k, row).codes)(ks))
    codes = np.asarray(jax.jit(each)(keys, rows)).astype(np.uint32)
    bits = mechanism.bits
    total = secure.play(secure.secagg_plus(), codes.reshape(len(rows), -1), bits=bits).total
    count = jnp.int32(len(rows))
    decode = jax.jit(jax.vmap(lambda one: mechanism.decode(one, count)))
    return np.asarray(decode(total.reshape(draws, -1).astype(np.uint32)))


@pytest.mark.ci
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_secure_sum_gives_a_member_away_and_noise_hides_it(name):
    """The attacker knows all messages but one, and asks if that one is the canary or zero.

    400 sums with the canary, 400 without it, of the fewest survivors (4 of 6).  Without noise, rounding
    is all that moves the sum, and the attack is always right.  With z = 1 its AUROC is
    Phi(1 / sqrt 2) = 0.76, here within 5 standard errors of 0.017.  What the audit proves is below what
    the mechanism promises.
    """
    draws, least = 400, N - 2
    rows = np.random.default_rng(2).normal(size=(least, D)).astype(np.float32)
    rows /= 2 * np.linalg.norm(rows, axis=1, keepdims=True)
    canary = np.full(D, D**-0.5, np.float32)
    scores = {}
    for z in (0.0, 1.0):
        mechanism = MECHANISMS[name](**{**SETTINGS, "noise_multiplier": z})
        assert mechanism.least == least
        for row in (canary, 0 * canary):
            rows[0] = row
            found = sums(mechanism, jnp.asarray(rows), draws)
            scores[z, bool(row.any())] = (found - rows[1:].sum(0)) @ canary
    assert auditing.auroc(scores[0.0, True], scores[0.0, False]) == 1
    noisy = scores[1.0, True], scores[1.0, False]
    assert abs(auditing.auroc(*noisy) - 0.760) < 5 * 0.017
    shown = auditing.clopper_pearson(*noisy, delta=1e-5)
    promised = privacy.epsilon(
        MECHANISMS[name](**SETTINGS), samplers.full(), rounds=1, delta=1e-5, method="rdp"
    )
    assert 0 <= shown < promised
    assert auditing.clopper_pearson(scores[0.0, True], scores[0.0, False], delta=1e-5) > 3


def planned(protocol, mechanism=None, *, num_clients=N, sampler=None, relation=None, **more):
    """A plan of distributed noise, or of noise on the server."""
    settings = {name: value for name, value in SETTINGS.items() if name != "noise_multiplier"}
    distributed = {
        "mechanism": lambda z: privacy.distributed_gaussian(
            noise_multiplier=z, **(settings | more)
        ),
        "aggregator": lambda made, n: aggregators.rotated(aggregators.distributed(made, n)),
        "method": "rdp",
    }
    others = distributed if mechanism is None else mechanism
    return fjx.plan(
        num_clients=num_clients, rounds=2, delta=1e-3, noise_multiplier=1.0,
        sampler=samplers.full() if sampler is None else sampler, protocol=protocol,
        relation=relation, **others,
    )  # fmt: skip


PART = secure.selective(secure.bfv(), lambda path: True)


@pytest.mark.parametrize(
    ("protocol", "mechanism", "words"),
    [
        (secure.secagg_plus(), None, "Holds against the server as well.*at least 4 clients"),
        (secure.plain(), None, "Does not hold against the server.*of single clients"),
        (PART, None, "Does not hold against the server.*of single clients"),
        (secure.ckks(), {"clip_norm": 1.0}, "server, which is trusted.*the sum of each round with"),
        (secure.plain(), {"clip_norm": 1.0}, "server, which is trusted.*every message without it"),
    ],
)
def test_a_plan_says_what_the_server_sees(protocol, mechanism, words):
    """The same number in each case, and another sentence beside it."""
    plan, bare = planned(protocol, mechanism), planned(None, mechanism)
    assert plan.claim == bare.claim
    assert re.search(words, plan.claim.caveats[-1])
    assert plan.claim.caveats[:-1] == bare.claim.caveats
    assert bare._replace(protocol=protocol).claim.caveats == plan.claim.caveats


def test_a_server_knows_whom_it_asks():
    """A draw hides nobody from the server, so a claim that it amplifies does not hold against it."""

    def said(**settings):
        plan = planned(secure.two_servers(), **settings)
        return plan.claim.caveats[-1]

    drawn = said(num_clients=10 * N, sampler=samplers.uniform(N), relation="replace_one")
    assert "Does not hold against the server: sampling amplifies" in drawn
    everybody = said(sampler=samplers.uniform(N), relation="replace_one")
    assert "Holds against the server" in everybody
    blocks = said(num_clients=10 * N, sampler=samplers.cyclic(10))
    assert "Holds against the server" in blocks


def test_colluding_clients_know_their_own_noise():
    none = planned(secure.two_servers()).claim.caveats[-1]
    assert "if no client tells it its noise" in none
    one = planned(secure.two_servers(), colluding=1).claim.caveats[-1]
    assert "if no more than 1 client tells it its noise" in one
    assert re.search("at least 4 clients, and the noise of 3 is", one)


@pytest.mark.ci
def test_a_planned_run_claims_what_its_protocol_hides():
    plan = planned(None)
    client = fjx.clients.local_sgd(
        lambda w, x, key: jnp.mean((w[None] - x) ** 2), optax.sgd(0.5), epochs=1, batch_size=2
    )
    ours = fjx.compose(client=client, aggregator=plan.aggregator)

    def run(protocol, plan=plan, algorithm=ours, rounds=1):
        return secure.run(
            KEY, algorithm, jnp.zeros(D), DATA, sampler=plan.sampler, rounds=rounds,
            protocol=protocol, plan=plan,
        )  # fmt: skip

    hidden, open = run(secure.two_servers()).privacy, run(secure.plain()).privacy
    assert hidden == open == plan.epsilon(1)
    assert "Holds against the server" in str(hidden)
    assert "Does not hold against the server" in str(open)
    with pytest.raises(ValueError, match="'plain', and 'two servers' was planned"):
        run(secure.plain(), plan._replace(protocol=secure.two_servers()))
    with pytest.raises(ValueError, match="the algorithm's aggregator is not the plan's"):
        run(secure.plain(), algorithm=algorithm(MECHANISMS["gaussian"](**SETTINGS)))
    with pytest.raises(ValueError, match="3 rounds are asked for"):
        run(secure.plain(), rounds=3)
    central = planned(None, {"clip_norm": 1.0})
    noisy = fjx.compose(client=client, aggregator=central.aggregator)
    with pytest.raises(ValueError, match="the planned noise is added after the sum"):
        run(secure.ckks(), central, noisy)
