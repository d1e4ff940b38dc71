"""Clients that choose among several models, or mix them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Tree, TreeLike, Turn
from fjx.clients._loss import Loss, LossFn, as_loss
from fjx.clients._sgd import local_sgd


def choosing(
    client: ClientUpdate, loss_fn: LossFn, *, clusters: int, batch_size: int
) -> ClientUpdate:
    """Local work on the model, among those that are sent, with the smallest loss on all examples.

    The message is ``{"update", "group"}``, for :func:`fjx.aggregators.grouped`.  The state is the number
    of the model that was chosen, ``i32[]``.

    Args:
        client: local work without state on one model.
        loss_fn: loss by which the client chooses.
        clusters: number of models.
        batch_size: examples evaluated at a time.
    """
    loss = as_loss(loss_fn)

    def losses(key: Key, models: Tree, examples: Examples) -> Array:
        """Mean loss of each model over the client's examples, ``f[clusters]``."""

        def add(t: Array, total: Array) -> Array:
            batch, mask = examples.batch(t, batch_size)
            at = jax.random.fold_in(key, t)  # the same for every model
            value = jax.vmap(lambda m: loss.evaluate(m, batch, mask, at)[0])(models)
            return total + value.astype(total.dtype) * jnp.sum(mask).astype(total.dtype)

        batches = -(-examples.size // batch_size)
        return jax.lax.fori_loop(0, batches, add, jnp.zeros(clusters, jnp.float32))

    def update(
        key: Key, models: Tree, state: Array, examples: Examples, turn: Turn
    ) -> tuple[Tree, Array, Metrics]:
        key_losses = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
        found = losses(key_losses, models, examples)
        # A model that diverged fits nobody; to argmin NaN is the least number.
        best = jnp.argmin(jnp.where(jnp.isnan(found), jnp.inf, found)).astype(jnp.int32)
        best = jnp.where(examples.size > 0, best, state)
        message, _, metrics = client.update(key, row_of(models, best), (), examples, turn)
        return {"update": message, "group": best.astype(jnp.uint8)}, best, metrics

    def message(params: Tree) -> TreeLike:
        one = client.message(row_of(require_stacked(params, clusters), jnp.int32(0)))
        return {"update": one, "group": jax.ShapeDtypeStruct((), jnp.uint8)}

    return ClientUpdate(
        lambda params: jnp.int32(0), update, message, rounds=client.rounds, personal=row_of
    )


def row_of(models: Tree, number: Array) -> Tree:
    """One of the stacked models."""
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(models)):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), models)
    return jax.tree.map(lambda x: x[number], models)


def require_stacked(params: TreeLike, count: int, name: str = "clusters") -> TreeLike:
    """The parameters, if they are so many models side by side.

    Raises:
        ValueError: a leaf has another leading axis.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.ndim(leaf) == 0 or leaf.shape[0] != count:
            raise ValueError(
                f"{name}={count} needs {count} models stacked along a first axis of that length; "
                f"{_tree.name_of(path) or 'the only leaf'!r} has shape {list(jnp.shape(leaf))}.  Make "
                f"them by jax.vmap(init)(jax.random.split(key, {count}))"
            )
    return params


class Mixture(NamedTuple):
    """A mixture of models: its predictions are the weighted mean of theirs.

    Attributes:
        models: the models, stacked: a tree of ``[components, ...]``.
        weights: ``f32[components]``, with sum one.
    """

    models: Tree
    weights: Array


def expectation_maximization(
    loss_fn: LossFn, rate: float | Array, *, components: int, epochs: int, batch_size: int
) -> ClientUpdate:
    r"""FedEM's client: every model is trained on the examples that it explains.

    With the models theta_m and weights pi_m that the round begins with, the responsibility of model m
    for example j is

    .. math:: q_{jm} \propto \pi_m \exp(-f(\theta_m; j))

    The new weights are the means of q_{jm} over the client's examples, and model m is trained by SGD on
    the loss of the examples weighted by q_{jm}.  The state is the logarithm of the weights.

    Args:
        loss_fn: negative log-likelihood of an example.
        rate: step size of SGD.
        components: number of models.
        epochs: number of local passes.
        batch_size: examples in a batch.
    """
    loss = as_loss(loss_fn)

    def values(models: Tree, batch: Tree, key: Key) -> Array:
        """Loss of each model on each example of a batch, ``f[components, b]``."""

        def one(model: Tree, example: Tree, key: Key) -> Array:
            alone = jax.tree.map(lambda x: x[None], example)
            return loss.evaluate(model, alone, jnp.ones(1, bool), key)[0]

        keys = jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])
        each = jax.vmap(one, in_axes=(None, 0, 0))
        return jax.vmap(each, in_axes=(0, None, None))(models, batch, keys)

    def responsibilities(models: Tree, log_pi: Array, batch: Tree, key: Key) -> Array:
        found = values(models, batch, key)
        return jax.nn.softmax(log_pi[:, None].astype(found.dtype) - found, axis=0)

    def weighted(start: Tree, log_pi: Array) -> Loss:
        """The mean over a batch of the losses weighted by what the models of the start explain."""

        def evaluate(
            models: Tree, batch: Tree, mask: Array, key: Key
        ) -> tuple[Array, Metrics, Tree]:
            key_start = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)
            q = responsibilities(start, log_pi, batch, key_start)
            each = jnp.sum(jax.lax.stop_gradient(q) * values(models, batch, key), axis=0)
            count = jnp.maximum(jnp.sum(mask, dtype=each.dtype), 1)
            return jnp.sum(jnp.where(mask, each, 0)) / count, {}, None

        return Loss(evaluate)

    def update(
        key: Key, models: Tree, log_pi: Array, examples: Examples, turn: Turn
    ) -> tuple[Tree, Array, Metrics]:
        key_weights = jax.random.fold_in(jax.random.clone(key), 2**32 - 1)

        def add(t: Array, total: Array) -> Array:
            batch, mask = examples.batch(t, batch_size)
            q = responsibilities(models, log_pi, batch, jax.random.fold_in(key_weights, t))
            return total + jnp.sum(jnp.where(mask[None], q, 0), axis=1).astype(total.dtype)

        batches = -(-examples.size // batch_size)
        total = jax.lax.fori_loop(0, batches, add, jnp.zeros(components, jnp.float32))
        tiny = jnp.finfo(jnp.float32).tiny  # a weight of zero would be NaN in the next round
        new = jnp.log(jnp.maximum(total / jnp.maximum(examples.size, 1).astype(total.dtype), tiny))
        train = local_sgd(
            weighted(models, log_pi),
            optax.sgd(lambda _: rate),
            epochs=epochs,
            batch_size=batch_size,
        )
        message, _, metrics = train.update(key, models, (), examples, turn)
        return message, jnp.where(examples.size > 0, new, log_pi), metrics

    def init(params: Tree) -> Array:
        require_stacked(params, components, "components")
        return jnp.full(components, -jnp.log(jnp.float32(components)))

    return ClientUpdate(
        init,
        update,
        lambda params: _tree.like(require_stacked(params, components, "components")),
        personal=lambda models, log_pi: Mixture(models, jnp.exp(log_pi)),
    )
