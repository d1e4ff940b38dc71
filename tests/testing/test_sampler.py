"""Samplers that break one law each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import samplers, testing
from fjx.testing import _sampler

UNIFORM = samplers.uniform(4)


def changing(sampler, **changes):
    """A sampler of which some fields of each sample are changed."""

    def sample(key, t, n):
        drawn = sampler.sample(key, t, n)
        return drawn._replace(**{name: change(drawn, n) for name, change in changes.items()})

    return sampler._replace(sample=sample)


def drawing(ids, subsampling=None):
    """A sampler of four slots from ``(key, t, n) -> ids``."""

    def sample(key, t, n):
        return samplers.Sample(ids(key, t, n), jnp.ones(4, bool), jnp.int32(0))

    return samplers.Sampler(sample, lambda n: 4, subsampling)


def first_four_more_often(key, t, n):
    """One coin a round: four of all clients, or the first four."""
    key_coin, key_draw = jax.random.split(jax.random.fold_in(key, t))
    some = jax.random.permutation(key_draw, jnp.arange(n, dtype=jnp.int32))[:4]
    return jnp.where(jax.random.bernoulli(key_coin, 0.1), jnp.arange(4, dtype=jnp.int32), some)


def in_pairs(key, t, n):
    """Two pairs of neighbours: each client as often as another, and never without its neighbour."""
    key = jax.random.fold_in(key, t)
    pairs = jax.random.permutation(key, jnp.arange(n // 2, dtype=jnp.int32))[:2]
    return jnp.concatenate([2 * pairs, 2 * pairs + 1])


def same_in_every_round(key, t, n):
    return jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))[:4]


def key_used_twice(key, t, n):
    offset = jax.random.randint(key, (), 0, 2)
    return jnp.roll(jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32)), offset)[:4]


@jax.custom_batching.custom_vmap
def reversed_in_a_batch(ids):
    return ids


@reversed_in_a_batch.def_vmap
def _(axis_size, batched, ids):
    return ids[..., ::-1], True


BROKEN = {
    "has_a_fixed_number_of_slots": (
        UNIFORM._replace(capacity=lambda n: 5),
        "10 clients",
        "int32[4], capacity is 5",
    ),
    "slots_hold_distinct_clients_or_padding": (
        changing(UNIFORM, ids=lambda drawn, n: drawn.ids.at[1].set(drawn.ids[0])),
        "10 clients",
        "in one round",
    ),
    "nobody_drops_out_of_padding": (
        changing(samplers.poisson(0.3), taking_part=lambda drawn, n: drawn.ids < n),
        "10 clients",
        "False in a slot of padding",
    ),
    "truncates_only_if_slots_are_full": (
        changing(samplers.poisson(0.3), truncated=lambda drawn, n: jnp.int32(1)),
        "10 clients",
        "slots free",
    ),
    "vmap_is_a_loop": (
        changing(UNIFORM, ids=lambda drawn, n: reversed_in_a_batch(drawn.ids)),
        "round 3",
        "other bits",
    ),
    "is_a_pure_function": (
        changing(
            UNIFORM, ids=lambda drawn, n: (drawn.ids + np.random.default_rng().integers(99)) % n
        ),
        "two traces",
        "different programs",
    ),
    "uses_each_key_once": (drawing(key_used_twice), "jax_debug_key_reuse", "KeyReuseError"),
    "one_client_is_enough": (
        changing(samplers.full(), ids=lambda drawn, n: jnp.maximum(drawn.ids, 2 * (n == 1))),
        "one client",
        "[2]",
    ),
    "clients_come_as_often_as_declared": (
        drawing(first_four_more_often, samplers.FixedSize(4)),
        "400 runs",
        "declared is 0.4000",
    ),
    "pairs_come_as_often_as_declared": (
        drawing(in_pairs, samplers.FixedSize(4)),
        "400 runs",
        "the pair (",
    ),
    "rounds_are_independent_as_declared": (
        drawing(same_in_every_round, samplers.FixedSize(4)),
        "400 runs",
        "in two rounds in a row",
    ),
    "rounds_of_a_client_are_as_declared": (
        samplers.cyclic(3)._replace(subsampling=samplers.Cyclic(4)),
        "24 rounds",
        "not once in each period",
    ),
}


def test_every_law_is_broken_once():
    assert BROKEN.keys() == {law.__name__ for law in _sampler.LAWS}


@pytest.mark.few(4)
@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_sampler_is_found(law):
    sampler, given, found = BROKEN[law]
    laws = {one.name: one for one in testing.sampler_laws(sampler)}
    with pytest.raises(testing.LawError) as failure:
        laws[law].check()
    assert failure.value.law == law
    assert given in failure.value.given
    assert found in failure.value.found


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("sampler", "claimed", "found"),
    [
        (samplers.cyclic(2), samplers.Full(), "a client is missing"),
        (samplers.cyclic_poisson(3, rate=0.4), samplers.CyclicPoisson(3, 0.2, 0.0), "in its turn"),
        (samplers.poisson(0.4), samplers.CyclicPoisson(3, 0.4, 0.0), "no multiple of the period"),
        (samplers.cyclic(3), samplers.BallsInBins(3, 0.0), "in bin 0"),
        (samplers.balls_in_bins(4), samplers.MinSeparated(1, 4, 0.0), "in both rounds 0 and"),
        (samplers.poisson(0.25), samplers.MinSeparated(1, 4, 0.0), "in both rounds 0 and"),
        (samplers.min_separation(3, period=5), samplers.MinSeparated(2, 5, 0.0), "in both rounds"),
        (samplers.cyclic(3), samplers.Scheduled("", 4, lambda rounds: rounds), "are 3 apart"),
        (samplers.cyclic(3), samplers.Scheduled("", 3, lambda rounds: rounds // 4), "most(1) is 0"),
        (samplers.poisson(0.4), samplers.Poisson(0.3, None, 0.0), "declared is 0.3000"),
        (samplers.poisson(0.5, cap=4), samplers.Poisson(0.5, None, 0.0), "declared is 0.5000"),
    ],
)
def test_every_description_is_tested(sampler, claimed, found):
    """Each of these samplers keeps the laws under its own description."""
    with pytest.raises(testing.LawError, match="as_declared") as failure:
        testing.check_sampler(sampler._replace(subsampling=claimed))
    assert found in failure.value.found


def test_a_population_too_small_is_said():
    with pytest.raises(testing.LawError, match="give num_clients="):
        testing.check_sampler(samplers.uniform(11))
    testing.check_sampler(samplers.uniform(11), num_clients=12)
