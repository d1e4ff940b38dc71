"""Scans that differentiate by their weights outside the loop are lax.scan, but for the order of sums."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from fjx.layers import loop_safe
from fjx.layers._recurrent import scan

TIME, BATCH, INPUTS, HIDDEN = 6, 5, 3, 4


def close(found, expected, tolerance=2e-5):
    """To rounding, relative to the largest of a leaf: a small entry may be a sum that cancels."""
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def plain(scan, w, h, xs, reverse=False, unroll=1):
    """Weights on either side, one transposed, one used twice, one that is also added."""

    def step(h, x):
        h = jnp.tanh(h @ w["h"] + x @ w["x"].T + w["bias"])
        h = jax.nn.relu(h + (w["left"] @ h.T).T) + jnp.einsum("bk,kn->bn", h, w["h"])
        return h, jnp.sin(h @ w["both"] + w["both"][:1])

    last, ys = scan(step, h, xs, reverse=reverse, unroll=unroll)
    return jnp.sum(last**2) + jnp.sum(ys)


def nested(scan, w, h, xs):
    """A loop in each step of a loop, both with weights."""

    def step(h, x):
        h, _ = scan(lambda h, _: (jnp.sin(h @ w["h"]), None), h, length=2)
        return jnp.tanh(h @ w["left"] + x @ w["x"].T + w["bias"]), None

    return jnp.sum(scan(step, h, xs)[0])


def integers(scan, w, h, xs):
    """A carry that counts, and a step without inputs from outside."""

    def step(carry, _):
        t, h = carry
        return (t + 1, jnp.sin(h @ w["h"]) * t.astype(h.dtype)), t

    (_, h), times = scan(step, (jnp.int32(0), h), length=TIME)
    return jnp.sum(h) + jnp.sum(times).astype(h.dtype)


BODIES = {
    "plain": plain,
    "reverse": functools.partial(plain, reverse=True),
    "unrolled": functools.partial(plain, unroll=4),
    "nested": nested,
    "integers": integers,
}


def arguments(seed=0, clients=()):
    """Weights of deviation 1/4, with which no step or training amplifies what it is given.

    With 1/2 gradients reach 200, and three steps of 0.01 multiply a difference by up to 340.
    """
    keys = iter(jax.random.split(jax.random.key(seed), 8))

    def draw(*shape, scale=1 / 4):
        return scale * jax.random.normal(next(keys), (*clients, *shape))

    w = {
        "h": draw(HIDDEN, HIDDEN),
        "x": draw(HIDDEN, INPUTS),
        "bias": draw(BATCH, HIDDEN),
        "left": draw(HIDDEN, HIDDEN),
        "both": draw(HIDDEN, HIDDEN),
    }
    return w, draw(BATCH, HIDDEN, scale=0.5), draw(TIME, BATCH, INPUTS, scale=0.5)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_value_and_gradient_are_those_of_lax_scan(body):
    ours, theirs = (
        jax.jit(jax.value_and_grad(functools.partial(body, s), argnums=(0, 1, 2)))(*arguments())
        for s in (scan, lax.scan)
    )
    close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body", [plain, pytest.param(nested, marks=pytest.mark.slow)], ids=["plain", "nested"]
)
def test_forward_mode_and_hessian_products_are_those_of_lax_scan(body):
    primals, tangents = arguments(0), arguments(1)

    @functools.partial(jax.jit, static_argnums=0)
    def products(s):
        f = functools.partial(body, s)
        return (
            jax.jvp(f, primals, tangents),
            jax.jvp(jax.grad(f, argnums=(0, 1, 2)), primals, tangents)[1],
            jax.vjp(jax.grad(f), *primals)[1](tangents[0]),
        )

    close(products(scan), products(lax.scan))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [pytest.param(False, marks=pytest.mark.slow), True])
def test_clients_side_by_side_each_have_their_gradient(shared):
    w, h, xs = arguments(clients=(3,))
    if shared:
        w = jax.tree.map(lambda x: x[0], w)
    gradient = jax.grad(functools.partial(plain, scan))
    together = jax.jit(jax.vmap(gradient, (None if shared else 0, 0, 0)))(w, h, xs)
    alone = jax.jit(jax.grad(functools.partial(plain, lax.scan)))
    for i in range(3):
        mine = w if shared else jax.tree.map(lambda x, i=i: x[i], w)
        close(jax.tree.map(lambda x, i=i: x[i], together), alone(mine, h[i], xs[i]))


@pytest.mark.slow
def test_gradient_of_a_shared_weight_sums_over_a_batch_mapped_inside():
    w, h, xs = arguments(clients=(3,))
    w = jax.tree.map(lambda x: x[0], w)
    ours, theirs = (
        jax.jit(jax.grad(lambda w, s=s: jnp.sum(jax.vmap(functools.partial(plain, s, w))(h, xs))))(
            w
        )
        for s in (scan, lax.scan)
    )
    close(ours, theirs)


@pytest.mark.slow
def test_local_training_in_a_loop_on_two_devices():
    w, h, xs = arguments(clients=(2,))
    w = jax.tree.map(lambda x: x[0], w)
    mesh = jax.make_mesh((2,), ("clients",))

    def train(s, w, h, xs):
        w, h, xs = jax.tree.map(lambda x: x[0], (w, h, xs))

        def step(_, w):
            gradient = jax.grad(functools.partial(plain, s))(w, h, xs)
            return jax.tree.map(lambda w, g: w - 0.01 * g, w, gradient)

        return jax.tree.map(lambda x: x[None], lax.fori_loop(0, 3, step, w))

    inputs = jax.tree.map(lambda x: jnp.stack([x, x]), w), h, xs
    ours, theirs = (
        jax.jit(
            jax.shard_map(
                functools.partial(train, s),
                mesh=mesh,
                in_specs=P("clients"),
                out_specs=P("clients"),
            )
        )(*jax.device_put(inputs, jax.NamedSharding(mesh, P("clients"))))
        for s in (scan, lax.scan)
    )
    close(ours, theirs)


def carries(jaxpr):
    """Shapes carried by the loops of a jaxpr."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            inner = equation.params["jaxpr"]
            results = [x.aval.shape for x in inner.jaxpr.outvars]
            stacked = [x.aval.shape for x in equation.outvars]
            found |= {a for a, b in zip(results, stacked, strict=True) if a == b}
    return found


