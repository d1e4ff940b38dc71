"""Optimisers of local steps: what they are told, what their last step is, and which cannot work.

Some of optax multiply a float by a bool, which our tests forbid elsewhere.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import Examples, Turn, clients, servers

pytestmark = pytest.mark.usefixtures("promoting")


@pytest.fixture
def promoting():
    with jax.numpy_dtype_promotion("standard"):
        yield


def linear(w, x, key):
    """A loss with the gradient -mean(x), and the value -w mean(x)."""
    return -w * jnp.mean(x)


def local(optimizer, loss_fn=linear, batch_size=4):
    return clients.local_sgd(loss_fn, optimizer, epochs=1, batch_size=batch_size)


THREES = np.full(64, 3.0, np.float32)


def message(client, size, start=0.0, arrays=THREES):
    window = Examples(jnp.asarray(arrays), jnp.int32(0), jnp.asarray(size, jnp.int32))
    return client.update(jax.random.key(0), jnp.float32(start), (), window, Turn())[0]


def trace(client):
    return jax.eval_shape(functools.partial(message, client), 8)


def test_the_loss_its_gradient_and_its_function_are_those_of_the_batch():
    """The model becomes what the optimiser was told, in three digits of its own each."""

    def update(gradient, state, params, *, value, grad, value_fn):
        told = 100 * value + 10 * grad + value_fn(params + 1)
        return told - params, state

    teller = optax.GradientTransformationExtraArgs(lambda params: (), update)
    moved = jax.jit(lambda: message(local(teller), 4, start=2.0))()
    assert moved == 100 * -6.0 + 10 * -3.0 + -9.0 - 2.0


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
        optax.lbfgs(),
        optax.polyak_sgd(),
        optax.MultiSteps(optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), 2),
        optax.MultiSteps(optax.polyak_sgd(), 2).gradient_transformation(),
    ],
    ids=["plateau", "lbfgs", "polyak", "accumulated plateau", "accumulated polyak"],
)
def test_optimisers_that_want_the_loss_get_it(optimizer):
    trace(local(optimizer, lambda w, x, key: jnp.mean((w - x) ** 2)))


def test_an_optimiser_without_further_arguments_is_given_none():
    plain = optax.GradientTransformation(lambda params: (), lambda g, s, p=None: (g, s))
    trace(local(plain))


def test_gradients_that_are_accumulated_when_a_client_ends_make_a_last_step():
    """All gradients are -3, so that a client of b batches moves by 3 ceil(b / 4)."""
    client = local(optax.MultiSteps(optax.sgd(1.0), 4))
    sizes = np.array([0, 1, 4, 10, 16, 17, 40, 64])
    moved = jax.jit(jax.vmap(functools.partial(message, client)))(sizes)
    batches = -(-sizes // 4)
    np.testing.assert_array_equal(moved, 3.0 * -(-batches // 4))


@pytest.mark.slow
def test_the_last_step_is_by_the_mean_of_the_batches_that_are_left():
    client = local(optax.MultiSteps(optax.sgd(1.0), 3), batch_size=1)
    arrays = np.array([1.0, 1.0, 1.0, 1.0, 5.0], np.float32)
    moved = jax.jit(lambda: message(client, 5, arrays=arrays))()
    # Whatever the order, 5 is in one of the groups of three and two gradients.
    assert float(moved) in (pytest.approx(1 + 6 / 2), pytest.approx(7 / 3 + 1))


NOISE = optax.add_noise(0.1, 0.5, jax.random.key(0))
LEGACY = optax.GradientTransformation(
    lambda params: jax.random.PRNGKey(0), lambda gradient, state, params=None: (gradient, state)
)
INSIDE = optax.chain(optax.clip(1.0), optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation())


@pytest.mark.parametrize(
    ("optimizer", "error", "words"),
    [
        (optax.chain(NOISE, optax.sgd(0.1)), ValueError, "the same noise in every round"),
        (optax.chain(LEGACY, optax.sgd(0.1)), ValueError, "the same noise in every round"),
        (optax.MultiSteps(NOISE, 2), ValueError, "the same noise in every round"),
        (optax.lookahead(optax.sgd(0.1), 2, 0.5), TypeError, r"two copies.*server=optax\.sgd"),
        (INSIDE, TypeError, "would be lost: put optax.MultiSteps outermost"),
        (optax.MultiSteps(optax.MultiSteps(optax.sgd(1.0), 2), 2), TypeError, "would be lost"),
        (optax.contrib.sophia(0.1), (TypeError, ValueError), ""),
    ],
)
def test_optimisers_that_cannot_make_local_steps_are_refused(optimizer, error, words):
    with pytest.raises(error, match=f"optimizer.*{words}"):
        trace(local(optimizer))


def test_dp_sgd_does_not_tell_its_optimiser_the_loss():
    """The loss is not noised, so that no step may depend on it."""
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    client = clients.dp_sgd(
        linear, plateau, clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, steps=1,
        batch_size=2, capacity=4,
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"optimizer failed.*'value'"):
        trace(client)


def test_a_server_has_no_loss():
    server = servers.from_optax(optax.contrib.reduce_on_plateau())
    state = server.init(jnp.float32(0.0))
    with pytest.raises(TypeError, match=r"server's optax transformation failed.*no loss"):
        jax.eval_shape(server.update, state, jnp.float32(1.0))
