"""Claims of privacy, wrappers, switches, and one round of an aggregator by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import Aggregator, aggregators, compressors, privacy, rounds, wire

MECHANISM = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
PRIVATE = aggregators.private(MECHANISM, 2)


def halved(inner):
    return aggregators.around(inner, before=lambda x, public: x / 2, after=lambda x, public: 2 * x)


def replicated(inner):
    codec = compressors.top_k(0.5)
    return rounds.replicated(codec, aggregator=inner, server=optax.sgd(1.0))["aggregator"]


# ------------------------------------------------------------------------------------------ claims


@pytest.mark.parametrize("field", ["init", "encode", "contribute", "finish", "combine"])
@pytest.mark.parametrize(
    "claiming", [PRIVATE, aggregators.rotated(PRIVATE)], ids=["private", "rotated"]
)
def test_a_claim_is_gone_once_a_function_is_replaced(claiming, field):
    assert claiming.mechanisms == (MECHANISM,)
    other = getattr(aggregators.majority_vote(), field)
    replaced = claiming._replace(**{field: other})
    assert replaced.mechanisms == ()
    # With the functions that were claimed, the claim is the old one.
    assert replaced._replace(**{field: getattr(claiming, field)}).mechanisms == (MECHANISM,)


def test_wrappers_pass_a_claim_on_and_mixtures_have_none():
    for wrapped in (
        halved(PRIVATE),
        aggregators.uniform(PRIVATE),
        aggregators.as_vector(PRIVATE),
        aggregators.shared_rand_k(0.5, PRIVATE),
        aggregators.sketched(rows=1, columns=4, aggregator=PRIVATE),
        replicated(PRIVATE),
    ):
        assert wrapped.mechanisms == (MECHANISM,)
    for wrapped in (
        halved(aggregators.mean()),
        replicated(aggregators.mean()),
        aggregators.switch(lambda public: public.round % 2, PRIVATE, PRIVATE),
        aggregators.per_field(a=PRIVATE, b=aggregators.mean()),
        aggregators.releasing(PRIVATE),
    ):
        assert wrapped.mechanisms == ()
    both = aggregators.per_field(a=PRIVATE, b=PRIVATE)
    assert both.mechanisms == (MECHANISM, MECHANISM)


def no_noise(mechanism, denominator):
    """The plain mean, under the claim of a private sum."""
    plain = aggregators.mean()
    return aggregators.private(mechanism, denominator)._replace(
        contribute=plain.contribute, finish=plain.finish
    )


def weighted_after_the_clip(mechanism, denominator):
    """A weight of 100 examples multiplies the sensitivity by 100."""
    inner = aggregators.private(mechanism, denominator)

    def contribute(payload, weight, public):
        share = inner.contribute(payload, weight, public)
        return share._replace(update=jax.tree.map(lambda x: weight * x, share.update))

    return inner._replace(contribute=contribute)


@pytest.mark.parametrize("lost", [no_noise, weighted_after_the_clip])
def test_a_plan_refuses_an_aggregator_that_lost_its_claim(lost):
    planned = functools.partial(
        fjx.plan, num_clients=100, cohort_size=20, rounds=10, clip_norm=0.5, delta=1e-3,
        noise_multiplier=1.0, method="rdp",
    )  # fmt: skip
    with pytest.raises(ValueError, match="lost the claim by _replace"):
        planned(aggregator=lost)
    planned(aggregator=lambda z, d: halved(aggregators.private(z, d)))


# ------------------------------------------------------------------------------------------ around


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("fact", ["rank", "size"])
def test_around_a_claim_nothing_depends_on_who_came(fact):
    """Signs by rank would let one client more turn the messages of all clients behind it."""
    told = []

    def before(x, public):
        told.append(getattr(public, fact))
        return x

    def after(x, public):
        told.append(getattr(public, fact))
        return x

    x = jnp.ones((3, 2))
    for inner, hidden in ((PRIVATE, True), (aggregators.mean(), False)):
        told.clear()
        wrapped = aggregators.around(inner, before=before, after=after)
        aggregators.aggregate(jax.random.key(0), wrapped, x)
        # The server has no rank in any case.
        assert [value is None for value in told[:-1]] == [hidden] * (len(told) - 1)
        assert (told[-1] is None) == (hidden or fact == "rank")


def seen(public):
    """What a function of an aggregator is told, as arrays."""
    return {
        "shared": jax.random.normal(public.key),
        "round": public.round,
        "size": public.size,
        "state": public.state,
        "like": jnp.int32(public.like.size),
    }


def probe():
    """An aggregator whose result is what its functions were told."""

    def encode(key, message, public):
        return {"own": jax.random.normal(key), "rank": public.rank, **seen(public)}

    def contribute(payload, weight, public):
        return {
            "encode": payload,
            "contribute": {"weight": weight, "rank": public.rank, **seen(public)},
        }

    def finish(key, total, public):
        assert public.rank is None
        told = {**total, "finish": {"own": jax.random.normal(key), **seen(public)}}
        return told, public.state + 1, {"told": public.state}

    return Aggregator(lambda like: jnp.int32(like.size), contribute, finish, fjx.STACK, encode)


def signs(public):
    return jax.random.rademacher(public.key, (3,), jnp.float32)


def test_what_is_done_on_clients_by_the_round_s_key_is_undone_by_the_server():
    a = aggregators.around(
        aggregators.mean(),
        before=lambda x, public: signs(public) * x,
        after=lambda x, public: signs(public) * x,
    )
    x = jax.random.normal(jax.random.key(0), (5, 3))
    public = fjx.Public.first(a, x[0], jax.random.key(1))
    flipped = a.encode(jax.random.key(2), x[0], public) / x[0]
    assert set(np.asarray(flipped).tolist()) == {-1.0, 1.0}
    got = aggregators.aggregate(jax.random.key(1), a, x)[0]
    np.testing.assert_allclose(got, x.mean(0), rtol=1e-6)


def test_an_aggregator_inside_is_told_of_the_transformed_message():
    """Its template is of the new shape; round, rank and size are the round's."""

    def draw(public):
        return jax.random.normal(public.key)[None]

    a = aggregators.around(
        probe(),
        before=lambda x, public: jnp.concatenate([x, draw(public)]),
        after=lambda told, public: {**told, "outside": draw(public), "size": public.like.size},
    )
    x = jnp.zeros((3, 4))
    told, state, metrics = aggregators.aggregate(jax.random.key(0), a, x, round=7)
    assert a.combine is fjx.STACK
    assert (int(state), int(metrics["told"])) == (6, 5)
    for name in ("encode", "contribute", "finish"):
        assert set(np.ravel(told[name]["like"]).tolist()) == {5}
        assert set(np.ravel(told[name]["round"]).tolist()) == {7}
        assert set(np.ravel(told[name]["size"]).tolist()) == {3}
        assert len(np.unique(told[name]["shared"])) == 1
    assert told["encode"]["rank"].tolist() == told["contribute"]["rank"].tolist() == [0, 1, 2]
    assert told["size"] == 4
    # The key of what is around it is another one.
    assert float(told["outside"][0]) != float(told["finish"]["shared"])