def test_no_loop_accumulates_a_weight():
    def loss(s, w, xs):
        return jnp.sum(s(lambda h, x: (jnp.sin(h @ w + x), None), xs[0], xs)[0])

    w, xs = jnp.ones((HIDDEN, HIDDEN)), jnp.ones((TIME, BATCH, HIDDEN))
    gradient = {
        s: jax.make_jaxpr(jax.grad(functools.partial(loss, s)))(w, xs) for s in (scan, lax.scan)
    }
    assert carries(gradient[lax.scan]) == {w.shape, xs.shape[1:]}
    assert carries(gradient[scan]) == {xs.shape[1:]}


def test_loops_without_weights_are_left_alone():
    def total(s, scale, xs):
        return s(lambda h, x: (h * scale + x, h @ x), xs[0], xs)

    arguments = jnp.float32(0.5), jnp.ones((TIME, HIDDEN))
    ours, theirs = (
        str(jax.make_jaxpr(functools.partial(total, s))(*arguments)) for s in (scan, lax.scan)
    )
    assert ours == theirs


def test_low_precision_products_keep_the_types_of_lax_scan():
    w, xs = (
        jnp.ones((HIDDEN, HIDDEN), jnp.bfloat16) / 8,
        jnp.ones((TIME, BATCH, HIDDEN), jnp.bfloat16),
    )

    def loss(s, w):
        def step(h, x):
            y = lax.dot(h, w.astype(h.dtype), preferred_element_type=jnp.float32)
            return jnp.sin(y).astype(h.dtype) + x, None

        return jnp.sum(s(step, xs[0], xs)[0].astype(jnp.float32))

    ours, theirs = (jax.jit(jax.grad(functools.partial(loss, s)))(w) for s in (scan, lax.scan))
    assert ours.dtype == theirs.dtype == jnp.bfloat16
    close(ours.astype(jnp.float32), theirs.astype(jnp.float32), 0.05)


def test_loop_safe_finds_the_weights_of_any_scan():
    def loss(w, xs):
        def step(carry, x):
            h, key = carry
            key, key_kept = jax.random.split(key)
            kept = jax.random.bernoulli(key_kept, 0.5, x.shape)
            return (jnp.sin(h @ w + jnp.where(kept, x, 0.0)), key), None

        return jnp.sum(lax.scan(step, (xs[0], jax.random.key(0)), xs)[0][0])

    inputs = jnp.eye(HIDDEN), jnp.ones((TIME, BATCH, HIDDEN))
    ours, theirs = jax.grad(loop_safe(loss)), jax.grad(loss)
    close(jax.jit(ours)(*inputs), jax.jit(theirs)(*inputs))
    shape = (HIDDEN, HIDDEN)
    assert shape in carries(jax.make_jaxpr(theirs)(*inputs))
    assert shape not in carries(jax.make_jaxpr(ours)(*inputs))
