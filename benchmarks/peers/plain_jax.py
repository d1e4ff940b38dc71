"""The models of the workloads in plain JAX, for peers that bring none of their own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def losses_of(model: str) -> Callable[[dict, jax.Array, jax.Array], jax.Array]:
    """``(params, x, y) -> losses``, the cross-entropy of each example of a batch: ``f32[n]``."""
    apply = {"cnn": _cnn, "logistic": _dense, "mlp": _dense, "lstm": _lstm}[model]

    def losses(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = jax.nn.log_softmax(apply(params, x))
        found = -jnp.take_along_axis(logits, y[..., None], axis=-1)
        return found.reshape(len(y), -1).mean(axis=1)

    return losses


def loss_of(model: str) -> Callable[[dict, jax.Array, jax.Array], jax.Array]:
    """``(params, x, y) -> loss``, the mean over a batch."""
    losses = losses_of(model)
    return lambda params, x, y: losses(params, x, y).mean()


def _affine(layer: dict, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _dense(params: dict, x: jax.Array) -> jax.Array:
    for i in range(len(params) - 1):
        x = jax.nn.relu(_affine(params[f"Dense_{i}"], x))
    return _affine(params[f"Dense_{len(params) - 1}"], x)


def _cnn(params: dict, x: jax.Array) -> jax.Array:
    x = x[..., None]
    for name in ("Conv_0", "Conv_1"):
        layout = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "VALID", dimension_numbers=layout
        )
        x = jax.nn.relu(x + params[name]["bias"])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(_affine(params["Dense_0"], x.reshape(x.shape[0], -1)))
    return _affine(params["Dense_1"], x)


def _lstm(params: dict, tokens: jax.Array) -> jax.Array:
    x = jnp.moveaxis(params["Embed_0"]["embedding"][tokens], 1, 0)
    for name in ("_Lstm_0", "_Lstm_1"):
        x = _layer(params[name], x)
    return _affine(params["Dense_0"], jnp.moveaxis(x, 0, 1))


def _layer(params: dict, x: jax.Array) -> jax.Array:
    inputs = _affine(params["Dense_0"], x)

    def step(carry: tuple, inputs: jax.Array) -> tuple:
        h, c = carry
        i, f, g, o = jnp.split(inputs + h @ params["recurrent_kernel"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], 256), x.dtype)
    return lax.scan(step, (zeros, zeros), inputs)[1]
