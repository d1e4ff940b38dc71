"""The rewriting of whole functions: nothing but convolutions and poolings changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fjx
from fjx import clients, data, layers, samplers


class Net(nn.Module):
    """Convolutions, a pooling, an activation with a derivative of its own."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.gelu(nn.Conv(16, (3, 3), strides=(2, 2))(x))
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


NET = Net()
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
PARAMS = jax.jit(NET.init)(jax.random.key(0), X)
REPLACED = ("conv_general_dilated", "reduce_window", "select_and_scatter")


def plain(params, x):
    return jnp.sum(NET.apply(params, x) ** 2)


def inside_jit(params, x):
    return jax.jit(plain)(params, x)


def inside_checkpoint(params, x):
    return jax.checkpoint(plain)(params, x)


def inside_scan(params, x):
    def step(carry, row):
        loss = plain(params, row[None])
        return (carry[0] + loss, carry[1]), (loss, row[0, 0])

    (total, _), (losses, _) = jax.lax.scan(step, (0.0, 1), x, reverse=True)
    return total + jnp.sum(losses * jnp.arange(4.0))


def inside_branches(params, x):
    branches = [lambda p, x: plain(p, x), lambda p, x: jnp.float32(1), lambda p, x: plain(p, 2 * x)]
    return jax.lax.switch(2, branches, params, x)


def inside_a_loop(params, x):
    start = jax.lax.stop_gradient(params)
    return jax.lax.fori_loop(0, 3, lambda i, total: total + plain(start, x), plain(params, x))


FUNCTIONS = [plain, inside_jit, inside_checkpoint, inside_scan, inside_branches, inside_a_loop]


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.few(1)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_and_gradients_are_the_same_and_no_slow_operation_is_left(function):
    safe = layers.loop_safe(function)
    both = [jax.jit(jax.value_and_grad(f)) for f in (safe, function)]
    assert_close(both[0](PARAMS, X), both[1](PARAMS, X))
    text = str(jax.make_jaxpr(jax.grad(safe))(PARAMS, X))
    assert not [name for name in REPLACED if name in text]
    assert "conv_general_dilated" in str(jax.make_jaxpr(function)(PARAMS, X))


@pytest.mark.slow
def test_forward_mode_and_vmap_over_models():
    many = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
    tangent = jax.tree.map(jnp.cos, many)

    def slopes(f):
        mapped = jax.vmap(f, (0, None))
        return jax.jvp(lambda p: mapped(p, X), (many,), (tangent,))

    assert_close(*(jax.jit(slopes, static_argnums=0)(f) for f in (layers.loop_safe(plain), plain)))


@pytest.mark.slow
def test_other_functions_are_the_same_program():
    def f(x, scale=2.0):
        key = jax.random.key(0)
        y = nn.gelu(x) * scale + jax.random.normal(key, x.shape)
        y = jax.lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y), y)
        return {"y": jax.jit(nn.relu)(y), "n": (jnp.argmax(y), None)}

    safe = layers.loop_safe(f)
    assert str(jax.make_jaxpr(safe)(X)) == str(jax.make_jaxpr(f)(X))
    assert jax.tree.structure(safe(X, scale=3.0)) == jax.tree.structure(f(X))


def test_functions_with_derivatives_of_their_own_keep_them():
    @jax.custom_vjp
    def f(params):
        return plain(params, X)

    def ones(params, g):
        return (jax.tree.map(jnp.ones_like, params),)

    f.defvjp(lambda params: (f(params), params), ones)
    gradient = jax.jit(jax.grad(layers.loop_safe(f)))(PARAMS)
    assert all((g == 1).all() for g in jax.tree.leaves(gradient))


def doubled(convolve):
    """A custom rule that convolves, for an operand that is not floating too."""

    @jax.custom_vjp
    def f(x, w, n):
        return convolve(x, w) * n.astype(jnp.float32)

    def back(kept, g):
        return (*jax.vjp(convolve, *kept)[1](2 * g), None)

    f.defvjp(lambda x, w, n: (f(x, w, n), (x, w)), back)
    return f


def tripled(convolve):
    @jax.custom_jvp
    def f(x, w, n):
        return convolve(x, w) * n.astype(jnp.float32)

    @f.defjvp
    def rule(primals, tangents):
        x, w, _ = primals
        return f(*primals), 3 * convolve(x, tangents[1]) + convolve(tangents[0], w)

    return f


@pytest.mark.parametrize("make", [doubled, tripled])
def test_convolutions_inside_custom_rules_are_replaced_and_the_rules_hold(make):
    def convolve(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)

    f, kernel = make(convolve), jnp.cos(jnp.arange(18.0)).reshape(3, 3, 1, 2)

    def slopes(f):
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w, jnp.int32(2)))), (0, 1))

    safe = slopes(layers.loop_safe(f))
    assert_close(jax.jit(safe)(X, kernel), jax.jit(slopes(f))(X, kernel))
    assert "conv_general_dilated" in str(jax.make_jaxpr(slopes(f))(X, kernel))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(safe)(X, kernel))


def test_clients_rewrite_their_loss():
    """A round of a convolutional net holds none of XLA's convolutions."""
    dataset = data.from_clients([{"x": np.ones((2, 8, 8, 1), np.float32)}])
    client = clients.local_sgd(
        lambda params, batch, key: plain(params, batch["x"]), optax.sgd(0.1), epochs=1, batch_size=1
    )
    program = fjx.simulation.program(fjx.compose(client=client), dataset, sampler=samplers.full())
    state = program.init(PARAMS)
    text = str(jax.make_jaxpr(lambda key: program.run(key, state, 1))(jax.random.key(0)))
    assert not [name for name in REPLACED if name in text]