# ------------------------------------------------------------------------------------------ switch


def counted(aggregator):
    """The same, with the number of its rounds for a state and a metric."""

    def finish(key, total, public):
        message, _, _ = aggregator.finish(key, total, public)
        return message, public.state + 1, {"rounds": public.state + 1}

    return aggregator._replace(init=lambda like: jnp.int32(0), finish=finish)


def test_a_switch_by_the_round_is_one_aggregator_in_each():
    options = [counted(aggregators.mean()), counted(aggregators.scaled_sum(10.0))]
    a = aggregators.switch(lambda public: public.round % 2, *options)
    x, state = jnp.array([1.0, 2.0, 6.0]), None
    expected = [3.0, 0.9, 3.0, 0.9, 3.0]
    for t in range(5):
        message, state, metrics = aggregators.aggregate(
            jax.random.key(t), a, x, state=state, round=t
        )
        np.testing.assert_allclose(message, expected[t], rtol=1e-6)
        # The state of the other option rests; a metric of both is that of the chosen one.
        assert [int(s) for s in state] == [t // 2 + 1, (t + 1) // 2]
        assert int(metrics["rounds"]) == t // 2 + 1


def test_a_switch_by_a_coin_is_the_same_for_all_and_for_the_server():
    """60 rounds: the results are those of one option or the other, and both occur."""
    other = aggregators.around(
        aggregators.mean(), before=lambda x, public: x, after=lambda x, public: -3 * x
    )
    a = aggregators.switch(
        lambda public: jax.random.bernoulli(public.key), aggregators.mean(), other
    )
    x = jnp.array([1.0, 2.0, 6.0])
    run = jax.jit(jax.vmap(lambda key: aggregators.aggregate(key, a, x)[0]))
    got = np.asarray(run(jax.random.split(jax.random.key(0), 60)))
    assert set(np.round(got, 4).tolist()) == {3.0, -9.0}
    assert 15 < (got > 0).sum() < 45


def test_a_switch_sends_the_payload_of_the_option():
    """Half precision in even rounds; the number of the option is not billed."""
    half = aggregators.around(
        aggregators.mean(),
        before=lambda x, public: x.astype(jnp.bfloat16),
        after=lambda x, public: x,
    )
    a = aggregators.switch(lambda public: public.round % 2, half, aggregators.mean())
    x = jnp.ones(20)
    public = fjx.Public.first(a, x, jax.random.key(0))
    for t, bits in enumerate((320, 640)):
        payload = a.encode(jax.random.key(1), x, public._replace(round=jnp.int32(t)))
        assert int(wire.measured_bits(payload)) == bits
    assert wire.bits(payload) == 640


@pytest.mark.ci
def test_options_that_stack_can_be_switched():
    a = aggregators.switch(
        lambda public: public.round, aggregators.median(), aggregators.majority_vote()
    )
    x = jnp.array([[1.0, -5.0], [2.0, -6.0], [-7.0, 1.0]])
    got = [aggregators.aggregate(jax.random.key(0), a, x, round=t)[0] for t in range(3)]
    np.testing.assert_allclose(got, [[1.0, -5.0], [1.0, -1.0], [1.0, -1.0]])  # no third option


def test_refusals():
    def which(public):
        return public.round

    with pytest.raises(TypeError, match=r"option 1 needs a fjx\.Aggregator"):
        aggregators.switch(which, aggregators.mean(), aggregators.median)
    for options in ([], [aggregators.mean(), aggregators.median()]):
        with pytest.raises(ValueError, match="all that sum or all that stack"):
            aggregators.switch(which, *options)
    with pytest.raises(TypeError, match=r"around needs a fjx\.Aggregator"):
        halved(aggregators.mean)
    with pytest.raises(TypeError, match=r"releasing needs a fjx\.Aggregator"):
        aggregators.releasing(aggregators.mean, MECHANISM)
    with pytest.raises(TypeError, match=r"aggregate needs a fjx\.Aggregator"):
        aggregators.aggregate(jax.random.key(0), aggregators.mean, jnp.ones(2))
    with pytest.raises(TypeError, match="key must be a typed key"):
        aggregators.aggregate(0, aggregators.mean(), jnp.ones(2))
    by_hand = fjx.Public((), jax.random.key(0), 0, 1)
    with pytest.raises(ValueError, match=r"Public\.first"):
        by_hand.like  # noqa: B018


# --------------------------------------------------------------------------------------- aggregate


def test_a_round_by_itself_tells_what_a_round_tells():
    x, weights = jnp.zeros((4, 2)), jnp.array([1.0, 0.0, 2.0, 3.0])
    a = probe()
    told, state, _ = aggregators.aggregate(jax.random.key(0), a, x, weights=weights, round=3)
    assert told["contribute"]["weight"].tolist() == weights.tolist()
    assert told["encode"]["rank"].tolist() == told["contribute"]["rank"].tolist() == [0, 1, 2, 3]
    parts = ("encode", "contribute", "finish")
    assert len(np.unique(np.concatenate([np.ravel(told[n]["shared"]) for n in parts]))) == 1
    own = [np.ravel(told[n]["own"]) for n in ("encode", "finish")]
    assert len(np.unique(np.concatenate(own))) == 5
    for name, value in {"round": 3, "size": 4, "state": 2, "like": 2}.items():
        assert {int(v) for n in parts for v in np.ravel(told[n][name])} == {value}
    told, state, _ = aggregators.aggregate(jax.random.key(0), a, x, state=state)
    assert (int(told["finish"]["state"]), int(state)) == (3, 4)
    assert told["contribute"]["weight"].tolist() == [1.0] * 4


def test_sums_keep_their_dtype():
    """Integers of a secure sum wrap: 200 + 100 = 44 mod 2^8."""
    a = Aggregator(
        lambda like: (),
        lambda payload, weight, public: payload,
        lambda key, total, public: (total, (), {}),
        fjx.SUM,
    )
    total = aggregators.aggregate(jax.random.key(0), a, jnp.array([200, 100], jnp.uint8))[0]
    assert (int(total), total.dtype) == (44, jnp.uint8)
