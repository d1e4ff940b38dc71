"""An aggregate for each group: each is that of its members alone, noised if the aggregator is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fjx
from fjx import aggregators, privacy, wire
from fjx.wire import SideInformation

GAUSSIAN = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.5)
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
GROUP = np.array([0, 2, 2, 0, 2, 0], np.uint8)
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0, 1.0, 0.0], np.float32)


def messages(group=GROUP):
    return {"update": jnp.asarray(X), "group": jnp.asarray(group)}


def test_a_group_has_the_result_of_its_members():
    a = aggregators.grouped(aggregators.mean(), 3)
    found, _, _ = aggregators.aggregate(jax.random.key(0), a, messages(), weights=WEIGHTS)
    for g in range(3):
        mine = g == GROUP
        wanted = WEIGHTS[mine] @ X[mine] / max(WEIGHTS[mine].sum(), 1e-9)
        np.testing.assert_allclose(found[g], wanted, atol=1e-6)
    assert not np.asarray(found[1]).any()  # nobody is there


@pytest.mark.slow
def test_a_codec_that_clients_share_is_undone_in_each_group():
    a = aggregators.grouped(aggregators.rotated(aggregators.mean()), 3)
    found, _, _ = aggregators.aggregate(jax.random.key(0), a, messages(), weights=WEIGHTS)
    plain = aggregators.grouped(aggregators.mean(), 3)
    wanted, _, _ = aggregators.aggregate(jax.random.key(0), plain, messages(), weights=WEIGHTS)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_states_are_those_of_the_groups():
    """An adaptive clip norm follows the norms of its own group."""
    mechanism = privacy.adaptive_gaussian(initial_clip=1.0, noise_multiplier=0.0, cohort_size=3)
    a = aggregators.grouped(aggregators.private(mechanism, denominator=3), 2)
    large = {"update": jnp.ones((6, 3)) * jnp.array([9.0, 9, 9, 0.01, 0.01, 0.01])[:, None],
             "group": jnp.array([0, 0, 0, 1, 1, 1], jnp.uint8)}  # fmt: skip
    state = None
    for t in range(3):
        _, state, metrics = aggregators.aggregate(jax.random.key(t), a, large, state=state)
    bounds = jax.tree.leaves(state)[0]
    assert bounds[0] > 1.0 > bounds[1]
    assert {name.split("/")[0] for name in metrics} == {"group0", "group1"}


@pytest.mark.slow
def test_every_group_is_noised_apart_and_the_claim_stays():
    """Of 400 coordinates in each of two groups, one of them empty: the noise has its deviation."""
    alone = aggregators.private(GAUSSIAN, denominator=1)
    a = aggregators.grouped(alone, 2)
    assert a.mechanisms == (GAUSSIAN,)
    x = {"update": jnp.zeros((3, 400)), "group": jnp.zeros(3, jnp.uint8)}
    found = np.asarray(aggregators.aggregate(jax.random.key(0), a, x)[0], np.float64)
    error = 5 * 0.5 / np.sqrt(2 * 400)  # five standard errors
    np.testing.assert_allclose(found.std(1), 0.5, atol=error)
    assert abs(np.corrcoef(found)[0, 1]) < 5 / np.sqrt(400)
    # A client's share is that of the aggregator itself, in one group.
    one = {"update": jnp.full(400, 9.0), "group": jnp.uint8(1)}
    shares = [
        jax.tree.leaves(a.contribute(x, jnp.float32(1), fjx.Public.first(a, x, jax.random.key(0))))
        for a, x in ((a, one), (alone, one["update"]))
    ]
    for share, wanted in zip(*shares, strict=True):
        assert not np.asarray(share[0]).any()
        np.testing.assert_array_equal(share[1], wanted)


def test_a_number_that_the_server_knows_costs_nothing():
    a = aggregators.grouped(aggregators.compressed(fjx.compressors.quantize(bits=8)), 3)
    told, known = ({"update": jnp.ones(3), "group": g} for g in (
        jnp.uint8(1), SideInformation(jnp.uint8(1))
    ))  # fmt: skip
    bits = [
        wire.bits(a.encode(jax.random.key(1), x, fjx.Public.first(a, x, jax.random.key(0))))
        for x in (told, known)
    ]
    assert bits[0] - bits[1] == 8


def test_arguments():
    with pytest.raises(TypeError, match="Aggregator"):
        aggregators.grouped(None, 2)
    with pytest.raises(ValueError, match="groups"):
        aggregators.grouped(aggregators.mean(), 0)
    with pytest.raises(ValueError, match="aggregator that sums"):
        aggregators.grouped(aggregators.median(), 2)
    with pytest.raises(ValueError, match="'update' and 'group'"):
        aggregators.grouped(aggregators.mean(), 2).init(jnp.zeros(3))
    distributed = aggregators.distributed(
        privacy.distributed_gaussian(
            clip_norm=1.0, noise_multiplier=1.0, granularity=0.05, bits=16, clients=6, dimension=16
        ),
        6.0,
    )
    with pytest.raises(ValueError, match="noise that the server adds"):
        aggregators.grouped(distributed, 2)
