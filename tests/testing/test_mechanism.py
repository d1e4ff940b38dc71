"""Private mechanisms that break one law each."""

import functools
import math

import dp_accounting
import jax
import jax.numpy as jnp
import pytest

from fjx import compressors, privacy, testing
from fjx.testing import _central, _distributed, _local

SOUND = privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
HALF = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.5)


def clipping(change):
    """The sound mechanism with ``change(clipped, update)`` of what it clips."""

    def clip(update, weight, state):
        return change(SOUND.clip(update, weight, state), update)

    return SOUND._replace(clip=clip)


def releasing(change):
    """The sound mechanism with ``change(key, noised, total)`` of what it releases."""

    def release(key, total, state):
        noised, state, metrics = SOUND.release(jax.random.clone(key), total, state)
        return change(key, noised, total.update), state, metrics

    return SOUND._replace(release=release)


def one_noise_for_all(key, noised, total):
    """The same number in every coordinate."""
    noise = jax.random.normal(key)
    return jax.tree.map(lambda x: x + noise, total)


def noise_with_the_sum(key, noised, total):
    """A client that came makes the noise twice as wide."""
    size = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(total)))
    return jax.tree.map(lambda y, x: x + (1 + size) * (y - x), noised, total)


CENTRAL = {
    "clip_keeps_the_structure": (
        clipping(lambda own, x: own._replace(update=jax.tree.leaves(own.update))),
        "an update of zeros",
        "structure",
    ),
    "clip_is_within_the_sensitivity": (
        clipping(lambda own, x: own._replace(update=jax.tree.map(lambda u: 2 * u, own.update))),
        "an update of random numbers",
        "l2 norm is 2, and the sensitivity 1",
    ),
    "says_what_it_clips": (
        clipping(lambda own, x: own._replace(clipped=jnp.asarray(False))),
        "an update of random numbers",
        "clipped is False",
    ),
    "a_broken_update_contributes_zeros": (
        clipping(lambda own, x: own._replace(finite=jnp.asarray(True))),
        "an update with NaN at",
        "finite is True",
    ),
    "a_replacement_moves_at_most_twice_as_far": (
        SOUND._replace(sensitivity=lambda relation: 1.0 if "add" in relation else 0.5),
        "replace_one",
        "0.5",
    ),
    "state_keeps_its_structure_and_holds_no_key": (
        SOUND._replace(init=lambda like: jax.random.key(0)),
        "the first state",
        "a key",
    ),
    "noise_has_the_reported_deviation": (
        SOUND._replace(release=HALF.release)._replace(
            release=lambda key, total, state: (
                *HALF.release(key, total, state)[:2], {"noise_std": jnp.float32(1)},
            )
        ),
        "4000 times",
        "noise_std 1",
    ),
    "noise_is_as_wide_as_the_multiplier_says": (
        SOUND._replace(release=HALF.release),
        "4000 times",
        "z C = 1",
    ),
    "noise_of_coordinates_is_independent": (releasing(one_noise_for_all), "4000 times", "correlation"),
    "noise_does_not_depend_on_the_data": (releasing(noise_with_the_sum), "equal keys", "varies"),
    "more_rounds_cost_more": (
        SOUND._replace(event=lambda moves: dp_accounting.NoOpDpEvent()),
        "delta = 1e-3",
        "epsilon is 0",
    ),
    "an_attack_finds_no_more_than_epsilon": (
        SOUND._replace(event=lambda moves: dp_accounting.GaussianDpEvent(1.5 / moves)),
        "moves a coordinate by C",
        "is accounted",
    ),
}  # fmt: skip

SHARED = privacy.distributed_gaussian(
    clip_norm=1.0, noise_multiplier=1.0, granularity=0.05, bits=16, clients=6, dimension=16
)


def encoding(change):
    return SHARED._replace(encode=lambda key, x: change(key, x, SHARED.encode(key, x)))


DISTRIBUTED = {
    "codes_have_the_declared_bits": (SHARED._replace(bits=3), "zeros", "bits = 3"),
    "a_broken_vector_sends_noise_alone": (
        encoding(lambda key, x, own: own._replace(finite=jnp.asarray(True))),
        "NaN",
        "finite is True",
    ),
    "a_sum_decodes_to_the_sum": (
        SHARED._replace(decode=lambda total, n: SHARED.decode(total, n) + 1),
        "within the bound",
        "the mean is off",
    ),
    "noise_is_as_wide_as_declared": (
        SHARED._replace(variance=2 * SHARED.variance),
        "n vectors of zeros",
        "n variance",
    ),
    "is_accounted": (
        SHARED._replace(event=lambda moves: dp_accounting.NoOpDpEvent()),
        "delta = 1e-3",
        "epsilon is 0",
    ),
    "an_attack_on_the_sum_finds_no_more_than_epsilon": (
        SHARED._replace(event=lambda moves: dp_accounting.GaussianDpEvent(2.0 / moves)),
        "one client of n",
        "is accounted",
    ),
}

LOCAL = privacy.local_gaussian(clip_norm=1.0, noise_multiplier=1.0)


def half_the_noise(key, message, state):
    half = privacy.local_gaussian(clip_norm=1.0, noise_multiplier=0.5)
    return half.codec.encode(key, message, state)


LOCALLY = {
    "a_broken_message_is_sent_as_a_sound_one": (
        LOCAL._replace(codec=compressors.identity()),
        "NaN",
        "NaN",
    ),
    "event_costs_no_less_than_epsilon_says": (
        LOCAL._replace(epsilon=-1.0),
        "one message",
        "epsilon = -1",
    ),
    "an_attack_on_a_message_finds_no_more_than_epsilon": (
        LOCAL._replace(codec=LOCAL.codec._replace(encode=half_the_noise)),
        "opposite signs",
        "is accounted",
    ),
}
"""The other laws of a local mechanism are those of its codec, which test_compressor breaks."""


def test_every_law_is_broken_once():
    assert CENTRAL.keys() == {law.__name__ for law in _central.LAWS}
    assert DISTRIBUTED.keys() == {law.__name__ for law in _distributed.LAWS}
    own = {law.__name__ for law in _local.LAWS if law.__module__ == _local.__name__}
    assert LOCALLY.keys() == own


@functools.cache
def broken():
    return {**CENTRAL, **DISTRIBUTED, **LOCALLY}


@pytest.mark.few(7)
@pytest.mark.parametrize("law", [*CENTRAL, *DISTRIBUTED, *LOCALLY])
def test_a_broken_mechanism_is_found(law):
    mechanism, given, found = broken()[law]
    laws = {one.name: one for one in testing.mechanism_laws(mechanism)}
    with pytest.raises(testing.LawError) as failure:
        laws[law].check()
    assert failure.value.law == law
    assert given in failure.value.given
    assert found in failure.value.found


@pytest.mark.ci
def test_a_pure_claim_is_attacked_at_delta_zero():
    """Laplace noise of scale C, which hides a message from C less, and not from its opposite."""
    sound = privacy.local_laplace(epsilon=1.0, clip_norm=1.0)
    claimed = privacy.local_laplace(epsilon=2.0, clip_norm=1.0)._replace(epsilon=1.0)
    testing.check_mechanism(sound)
    with pytest.raises(testing.LawError, match="an_attack_on_a_message"):
        testing.check_mechanism(claimed)


def test_refuses_what_is_no_mechanism():
    with pytest.raises(TypeError, match=r"fjx\.privacy\.Mechanism"):
        testing.check_mechanism(privacy.by_global_norm(1.0))
    assert math.isinf(LOCAL.epsilon)
