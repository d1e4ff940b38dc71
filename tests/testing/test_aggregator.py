"""Aggregators that break one law each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import STACK, SUM, Aggregator, aggregators, privacy, testing
from fjx.testing import _aggregator

MEAN = aggregators.mean()


def contributing(contribute, encode=None):
    """The mean of other contributions."""
    return MEAN._replace(contribute=contribute, encode=encode)


def scaled(factor, tree):
    return jax.tree.map(lambda x: factor * x.astype(jnp.float32), tree)


def finishing(change):
    def finish(key, total, public):
        message, state, metrics = MEAN.finish(key, total, public)
        return change(key, message, total), state, metrics

    return MEAN._replace(finish=finish)


KEPT = []


def keeps_the_message(key, message, public):
    KEPT[:] = [message]
    return jnp.zeros(1)


def contributes_the_kept(payload, weight, public):
    return scaled(weight, KEPT[0]), weight


def first_slot_twice(key, total, public):
    """A stacked mean in which the first slot counts twice."""
    messages, weights = total
    weights = weights.at[0].multiply(2)

    def mean(x):
        return jnp.tensordot(weights, x, 1) / jnp.maximum(jnp.sum(weights), 1)

    return jax.tree.map(mean, messages), public.state, {}


@jax.custom_batching.custom_vmap
def doubled_in_a_batch(x):
    return x


@doubled_in_a_batch.def_vmap
def _(axis_size, batched, x):
    return 2 * x, True


def key_used_twice(key, message, public):
    shared = jax.random.uniform(public.key) + jax.random.normal(public.key)
    return jax.tree.map(lambda x: x + shared.astype(x.dtype), message)


NOISY = aggregators.private(privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0), 4.0)

BROKEN = {
    "keeps_structure_and_dtypes": (
        MEAN._replace(
            contribute=lambda x, w, public: (jax.tree.map(lambda a: w.astype(a.dtype) * a, x), w),
            finish=lambda key, total, public: (total[0], public.state, {}),
        ),
        "in bfloat16",
        "bfloat16",
    ),
    "contributes_what_was_sent": (
        contributing(contributes_the_kept, keeps_the_message),
        "five clients",
        "UnexpectedTracerError",
    ),
    "costs_the_bits_of_its_bytes": (
        contributing(MEAN.contribute, lambda key, message, public: (message, jax.random.key(0))),
        "slot 0",
        "TypeError",
    ),
    "sound_messages_give_a_finite_result": (
        MEAN._replace(
            finish=lambda key, total, public: (
                jax.tree.map(lambda x: x / total[1], total[0]), public.state, {},
            )
        ),
        "weight zero",
        "NaN or infinity",
    ),
    "every_message_counts": (
        finishing(lambda key, message, total: jax.tree.map(jnp.zeros_like, message)),
        "another message",
        "the same",
    ),
    "a_client_of_weight_zero_changes_nothing": (
        contributing(lambda x, w, public: (scaled(w, x), jnp.ones(()))),
        "five clients",
        "without it",
    ),
    "the_order_of_slots_does_not_matter": (
        Aggregator(
            lambda like: (), lambda x, w, public: (scaled(1, x), w), first_slot_twice, STACK,
        ),
        "other slots",
        "instead of",
    ),
    "nobody_gives_zeros": (
        finishing(lambda key, message, total: jax.tree.map(lambda x: x + 1, message)),
        "weight zero",
        "not zeros at",
    ),
    "vmap_is_a_loop": (
        contributing(lambda x, w, public: (scaled(doubled_in_a_batch(w), x), w)),
        "rank 1",
        "in a batch",
    ),
    "is_a_pure_function": (
        contributing(
            lambda x, w, public: (scaled(w * np.float32(np.random.default_rng().normal()), x), w)
        ),
        "two traces of contribute",
        "different programs",
    ),
    "a_claimed_result_does_not_depend_on_who_else_came": (
        aggregators.releasing(
            NOISY._replace(
                contribute=lambda payload, weight, public: NOISY.contribute(
                    scaled(jnp.where(public.rank % 2, 1.0, -1.0), payload), weight, public
                )
            ),
            *NOISY.mechanisms,
        ),
        "rank 2 among six",
        "its share has",
    ),
    "uses_each_key_once": (
        contributing(MEAN.contribute, key_used_twice),
        "jax_debug_key_reuse",
        "KeyReuseError",
    ),
}  # fmt: skip


def test_every_law_is_broken_once():
    assert BROKEN.keys() == {law.__name__ for law in _aggregator.LAWS}


@pytest.mark.few(4)
@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_aggregator_is_found(law):
    aggregator, given, found = BROKEN[law]
    laws = {one.name: one for one in testing.aggregator_laws(aggregator)}
    with jax.debug_key_reuse(False), pytest.raises(testing.LawError) as failure:
        laws[law].check()
    assert failure.value.law == law
    assert given in failure.value.given
    assert found in failure.value.found


def test_noise_that_is_claimed_is_there_without_anybody():
    def finish(key, total, public):
        message, state, metrics = NOISY.finish(key, total, public)
        return jax.tree.map(lambda x: jnp.where(total.clients > 0, x, 0.0), message), state, metrics

    quiet = aggregators.releasing(
        NOISY._replace(finish=finish), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)
    )
    laws = {one.name: one for one in testing.aggregator_laws(quiet)}
    with pytest.raises(testing.LawError, match="noise is claimed"):
        laws["nobody_gives_zeros"].check()


@pytest.mark.ci
def test_a_noised_sum_over_the_size_of_the_cohort_is_found():
    def finish(key, total, public):
        message, state, metrics = NOISY.finish(key, total, public)
        return scaled(1 / public.size.astype(jnp.float32), message), state, metrics

    realised = aggregators.releasing(NOISY._replace(finish=finish), *NOISY.mechanisms)
    with pytest.raises(testing.LawError, match="the result has other bits"):
        testing.check_aggregator(realised)


@pytest.mark.ci
def test_weights_under_a_claim_are_checked_behind_an_encode_as_well():
    """An encode of its own does not make clients add noise."""
    rotated = aggregators.rotated(NOISY)

    def contribute(payload, weight, public):
        return rotated.contribute(payload + 1.0, jnp.float32(1), public)

    counts_all = aggregators.releasing(rotated._replace(contribute=contribute), *rotated.mechanisms)
    like = jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(testing.LawError, match="a_client_of_weight_zero_changes_nothing"):
        testing.check_aggregator(counts_all, like)
    testing.check_aggregator(rotated, like)


def test_a_share_from_the_message_and_not_from_what_was_sent_is_found():
    """It sends half precision, and adds up the message itself."""

    def encode(key, message, public):
        KEPT[:] = [message]
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), message)

    with pytest.raises(testing.LawError, match="contributes_what_was_sent"):
        testing.check_aggregator(contributing(contributes_the_kept, encode))


def test_an_aggregator_of_one_s_own_passes():
    """A sum over the square root of the number of clients."""

    def contribute(payload, weight, public):
        counts = (weight > 0).astype(jnp.float32)
        return scaled(counts, payload), counts

    def finish(key, total, public):
        summed, count = total
        return scaled(jax.lax.rsqrt(jnp.maximum(count, 1)), summed), public.state, {"came": count}

    testing.check_aggregator(Aggregator(lambda like: (), contribute, finish, SUM))
