"""What codecs and memories may do to a private sum: on clients anything, on the server nothing.

One client of the cohort differs between two worlds, in its data of this round and of all rounds before,
hence in everything that it remembers.  What the server released so far is the same in both, as the
composition theorems have it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import aggregators, clients, compressors, privacy, rounds, samplers, servers
from fjx._base import Cohort, Examples

CLIP_NORM, DIM, CLIENTS, COHORT = 0.7, 8, 4, 2
QUIET = privacy.gaussian(clip_norm=CLIP_NORM, noise_multiplier=0.0)
jitted = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def loss_fn(w, x, key):
    return -jnp.mean(x @ w)  # a client sends the mean of its examples


SENDS = clients.gradient(loss_fn, batch_size=1)
CODECS = {
    "nothing": {},
    "rand_k": {"uplink": compressors.rand_k(0.25)},  # scales by d / k = 4
    "rotated": {"uplink": compressors.rotated(compressors.quantize(bits=2))},
    "error feedback": {"uplink": compressors.error_feedback(compressors.top_k(0.25))},
    "differences": {
        "uplink": rounds.difference(compressors.top_k(0.25), num_clients=CLIENTS)["uplink"]
    },
    "momentum": {"client": clients.averaged(SENDS, eta=0.1)},
    "all rotated": {"aggregator": aggregators.rotated(aggregators.private(QUIET, denominator=1))},
    "rand_k of all": {
        "aggregator": aggregators.compressed(
            compressors.rand_k(0.25), aggregators.private(QUIET, denominator=1)
        )
    },
}


def composed(slots):
    default = {"client": SENDS, "aggregator": aggregators.private(QUIET, denominator=1)}
    return fjx.compose(**default | slots)


def worlds(algorithm, params, rounds, *, released):
    """Both worlds for several rounds: what was released in each of them, ``[rounds, 2, ...]``."""

    @jitted
    def one_round(key, state, rows, x, weights):
        ids = jnp.arange(CLIENTS, dtype=jnp.int32)
        examples = Examples(x, offset=ids, size=jnp.ones_like(ids))
        cohort = Cohort(ids, weights, examples, jnp.int32(CLIENTS), jnp.int32(0))
        after, rows, _ = algorithm.round(key, state, rows, cohort)
        return after, rows

    rng = np.random.default_rng(3)
    state = algorithm.init(params)
    rows = jax.vmap(lambda _: algorithm.init_client(state.params))(jnp.arange(CLIENTS))
    rows = [rows, rows]
    found = []
    for t in range(rounds):
        x = np.float32(rng.standard_normal((CLIENTS, DIM)) * 10.0 ** rng.uniform(-2, 4))
        other = x.copy()
        # The client sends the opposite, something else, something broken; or it stays away.
        other[0] = [-x[0], -1e3 * x[0], np.roll(x[0], 1), np.full(DIM, 3e38), np.full(DIM, np.nan)][
            t % 5
        ]
        present = np.ones(CLIENTS, np.float32)
        absent = present.copy()
        absent[0] = 0 if t % 5 == 2 else 1
        key = jax.random.key(t)
        after, new_rows = zip(*[
            one_round(jax.random.clone(key), state, rows[i], [x, other][i], [present, absent][i])
            for i in range(2)
        ], strict=True)  # fmt: skip
        # Whoever is the same in both worlds remembers the same.
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a[1:], b[1:]), new_rows[0], new_rows[1]
        )
        rows = list(new_rows)
        found.append([released(before=state, after=a) for a in after])
        state = after[0]
    return np.asarray(found, np.float64)


def model_moved(before, after):
    return np.float64(after.params) - np.float64(before.params)


FAST = ("rand_k", "error feedback")
ROWS = [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CODECS]


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ROWS)
def test_what_a_client_does_or_remembers_moves_one_round_by_the_bound(name):
    algorithm = composed(CODECS[name])
    found = worlds(algorithm, jnp.zeros(DIM), 10, released=model_moved)
    apart = np.linalg.norm(found[:, 0] - found[:, 1], axis=1)
    left = np.arange(10) % 5 == 2
    rounding = 1e-5  # of the model, which is as large as a few clip norms
    assert 1.6 * CLIP_NORM < apart.max() <= 2 * CLIP_NORM + rounding
    assert 0.99 * CLIP_NORM < apart[left].max() <= CLIP_NORM + rounding


@pytest.mark.slow
def test_clipping_before_a_codec_would_enlarge():
    """The other order, which no slot of compose has: rand_k scales what is kept by d/k."""
    clipped = privacy.clip_by_global_norm(jnp.eye(DIM)[0], CLIP_NORM).update
    codec = compressors.rand_k(0.25)
    keys = jax.random.split(jax.random.key(0), 20)
    sent = jitted(jax.vmap(lambda key: codec.decode(codec.encode(key, clipped, ())[0])))(keys)
    assert np.linalg.norm(sent, axis=1).max() > 3.9 * CLIP_NORM


def test_a_server_that_sums_raw_messages_is_not_private():
    """The memory of difference codecs: any client moves it as far as it likes, with nothing refused."""
    slots = rounds.difference(compressors.top_k(0.25), num_clients=CLIENTS)
    found = worlds(composed(slots), jnp.zeros(DIM), 5, released=model_moved)
    assert np.linalg.norm(found[:, 0] - found[:, 1], axis=1).max() > 1e3 * CLIP_NORM
    # The two ends come together, so a private aggregator cannot take the place of one by mistake.
    with pytest.raises(TypeError, match="multiple values for keyword argument 'aggregator'"):
        fjx.compose(client=SENDS, aggregator=aggregators.private(QUIET, denominator=1), **slots)


# --------------------------------------------------------------------------------------------------
# SCAFFOLD: two fields, two releases
# --------------------------------------------------------------------------------------------------

Z_PARAMS, Z_CONTROL = 1.25, 5 / 3  # (0.8^2 + 0.6^2)^(-1/2) = 1


def scaffold(control):
    return fjx.compose(
        client=clients.scaffold(loss_fn, learning_rate=0.1, steps=2, batch_size=1),
        aggregator=aggregators.per_field(
            params=aggregators.private(QUIET, denominator=COHORT), control=control
        ),
        server=servers.scaffold(optax.sgd(1.0)),
    )


def both_moved(before, after):
    """Model and control variate, in units of the noise that each would have."""
    model = model_moved(before, after) * COHORT / (Z_PARAMS * CLIP_NORM)
    control = np.float64(after.server.control) - np.float64(before.server.control)
    return np.stack([model, control * CLIENTS / (Z_CONTROL * CLIP_NORM)])


@pytest.mark.ci
def test_two_private_fields_are_two_releases():
    algorithm = scaffold(aggregators.private(QUIET, denominator=CLIENTS))
    found = worlds(algorithm, jnp.zeros(DIM), 10, released=both_moved)
    apart = found[:, 0] - found[:, 1]
    model, control = (np.linalg.norm(apart[:, i], axis=1) for i in range(2))
    together = np.hypot(model, control)
    assert together.max() <= 2 + 1e-4
    assert together.max() > 2 * (1 - 1e-3)
    # One release would not have covered it.
    assert together.max() > 1.2 * 2 / Z_PARAMS


@pytest.mark.slow
def test_a_raw_control_variate_undoes_the_noise():
    algorithm = scaffold(aggregators.scaled_sum(CLIENTS))
    found = worlds(algorithm, jnp.zeros(DIM), 5, released=both_moved)
    apart = np.linalg.norm(found[:, 0] - found[:, 1], axis=2)
    assert apart[:, 0].max() <= 2 / Z_PARAMS + 1e-4
    assert apart[:, 1].max() > 1e3


def test_fields_of_one_cohort_are_accounted_as_one_draw():
    joint = privacy.gaussian(clip_norm=1.0, noise_multiplier=(Z_PARAMS**-2 + Z_CONTROL**-2) ** -0.5)
    claim = functools.partial(
        privacy.epsilon, sampler=samplers.poisson(0.01), delta=1e-5, method="rdp"
    )
    assert claim(joint, rounds=1000) == pytest.approx(2.1014, abs=1e-3)
    # As if the fields were of cohorts of their own: two rounds for one, and too small.
    equal = privacy.gaussian(clip_norm=1.0, noise_multiplier=2**0.5)
    assert claim(equal, rounds=2000) < claim(joint, rounds=1000) - 0.5
    # Without sampling there is no difference.
    full = functools.partial(privacy.epsilon, sampler=samplers.full(), delta=1e-5, method="rdp")
    assert full(equal, rounds=20) == pytest.approx(full(joint, rounds=10), rel=1e-9)
