"""Local training: the loop that FedAvg and most of its descendants share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Stateful, Tree
from fjx._permutation import permute
from fjx.clients._loss import LossFn, as_loss, value_and_grad


def local_sgd(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int,
) -> ClientUpdate:
    """Trains the broadcast model on the client's examples and sends ``after - before``.

    Guarantees: an epoch uses every example exactly once, in a fresh random order; a short last batch
        counts as what it holds; a client with few examples does few steps; a client without
        examples does none and sends zeros.

    Args:
        loss_fn: ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the batch; or a
            :class:`fjx.clients.Loss`.
        optimizer: any optax transformation; its state begins anew in each round.
        epochs: passes over the client's examples; may be traced.
        steps: batches instead of epochs, going on into further passes; may be traced.
        batch_size: examples in a batch.

    Returns:
        A :class:`fjx.ClientUpdate` without state.  Its metrics are ``loss`` and what ``loss_fn``
        reports, averaged over the examples seen, and ``steps``.

    Raises:
        ValueError: not exactly one of ``epochs`` and ``steps``; a number below one.
        TypeError: ``loss_fn`` is not callable, ``optimizer`` is not an optax transformation.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fjx import clients, data
        >>> def loss_fn(w, batch, key):
        ...     return jnp.mean((w - batch) ** 2) / 2
        >>> client = clients.local_sgd(loss_fn, optax.sgd(1.0), epochs=1, batch_size=2)
        >>> dataset = data.from_clients([jnp.array([4.0, 4.0])])
        >>> examples = jax.tree.map(lambda x: x[0], dataset.examples(jnp.array([0])))._replace(
        ...     arrays=dataset.arrays)
        >>> message, _, metrics = client.update(jax.random.key(0), jnp.array(1.0), (), examples)
        >>> float(message), float(metrics["loss"]), float(metrics["steps"])
        (3.0, 4.5, 1.0)

    References:
        McMahan et al., AISTATS 2017 (arXiv:1602.05629), algorithm 1, ClientUpdate.
    """
    train = trainer(loss_fn, optimizer, epochs=epochs, steps=steps, batch_size=batch_size)

    def update(
        key: Key, broadcast: Tree, state: Tree, examples: Examples
    ) -> tuple[Tree, Tree, Metrics]:
        model, metrics = train(key, broadcast, examples)
        return _tree.subtract(model, broadcast), state, metrics

    return ClientUpdate(lambda params: (), update, _tree.like)


def trainer(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int | None,
    steps: int | None,
    batch_size: int,
) -> Callable[..., tuple[Tree, Metrics]]:
    """The local loop: ``(key, model, examples, drift=None) -> (model, metrics)``.

    ``drift`` is added to every gradient: SCAFFOLD's correction c - c_i, and its kin.
    """
    loss = as_loss(loss_fn)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be an optax transformation, got {optimizer!r}")
    if (epochs is None) == (steps is None):
        raise ValueError(f"give epochs or steps, and not both; got epochs={epochs}, steps={steps}")
    _validate.integer(*(("steps", steps) if epochs is None else ("epochs", epochs)), at_least=1)
    _validate.static_integer("batch_size", batch_size, at_least=1)

    def train(
        key: Key, model: Tree, examples: Examples, drift: Tree | None = None
    ) -> tuple[Tree, Metrics]:
        key_shuffle, key_loss = jax.random.split(key)
        per_epoch = -(-examples.size // batch_size)
        if steps is not None:
            trips = jnp.minimum(per_epoch, 1) * steps  # nothing to step on without examples
        else:
            assert epochs is not None  # checked above, once for all clients
            trips = per_epoch * epochs

        def observe(t: Array, model: Tree) -> tuple[Metrics, Tree, Tree]:
            batch, mask = minibatch(key_shuffle, examples, t, batch_size)
            value, metrics, model, gradient = value_and_grad(
                loss, model, batch, mask, jax.random.fold_in(key_loss, t)
            )
            ones = {"loss": value, "examples": jnp.float32(1)}
            return _tree.scale(jnp.sum(mask), {**metrics, **ones}), model, gradient

        def step(t: Array, carry: tuple[Tree, Any, Metrics]) -> tuple[Tree, Any, Metrics]:
            model, optimizer_state, sums = carry
            seen, model, gradient = observe(t, model)
            if drift is not None:
                gradient = _tree.add(gradient, drift)
            model, optimizer_state = _descend(optimizer, gradient, optimizer_state, model)
            return model, optimizer_state, jax.tree.map(jnp.add, sums, seen)

        sums = _tree.zeros_like(jax.eval_shape(observe, 0, model)[0])
        start = (model, optimizer.init(_tree.split_floats(_params(model))[0]), sums)
        model, _, sums = jax.lax.fori_loop(0, trips, step, start)
        examples_seen = jnp.maximum(sums.pop("examples"), 1.0)
        means = {name: total / examples_seen for name, total in sums.items()}
        return model, {**means, "steps": jnp.asarray(trips).astype(jnp.float32)}

    return train


def minibatch(key: Key, examples: Examples, step: Array, size: int) -> tuple[Tree, Array]:
    """Batch ``step`` of an endless run of epochs, each a fresh permutation of the examples.

    Returns the batch and its mask; rows outside the mask repeat one real example.
    """
    per_epoch = jnp.maximum(-(-examples.size // size), 1)
    positions = step % per_epoch * size + jnp.arange(size, dtype=jnp.int32)
    mask = positions < examples.size
    shuffled = permute(jax.random.fold_in(key, step // per_epoch), positions, examples.size)
    return examples.take(jnp.where(mask, shuffled, 0)), mask


def _params(model: Tree) -> Tree:
    return model.params if isinstance(model, Stateful) else model


def _descend(
    optimizer: optax.GradientTransformation, gradient: Tree, state: Any, model: Tree
) -> tuple[Tree, Any]:
    """One optimiser step on the floating parameters."""
    floats, others = _tree.split_floats(_params(model))
    updates, state = optimizer.update(gradient, state, floats)
    params = _tree.merge(optax.apply_updates(floats, updates), others)
    return model._replace(params=params) if isinstance(model, Stateful) else params, state
