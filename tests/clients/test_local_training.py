"""Local training on ragged data: which examples, in which batches, and what losses may be."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fjx import Examples, Stateful, Turn, clients
from fjx.clients._loss import as_loss, value_and_grad

MOST = 8  # examples of the largest client


def window(arrays, size, offset=0):
    return Examples(arrays, jnp.int32(offset), jnp.int32(size))


# --------------------------------------------------------------------------------------------------
# Which examples were seen when: example i is the i-th unit vector, the loss adds the vectors of a
# batch, and step t moves by 2^t, so that the bits of the weights are the history.
# --------------------------------------------------------------------------------------------------


def add_up(w, batch, mask, key):
    return -jnp.sum(jnp.where(mask, batch @ w, 0.0))


doubling = optax.sgd(lambda count: jnp.exp2(count.astype(jnp.float32)))


@functools.partial(jax.jit, static_argnames=("unit",))
def trained(key, size, amount, unit):
    client = clients.local_sgd(
        clients.whole_batch(add_up), doubling, batch_size=3, **{unit: amount}
    )
    return client.update(key, jnp.zeros(MOST), (), window(jnp.eye(MOST), size), Turn())


def seen(key, size, **amount):
    """``bool[steps, examples]``: who was in which batch."""
    (unit, number), *_ = amount.items()
    message, _, metrics = trained(key, size, number, unit)
    steps = int(metrics["steps"])
    bits = np.asarray(message, np.int64)[None] >> np.arange(max(steps, 1))[:, None]
    assert steps < 24  # float32 holds the bits
    assert (np.asarray(message, np.int64) >> steps == 0).all()
    return (bits & 1).astype(bool)[:steps]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8])
def test_an_epoch_uses_every_example_exactly_once(size, getkey):
    batches = seen(getkey(), size, epochs=4)
    per_epoch = -(-size // 3)
    assert len(batches) == 4 * per_epoch
    for epoch in np.split(batches, 4):
        np.testing.assert_array_equal(epoch.sum(0), np.arange(MOST) < size)
        assert epoch.sum(1).tolist() == [3] * (size // 3) + [size % 3] * (size % 3 > 0)


def test_each_epoch_and_each_key_has_an_order_of_its_own(getkey):
    """Eight examples in batches of 3, 3, 2 have 560 arrangements."""
    epochs = [e for _ in range(4) for e in np.split(seen(getkey(), 8, epochs=4), 4)]
    distinct = {e.tobytes() for e in epochs}
    assert len(distinct) >= len(epochs) - 1  # 16 draws of 560: two or more repeats in 2 %
    chex.assert_trees_all_equal(
        seen(jax.random.key(3), 8, epochs=2), seen(jax.random.key(3), 8, epochs=2)
    )


def test_the_first_batch_holds_each_example_equally_often():
    """400 keys: an example is in the first of three batches with probability 3/8, 5 sigma."""
    keys = jax.random.split(jax.random.key(1), 400)
    message, _, _ = jax.jit(jax.vmap(lambda key: trained(key, 8, 1, "steps")))(keys)
    share = np.asarray(message).mean(0)
    np.testing.assert_allclose(share, 3 / 8, atol=5 * np.sqrt(3 / 8 * 5 / 8 / 400))


def test_steps_go_on_into_further_passes(getkey):
    batches = seen(getkey(), 7, steps=8)  # three passes of three batches, less one batch
    assert batches.sum(1).tolist() == [3, 3, 1, 3, 3, 1, 3, 3]
    for start in (0, 3):
        np.testing.assert_array_equal(batches[start : start + 3].sum(0), np.arange(MOST) < 7)
    assert batches[6:].sum(0).max() == 1


def test_fewer_steps_than_an_epoch_use_some_of_the_examples(getkey):
    assert seen(getkey(), 7, steps=2).sum(1).tolist() == [3, 3]


@pytest.mark.parametrize("amount", [{"epochs": 3}, {"steps": 3}])
def test_an_empty_client_does_nothing(amount, getkey):
    (unit, number), *_ = amount.items()
    message, _, metrics = trained(getkey(), 0, number, unit)
    assert not message.any()
    assert float(metrics["steps"]) == float(metrics["loss"]) == 0


def test_a_client_never_reads_another_s_examples(getkey):
    """Not even to multiply them by zero."""
    x = jnp.full(10, jnp.nan).at[4:7].set(jnp.array([1.0, 2.0, 6.0]))
    client = clients.local_sgd(
        lambda w, batch, key: jnp.mean((w - batch) ** 2) / 2,
        optax.sgd(1.0),
        epochs=1,
        batch_size=4,
    )
    message, _, metrics = jax.jit(client.update)(
        getkey(), jnp.zeros(()), (), window(x, 3, 4), Turn()
    )
    np.testing.assert_allclose(message, 3.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 41 / 6, rtol=1e-6)


# --------------------------------------------------------------------------------------------------
# Losses on masked batches
# --------------------------------------------------------------------------------------------------

BATCH = {
    "x": jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32),
    "y": jnp.arange(5.0),
}
MASK = jnp.array([True, True, True, False, False])
W = jnp.array([0.3, -1.0, 2.0])


def squares(w, batch, key):
    error = batch["x"] @ w - batch["y"]
    return jnp.mean(error**2), {"absolute": jnp.mean(jnp.abs(error))}


plain = jax.jit(jax.value_and_grad(squares, has_aux=True))


def masked_squares(w, batch, mask, key):
    error = jnp.where(mask, batch["x"] @ w - batch["y"], 0.0)
    count = jnp.sum(mask, dtype=jnp.float32)
    return jnp.sum(error**2) / count, {"absolute": jnp.sum(jnp.abs(error)) / count}


@functools.partial(jax.jit, static_argnums=0)
def masked(loss, w=W, mask=MASK):
    value, metrics, _, gradient = value_and_grad(as_loss(loss), w, BATCH, mask, jax.random.key(0))
    return value, metrics, gradient


def test_a_mean_is_masked_from_outside_as_from_inside(getkey):
    real = jax.tree.map(lambda x: x[:3], BATCH)
    (value, metrics), gradient = plain(W, real, getkey())
    inside = clients.whole_batch(masked_squares)
    for actual in (masked(squares), masked(clients.per_example(squares)), masked(inside)):
        chex.assert_trees_all_close(actual, (value, metrics, gradient), rtol=1e-5)


def test_terms_without_examples_do_not_notice_the_mask():
    def decayed(w, batch, key):
        return squares(w, batch, key)[0] + jnp.sum(w**2) / 2

    for mask in (MASK, jnp.arange(5) < 1, jnp.ones(5, bool)):
        value, _, gradient = masked(decayed, mask=mask)
        without, _, gradient_without = masked(squares, mask=mask)
        w = np.asarray(W)
        np.testing.assert_allclose(float(value) - float(without), np.sum(w**2) / 2, rtol=1e-5)
        np.testing.assert_allclose(np.subtract(gradient, gradient_without), w, rtol=1e-4)


def test_each_example_has_a_key_of_its_own():
    loss = clients.per_example(lambda w, batch, key: jax.random.normal(key))
    evaluate = jax.jit(lambda mask: loss.evaluate(W, BATCH, mask, jax.random.key(0))[0])
    value = evaluate(np.ones(5, bool))
    draws = [evaluate(np.arange(5) == i) for i in range(5)]
    assert len({float(d) for d in draws}) == 5
    np.testing.assert_allclose(value, np.mean(draws), rtol=1e-5)


def test_metrics_are_averaged_over_examples_and_not_over_batches(getkey):
    """Seven values in batches of 3, 3, 1; the model stands still."""
    values = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
    client = clients.local_sgd(
        lambda w, batch, key: (jnp.mean(batch) + 0 * w, {"value": 2 * jnp.mean(batch)}),
        optax.sgd(0.0),
        epochs=2,
        batch_size=3,
    )
    _, _, metrics = jax.jit(client.update)(getkey(), jnp.zeros(()), (), window(values, 7), Turn())
    np.testing.assert_allclose(metrics["loss"], 127 / 7, rtol=1e-6)
    np.testing.assert_allclose(metrics["value"], 254 / 7, rtol=1e-6)
    assert float(metrics["steps"]) == 6


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_fedsgd_s_gradient_does_not_depend_on_the_batch_size(batch_size, getkey):
    client = clients.gradient(squares, batch_size=batch_size)
    message, _, metrics = jax.jit(client.update)(getkey(), W, (), window(BATCH, 5), Turn())
    (value, _), gradient = plain(W, BATCH, getkey())
    np.testing.assert_allclose(message, -np.asarray(gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


# --------------------------------------------------------------------------------------------------
# Models of other kinds
# --------------------------------------------------------------------------------------------------


def mixed_loss(model, batch, key):
    prediction = jnp.sum(batch.astype(jnp.bfloat16) * model["w"].at[model["index"]].get())
    return (prediction.astype(jnp.float32) + model["b"] - 1) ** 2


MIXED = {
    "w": jnp.array([1.0, -2.0], jnp.bfloat16),
    "b": jnp.array(0.5, jnp.float32),
    "index": jnp.array(1, jnp.int32),
}


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "client",
    [
        clients.local_sgd(mixed_loss, optax.sgd(0.1), epochs=2, batch_size=2),
        clients.local_sgd(
            mixed_loss,
            optax.chain(clients.proximal(0.1), optax.sgd(0.1)),
            steps=2,
            batch_size=2,
        ),
        clients.gradient(mixed_loss, batch_size=2),
    ],
    ids=["sgd", "prox", "gradient"],
)
def test_dtypes_are_kept_and_integers_are_not_trained(client, getkey):
    message, _, _ = jax.jit(client.update)(getkey(), MIXED, (), window(jnp.ones(3), 3), Turn())
    chex.assert_trees_all_equal_shapes_and_dtypes(message, MIXED)
    assert int(message["index"]) == 0
    assert float(message["b"]) != 0
    assert float(message["w"][0]) == 0  # not the entry that the index reads
    assert float(message["w"][1]) != 0


def test_scaffold_keeps_dtypes(getkey):
    """A bfloat16 model's control variates are bfloat16."""
    client = clients.scaffold(
        lambda w, batch, key: jnp.mean((jnp.sum(w.astype(jnp.float32)) - batch) ** 2),
        learning_rate=0.1,
        epochs=2,
        batch_size=2,
    )
    w = jnp.ones(2, jnp.bfloat16)
    message, control, _ = jax.jit(client.update)(
        getkey(),
        {"params": w, "control": jnp.zeros_like(w)},
        client.init(w),
        window(jnp.ones(3), 3),
        Turn(),
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(message, client.message(w))
    chex.assert_trees_all_equal_shapes_and_dtypes(control, client.init(w))


def counting(model, batch, mask, key):
    """A running sum of examples, and a counter of batches."""
    total = model.state["total"] + jnp.sum(jnp.where(mask, batch, 0.0))
    return jnp.mean((model.params - 1.0) ** 2), {}, {"total": total, "n": model.state["n"] + 1}


def test_mutable_state_moves_without_gradients(getkey):
    model = Stateful(jnp.zeros(()), {"total": jnp.array(100.0), "n": jnp.int32(7)})
    client = clients.local_sgd(
        clients.whole_batch(counting), optax.sgd(0.5), epochs=2, batch_size=2
    )
    message, _, _ = jax.jit(client.update)(
        getkey(), model, (), window(jnp.array([1.0, 2.0, 4.0]), 3), Turn()
    )
    assert isinstance(message, Stateful)
    assert float(message.state["total"]) == 14.0  # every example, in each of two epochs
    assert int(message.state["n"]) == 4
    assert message.state["n"].dtype == jnp.int32
    assert float(message.params) == 1.0  # one exact step, and then no gradient


# --------------------------------------------------------------------------------------------------
# FedProx
# --------------------------------------------------------------------------------------------------


def test_proximal_pulls_towards_the_model_that_was_sent(getkey):
    """(f + mu/2 ||w - w_0||^2)' = 0 at (x + mu w_0) / (1 + mu) for f = (w - x)^2 / 2."""
    client = clients.local_sgd(
        lambda w, batch, key: jnp.mean((w - batch) ** 2) / 2,
        optax.chain(clients.proximal(3.0), optax.sgd(0.2)),
        steps=100,
        batch_size=2,
    )
    update = jax.jit(client.update)
    for start in (0.0, 2.0):
        examples = window(jnp.array([4.0, 4.0]), 2)
        message, _, _ = update(getkey(), jnp.array(start), (), examples, Turn())
        np.testing.assert_allclose(start + message, (4 + 3 * start) / 4, rtol=1e-5)


def test_proximal_needs_the_parameters_and_a_strength():
    prox = clients.proximal(1.0)
    with pytest.raises(ValueError, match="needs the parameters"):
        prox.update(jnp.array(1.0), prox.init(jnp.array(1.0)))
    with pytest.raises(ValueError, match="mu must be at least 0"):
        clients.proximal(-1.0)


# --------------------------------------------------------------------------------------------------
# Errors
# --------------------------------------------------------------------------------------------------


def update_once(loss, model=W):
    client = clients.local_sgd(loss, optax.sgd(0.1), epochs=1, batch_size=2)
    return jax.eval_shape(client.update, jax.random.key(0), model, (), window(BATCH, 5), Turn())


STATEFUL = Stateful(W, jnp.zeros(()))


@pytest.mark.parametrize(
    ("loss", "model", "error", "match"),
    [
        (lambda w, b, k: b["x"] @ w, W, TypeError, "loss must be a scalar"),
        (lambda w, b, k: (0.0, {}, 1), W, TypeError, "fjx.clients.whole_batch"),
        (lambda w, b, k: (0.0, 1.0), W, TypeError, "metrics must be a dict of scalars"),
        (lambda w, b, k: (0.0, {"x": b["y"]}), W, TypeError, "metric 'x' must be a scalar"),
        (lambda w, b, k: (0.0, {"loss": 1.0}), W, ValueError, r"may not be called \['loss'\]"),
        (lambda w, b, k: 0.0, STATEFUL, TypeError, "fjx.clients.whole_batch"),
        (
            clients.whole_batch(lambda m, b, mask, k: 0.0),
            STATEFUL,
            TypeError,
            "loss, metrics, state",
        ),
        (clients.whole_batch(lambda m, b, mask, k: b["y"]), W, TypeError, "must be a scalar"),
    ],
    ids=[
        "vector",
        "state of a plain loss",
        "metrics not a dict",
        "vector metric",
        "reserved metric",
        "stateful model, plain loss",
        "stateful model, no state",
        "whole batch vector",
    ],
)
def test_losses_that_are_none(loss, model, error, match):
    with pytest.raises(error, match=match):
        update_once(loss, model)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"epochs": 1, "steps": 1}, ValueError, "epochs or steps"),
        ({}, ValueError, "epochs or steps"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"epochs": 1.0}, TypeError, "epochs must be an integer"),
        ({"epochs": 1, "batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"epochs": 1, "batch_size": 2.0}, TypeError, "batch_size must be an integer"),
        ({"epochs": 1, "optimizer": 0.1}, TypeError, "optimizer must be an optax"),
        ({"epochs": 1, "loss_fn": 1}, TypeError, "loss_fn must be a function"),
    ],
)
def test_arguments_out_of_range(arguments, error, match):
    arguments = {"loss_fn": squares, "optimizer": optax.sgd(0.1), "batch_size": 2, **arguments}
    with pytest.raises(error, match=match):
        clients.local_sgd(arguments.pop("loss_fn"), arguments.pop("optimizer"), **arguments)


