"""One gradient of a client's whole data: FedSGD."""

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Stateful, Tree, Turn
from fjx.clients._loss import LossFn, as_loss, value_and_grad


def gradient(loss_fn: LossFn, *, batch_size: int) -> ClientUpdate:
    """Send the negative gradient of the mean loss over all of the client's examples.

    The message is thus ``after - before`` of one gradient step with learning rate one.

    Guarantees:
        - Exact for a loss that is a mean over examples, whatever the batch size.

    Args:
        loss_fn: loss ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a mean over the
            batch; or a :class:`fjx.clients.Loss`.
        batch_size: examples evaluated at a time; it bounds the memory and changes nothing else.

    Returns:
        A :class:`fjx.ClientUpdate` without state.  Its metrics are ``loss`` and the metrics of
        ``loss_fn``.

    Raises:
        TypeError: ``loss_fn`` is not callable; the model is a :class:`fjx.Stateful`, whose state a
            single gradient cannot move (when traced).
        ValueError: ``batch_size`` is below one.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import fjx
        >>> client = fjx.clients.gradient(lambda w, x, key: jnp.mean((w - x) ** 2) / 2, batch_size=2)
        >>> examples = fjx.Examples(jnp.array([1.0, 2.0, 6.0]), jnp.int32(0), jnp.int32(3))
        >>> message, _, _ = client.update(
        ...     jax.random.key(0), jnp.array(0.0), (), examples, fjx.Turn())
        >>> float(message)
        3.0

    References:
        McMahan et al., AISTATS 2017 (arXiv:1602.05629), section 2, FederatedSGD.
    """
    loss = as_loss(loss_fn)
    batch_size = _validate.static_integer("batch_size", batch_size, at_least=1)

    def update(
        key: Key, model: Tree, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        if isinstance(model, Stateful):
            raise TypeError("clients.gradient cannot move mutable state; use clients.local_sgd")

        def observe(t: Array) -> tuple[Metrics, Tree]:
            batch, mask = examples.batch(t, batch_size)
            value, metrics, _, gradient = value_and_grad(
                loss, model, batch, mask, jax.random.fold_in(key, t)
            )
            return _tree.scale(jnp.sum(mask), ({**metrics, "loss": value}, gradient))

        sums = jax.lax.fori_loop(
            0,
            -(-examples.size // batch_size),
            lambda t, sums: jax.tree.map(jnp.add, sums, observe(t)),
            _tree.zeros_like(jax.eval_shape(observe, 0)),
        )
        metrics, total = _tree.divide(sums, jnp.maximum(examples.size, 1))
        _, others = _tree.split_floats(model)
        descent = jax.tree.map(lambda g: -g, total)
        message = _tree.merge(descent, _tree.zeros_like(others))
        return jax.tree.map(lambda m, p: m.astype(p.dtype), message, model), state, metrics

    return ClientUpdate(lambda params: (), update, _tree.like)
