"""Attacks on the sensitivity of every bound, alone and under the private aggregator.

Two neighbouring cohorts share all clients but one, who is missing in one of them, or sends something
else.  The attacker chooses everything: at random, with numbers that break arithmetic, and by climbing
the gradient of how far the sum moves, then last bits.  A new bound joins by a row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import Public, privacy
from fjx.aggregators import private

ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
PUBLIC = Public((), None, None, None)
LIKE = {"b": jnp.zeros(()), "w": jnp.zeros((2, 3))}
SIZE = 7
BATCH = 4096  # messages at a time, always, so that a bound is compiled once


def of_mechanism(mechanism):
    state = mechanism.init(LIKE)
    radius = mechanism.sensitivity("add_or_remove_one")
    return privacy.Bound(lambda x, w: mechanism.clip(x, w, state), "l2", radius)


BOUNDS = {
    "global norm": privacy.by_global_norm(0.7),
    "l1": privacy.by_l1_norm(0.7),
    "linf": privacy.by_linf_norm(0.7),
    "direction": privacy.normalized(0.7),
    "groups": privacy.grouped({"w": 0.7, "b": 0.3}),
    "groups in l1": privacy.grouped({"w": privacy.by_l1_norm(0.7), "b": privacy.by_l1_norm(0.3)}),
    "a direction and a group": privacy.grouped({"w": privacy.normalized(0.7), "b": 0.3}),
    "zeroed": privacy.zeroed(privacy.by_global_norm(0.7), above=5.0),
    "zeroed below the radius": privacy.zeroed(privacy.by_global_norm(0.7), above=0.70001),
    "weighted": privacy.weighted(privacy.by_global_norm(0.7), most=3.0),
    "weighted in linf": privacy.weighted(privacy.by_linf_norm(0.7), most=1 / 3),
    "all together": privacy.weighted(
        privacy.zeroed(privacy.grouped({"w": privacy.normalized(0.7), "b": 0.3}), above=9.0), most=7
    ),
    "adaptive": of_mechanism(
        privacy.adaptive_gaussian(initial_clip=0.7, noise_multiplier=0.0, cohort_size=20)
    ),
}
FAST = ("l1", "all together")
ROWS = [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in BOUNDS]


def tree(flat):
    return {"b": flat[0], "w": flat[1:].reshape(2, 3)}


def vector(message):
    return jnp.concatenate([message["b"].reshape(1), message["w"].ravel()])


@functools.cache
def probe(name):
    """``(x, weight, y) -> share of x, the gradient in x of its distance from y`` of BATCH at once."""
    bound = BOUNDS[name]
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=0.0)._replace(
        clip=lambda update, weight, state: bound.clip(update, weight),
        sensitivity=bound.sensitivity,
        to_steps=None,  # the gradient of whole steps is zero
    )
    contribute = private(mechanism, denominator=1).contribute

    def distance(x, weight, y):
        share = vector(contribute(tree(x), weight, PUBLIC).update)
        return jnp.linalg.norm(share - y, ORDERS[bound.norm]), share

    def one(x, weight, y):
        gradient, share = jax.grad(distance, has_aux=True)(x, weight, y)
        return share, jnp.where(jnp.isfinite(gradient), gradient, 0.0)

    return jax.jit(jax.vmap(one), compiler_options={"xla_backend_optimization_level": 0})


def share_of(name, x, weight):
    """Of arrays ``[..., SIZE]`` and ``[...]`` with BATCH messages."""
    flat = np.float32(x).reshape(BATCH, SIZE)
    shares, _ = probe(name)(flat, weight.reshape(BATCH), np.zeros_like(flat))
    return np.asarray(shares).reshape(x.shape)


def length(name, x):
    return np.linalg.norm(x.astype(np.float64), ORDERS[BOUNDS[name].norm], axis=-1)


def hostile(rng, *shape):
    x = rng.standard_normal((*shape, SIZE)) * np.exp(rng.uniform(-60, 60, (*shape, 1)))
    for poison in (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, 0.0):
        x = np.where(rng.random(x.shape) < 0.01, poison, x)
    return np.float32(x)


def weights_of(rng, *shape):
    return np.float32(rng.choice([0.0, 1.0, 1.0, 3.0, 250.0, np.inf, np.nan, -1.0], shape))


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ROWS)
def test_random_cohorts_do_not_move_the_sum_by_more_than_the_bound(name):
    rng = np.random.default_rng(5)
    trials, clients = BATCH // 4, 4
    messages, weights = hostile(rng, trials, clients), weights_of(rng, trials, clients)
    # Some cohorts send the same, with the same weight; some of these are empty but for one.
    same = rng.random(trials) < 0.3
    messages[same], weights[same] = messages[same, :1], weights[same, :1]
    weights[rng.random(trials) < 0.1, 1:] = 0.0
    shares = share_of(name, messages, weights)
    assert np.isfinite(shares).all()
    assert not shares[~(weights > 0) | ~np.isfinite(messages).all(-1)].any()
    radius = float(BOUNDS[name].radius)
    assert length(name, shares).max() <= radius
    total = shares.sum(1)  # in float32, as the aggregator adds
    assert length(name, total - shares[:, 1:].sum(1)).max() <= radius * (1 + 1e-6)
    replaced = shares[:, 1:].sum(1) + shares[::-1, 0]
    assert length(name, total - replaced).max() <= 2 * radius * (1 + 1e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ROWS)
def test_no_search_moves_the_sum_by_more_than_the_bound(name):
    """Pairs of messages climb apart; the best of them reach the bound and do not pass it."""
    rng = np.random.default_rng(6)
    starts = BATCH // 2
    radius = float(BOUNDS[name].radius)
    pair = np.float32(rng.standard_normal((2, starts, SIZE)) * 0.1)
    pair[1, ::2] = -pair[0, ::2]
    weights = np.float32(rng.choice([1.0, 3.0, 250.0], (2, starts)))
    best = share_of(name, pair, weights)

    def consider(candidate):
        nonlocal pair, best
        moved = share_of(name, candidate, weights)
        # What one sends who comes or goes, and the difference where one is replaced.
        assert length(name, moved).max() <= radius
        apart = length(name, moved[0].astype(np.float64) - moved[1])
        assert apart.max() <= 2 * radius
        better = apart > length(name, best[0].astype(np.float64) - best[1])
        pair = np.where(better[:, None], candidate, pair)
        best = np.where(better[:, None], moved, best)

    for _ in range(30):  # along the gradient, by strides of any length
        arguments = (pair.reshape(BATCH, SIZE), weights.ravel(), best[::-1].reshape(BATCH, SIZE))
        gradient = np.asarray(probe(name)(*arguments)[1]).reshape(pair.shape)
        strides = np.linalg.norm(pair, axis=2) * 10.0 ** -rng.uniform(0, 6, (2, starts))
        lengths = np.linalg.norm(gradient, axis=2, keepdims=True)
        consider(np.float32(pair + strides[..., None] * gradient / np.maximum(lengths, 1e-30)))
    for step in range(40):  # coordinates, last bits, the scale of everything, mirror images
        ulps = rng.integers(-2, 3, pair.shape) * np.spacing(pair)
        coordinates = np.where(
            rng.random(pair.shape) < 0.2, np.exp(rng.normal(0, 0.1, pair.shape)), 1
        )
        scales = np.exp(rng.normal(0, 10.0 ** -rng.uniform(0, 7, (1, starts, 1))))
        mirrored = np.stack([pair[0], -pair[0]])
        consider(np.float32([pair + ulps, pair * coordinates, pair * scales, mirrored][step % 4]))
    assert length(name, best).max() > radius * (1 - 1e-4)
    assert length(name, best[0].astype(np.float64) - best[1]).max() > 2 * radius * (1 - 1e-4)