def test_a_traced_batch_size_is_refused():
    with pytest.raises(TypeError, match="batch_size decides the shape"):
        jax.jit(lambda b: clients.gradient(squares, batch_size=b) and 0)(2)


def test_models_that_scaffold_and_fedsgd_cannot_train(getkey):
    scaffold = clients.scaffold(squares, learning_rate=0.1, epochs=1, batch_size=1)
    for model in (STATEFUL, MIXED):
        with pytest.raises(TypeError, match="no integer leaves"):
            scaffold.init(model)
    with pytest.raises(ValueError, match="learning_rate must be at least 0"):
        clients.scaffold(squares, learning_rate=-0.1, epochs=1, batch_size=1)
    with pytest.raises(TypeError, match=r"use clients\.local_sgd"):
        clients.gradient(squares, batch_size=1).update(
            getkey(), STATEFUL, (), window(BATCH, 5), Turn()
        )


def test_losses_without_a_gradient_are_refused(getkey):
    def errors(model, batch, key):
        return jnp.sum(batch["x"] > 0, dtype=jnp.int32)

    client = clients.local_sgd(errors, optax.sgd(0.1), epochs=1, batch_size=2)
    with pytest.raises(TypeError, match="loss must be a float to have a gradient, got int32"):
        client.update(getkey(), jnp.zeros(3), (), window(BATCH, 5), Turn())


def test_scaffold_needs_its_server(getkey):
    client = clients.scaffold(squares, learning_rate=0.1, epochs=1, batch_size=1)
    with pytest.raises(ValueError, match=r"needs the broadcast of fjx\.servers\.scaffold"):
        client.update(getkey(), jnp.zeros(2), jnp.zeros(2), window(BATCH, 5), Turn())
