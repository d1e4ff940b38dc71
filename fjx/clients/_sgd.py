"""Local training: the loop that FedAvg and most of its descendants share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Steps, Tree, TreeLike, Turn
from fjx._kernels.permutation import permute_by, reshuffle, shuffle
from fjx.clients import _optimizer
from fjx.clients._loss import LossFn, as_loss, objective, value_and_grad
from fjx.clients._unmoved import require_moved


def local_sgd(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int,
) -> ClientUpdate:
    """Train the broadcast model on the client's examples and send ``after - before``.

    Guarantees:
        - An epoch uses every example exactly once, in a fresh random order.  Gradients that
          ``optax.MultiSteps`` has accumulated when the client ends make a last step.
        - A short last batch counts with its real examples only.
        - With ``epochs``, a client with few examples makes few steps.
        - A client without examples makes no step and sends zeros.

    Args:
        loss_fn: loss ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the
            batch; or a :class:`fjx.clients.Loss`.
        optimizer: optax transformation of the local steps.  Its state begins anew in each round: a
            schedule counts the steps of one round (for a rate by round see ``client_lr`` of the
            recipes), momentum starts at zero, and a transformation with a random key of its own is
            refused.  One that takes ``value``, ``grad`` and ``value_fn`` (``optax.lbfgs``,
            ``optax.contrib.reduce_on_plateau``) is given the loss of the batch.
        epochs: passes over the client's examples; may be traced.
        steps: number of batches, over as many passes as that takes; give it or ``epochs``; may be
            traced.
        batch_size: examples in a batch.

    Returns:
        A :class:`fjx.ClientUpdate` without state.  Its metrics are ``steps``, and ``loss`` and the
        metrics of ``loss_fn``, averaged over the examples seen.

    Raises:
        ValueError: ``epochs`` and ``steps`` are both given or both missing; a number is below one.
        TypeError: ``loss_fn`` is not callable; ``optimizer`` is not an optax transformation, or (when
            traced) cannot make local steps, like ``optax.lookahead``, which keeps two models.
        ValueError: (when traced) ``optimizer`` has a random key in its state; (from ``message``) it
            never moves a floating parameter, as one that is masked by ``optax.set_to_zero``; see
            :func:`fjx.rounds.frozen`.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> from fjx import clients, data
        >>> def loss_fn(w, batch, key):
        ...     return jnp.mean((w - batch) ** 2) / 2
        >>> client = clients.local_sgd(loss_fn, optax.sgd(1.0), epochs=1, batch_size=2)
        >>> dataset = data.from_clients([jnp.array([4.0, 4.0])])
        >>> examples = jax.tree.map(lambda x: x[0], dataset.examples(jnp.array([0])))._replace(
        ...     arrays=dataset.arrays)
        >>> message, _, metrics = client.update(
        ...     jax.random.key(0), jnp.array(1.0), (), examples, fjx.Turn())
        >>> float(message), float(metrics["loss"]), float(metrics["steps"])
        (3.0, 4.5, 1.0)

    References:
        McMahan et al., AISTATS 2017 (arXiv:1602.05629), algorithm 1, ClientUpdate.
    """
    train = trainer(loss_fn, optimizer, epochs=epochs, steps=steps, batch_size=batch_size)

    def message(
        key: Key,
        broadcast: Tree,
        state: Tree,
        examples: Examples,
        turn: Turn,
        trained: tuple[Tree, Metrics],
    ) -> tuple[Tree, Tree, Metrics]:
        model, metrics = trained
        return _tree.subtract(model, broadcast), state, metrics

    def inputs(
        key: Key, broadcast: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Any, ...]:
        return key, broadcast, examples, None

    def message_like(params: Tree) -> TreeLike:
        require_moved(optimizer, params)
        return _tree.like(params)

    return ClientUpdate(lambda params: (), train.around(inputs, message), message_like)


def trainer(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int | None,
    steps: int | None,
    batch_size: int,
) -> Steps:
    """Local loop ``(key, model, examples, drift) -> (model, metrics)``.

    ``drift`` is a tree that is added to every gradient, such as SCAFFOLD's correction c - c_i; None
    adds nothing.
    """
    loss = as_loss(loss_fn)
    optimizer = _optimizer.as_local(optimizer)
    if (epochs is None) == (steps is None):
        raise ValueError(f"give either epochs or steps; got epochs={epochs}, steps={steps}")
    _validate.integer(*(("steps", steps) if epochs is None else ("epochs", epochs)), at_least=1)
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)

    def observe(
        model: Tree, examples: Examples, t: Array, order: Array, key_loss: Key
    ) -> tuple[Metrics, Tree, Tree, Array]:
        batch, mask = batch_at(order, examples, t, batch_size)
        value, metrics, model, gradient = value_and_grad(
            loss, model, batch, mask, jax.random.fold_in(key_loss, t)
        )
        ones = {"loss": value, "examples": jnp.float32(1)}
        return _tree.scale(jnp.sum(mask), {**metrics, **ones}), model, gradient, value

    def value_at(floats: Tree, examples: Examples, t: Array, now: _Training) -> Array:
        """The loss of batch ``t`` at other floating parameters, for a line search."""
        batch, mask = batch_at(jax.random.clone(now.order), examples, t, batch_size)
        key = jax.random.fold_in(jax.random.clone(now.key_loss), t)
        return objective(loss, now.model, batch, mask, key)(floats)[0]

    def begin(
        key: Key, model: Tree, examples: Examples, drift: Tree | None
    ) -> tuple[Array, _Training]:
        key_shuffle, key_loss = jax.random.split(key)
        per_epoch = -(-examples.size // batch_size)
        if steps is not None:
            trips = jnp.minimum(per_epoch, 1) * steps  # a client without examples makes no step
        else:
            assert epochs is not None  # checked above, when the client was made
            trips = per_epoch * epochs
        order = shuffle(key_shuffle)
        seen = jax.eval_shape(observe, model, examples, 0, order, key_loss)[0]
        optimizer_state = _optimizer.begin(optimizer, model)
        sums = _tree.zeros_like(seen)
        return trips, _Training(model, optimizer_state, sums, order, key_loss, drift, trips)

    def step(
        key: Key, model: Tree, examples: Examples, drift: Tree | None, t: Array, now: _Training
    ) -> _Training:
        seen, model, gradient, value = observe(now.model, examples, t, now.order, now.key_loss)
        if now.drift is not None:
            gradient = _tree.add(gradient, now.drift)
        model, optimizer_state = _optimizer.descend(
            optimizer,
            gradient,
            now.optimizer,
            model,
            value=value,
            value_fn=lambda floats: value_at(floats, examples, t, now),
        )
        sums = jax.tree.map(jnp.add, now.sums, seen)
        return now._replace(model=model, optimizer=optimizer_state, sums=sums)

    def end(
        key: Key, model: Tree, examples: Examples, drift: Tree | None, done: _Training
    ) -> tuple[Tree, Metrics]:
        examples_seen = jnp.maximum(done.sums["examples"], 1.0)
        means = {
            name: total / examples_seen.astype(total.dtype)
            for name, total in done.sums.items()
            if name != "examples"
        }
        model = _optimizer.finish(optimizer, done.optimizer, done.model, value=means["loss"])
        return model, {**means, "steps": jnp.asarray(done.trips).astype(float)}

    return Steps(begin, step, end)


class _Training(NamedTuple):
    """State of a client's local training.

    Attributes:
        model: current model.
        optimizer: state of the optimiser.
        sums: metrics, each times the examples of its batch, summed over the steps.
        order: random order of the examples.
        key_loss: key of the loss.
        drift: tree that is added to each gradient, or None.
        trips: number of steps in all.
    """

    model: Tree
    optimizer: Any
    sums: dict[str, Array]
    order: Array
    key_loss: Key
    drift: Tree | None
    trips: Array


def batch_at(order: Array, examples: Examples, step: Array, size: int) -> tuple[Tree, Array]:
    """Batch ``step`` of an endless run of epochs, each a fresh permutation of the examples.

    Returns:
        The batch and its mask.  Rows outside the mask repeat one real example.
    """
    per_epoch = jnp.maximum(-(-examples.size // size), 1)
    positions = step % per_epoch * size + jnp.arange(size, dtype=jnp.int32)
    mask = positions < examples.size
    shuffled = permute_by(reshuffle(order, step // per_epoch), positions, examples.size)
    return examples.take(jnp.where(mask, shuffled, 0)), mask
