"""The client of SCAFFOLD."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Stateful, Tree, TreeLike, Turn
from fjx.clients._loss import LossFn
from fjx.clients._sgd import trainer


def scaffold(
    loss_fn: LossFn,
    *,
    learning_rate: float | Array,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int,
) -> ClientUpdate:
    r"""Local SGD with SCAFFOLD's correction of client drift (option II of the paper).

    The client makes K steps from x to y along g_i(y) - c_i + c.  Its new control variate is

    .. math:: c_i^+ = c_i - c + (x - y) / (K \eta_l)

    The client expects the broadcast ``{"params": x, "control": c}`` of
    :func:`fjx.servers.scaffold`, and sends ``{"params": y - x, "control": c_i^+ - c_i}``.

    Args:
        loss_fn: loss, as for :func:`fjx.clients.local_sgd`.
        learning_rate: step size eta_l; may be traced.  If it is zero in a round (a schedule), the
            client moves nothing and keeps its control variate.
        epochs: passes over the client's examples.
        steps: number of batches; give it or ``epochs``.
        batch_size: examples in a batch.

    Returns:
        A :class:`fjx.ClientUpdate` whose state is c_i, zero at first.

    Raises:
        ValueError: a number is out of range; ``epochs`` and ``steps`` are both given or both
            missing.
        TypeError: ``loss_fn`` is not callable; the model holds leaves that are not floating
            parameters and so have no control variate (from ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import fjx
        >>> client = fjx.clients.scaffold(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2) / 2, learning_rate=0.5, steps=1, batch_size=1)
        >>> examples = fjx.Examples(jnp.array([2.0]), jnp.int32(0), jnp.int32(1))
        >>> sent = {"params": jnp.array(0.0), "control": jnp.array(0.0)}
        >>> message, control, _ = client.update(
        ...     jax.random.key(0), sent, jnp.array(0.0), examples, fjx.Turn())
        >>> float(message["params"]), float(control)
        (1.0, -2.0)

    References:
        Karimireddy et al., *SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*,
        ICML 2020 (arXiv:1910.06378), algorithm 1.
    """
    _validate.number("learning_rate", learning_rate, at_least=0)
    train = trainer(
        loss_fn, optax.sgd(learning_rate), epochs=epochs, steps=steps, batch_size=batch_size
    )

    def init(params: Tree) -> Tree:
        if isinstance(params, Stateful) or not all(map(_tree.is_float, jax.tree.leaves(params))):
            raise TypeError(
                "scaffold needs a control variate for every leaf, so the model must hold floating "
                "parameters and nothing else (no fjx.Stateful, no integer leaves)"
            )
        return _tree.wide_zeros_like(params)

    def inputs(
        key: Key, broadcast: Tree, control: Tree, examples: Examples, turn: Turn
    ) -> tuple[Any, ...]:
        if not (isinstance(broadcast, dict) and set(broadcast) == {"params", "control"}):
            raise ValueError(
                "clients.scaffold needs the broadcast of fjx.servers.scaffold; compose both, or use "
                "fjx.algorithms.scaffold"
            )
        drift = _tree.subtract(_tree.widened(broadcast["control"]), control)
        drift = _tree.in_dtypes_of(drift, broadcast["params"])
        return key, broadcast["params"], examples, drift

    def message(
        key: Key,
        broadcast: Tree,
        control: Tree,
        examples: Examples,
        turn: Turn,
        trained: tuple[Tree, Metrics],
    ) -> tuple[Tree, Tree, Metrics]:
        x, c = broadcast["params"], broadcast["control"]
        y, metrics = trained
        inverse = 1 / jnp.where(learning_rate > 0, learning_rate, 1.0)
        inverse /= jnp.maximum(metrics["steps"], 1.0)
        mean_gradient = _tree.scale(inverse, _tree.subtract(x, y))
        change = jax.tree.map(lambda g, c: g.astype(c.dtype) - c, mean_gradient, c)
        # Steps of size zero tell nothing of the gradients.
        change = _tree.where(jnp.asarray(learning_rate > 0), change, _tree.zeros_like(change))
        sent = {"params": _tree.subtract(y, x), "control": change}
        return sent, _tree.add(control, change), metrics

    def message_like(params: Tree) -> TreeLike:
        return {"params": _tree.like(params), "control": _tree.like(params)}

    return ClientUpdate(init, train.around(inputs, message), message_like)
