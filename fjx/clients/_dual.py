"""The client of FedDyn and of FedADMM: local steps on an augmented Lagrangian."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fjx import _tree, _validate
from fjx._base import Array, ClientUpdate, Examples, Key, Metrics, Stateful, Tree, Turn
from fjx.clients._loss import LossFn
from fjx.clients._prox import proximal
from fjx.clients._sgd import trainer


class DualState(NamedTuple):
    """Client state of :func:`dual`.

    Attributes:
        dual: multiplier y_i.
        anchor: the sum w_i + y_i / rho of the client's last round; None if it is not sent.
    """

    dual: Tree
    anchor: Tree


def dual(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    rho: float | Array,
    send_dual: bool = False,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int,
) -> ClientUpdate:
    r"""Local training on an augmented Lagrangian, whose multiplier the client keeps.

    From the broadcast x the client minimises

    .. math:: F_i(w) + \langle y_i, w - x \rangle + \frac{\rho}{2} \lVert w - x \rVert^2

    to w_i, and then sets y_i = y_i + rho (w_i - x).  If the minimum is exact, y_i is
    -grad F_i(w_i) afterwards: the client remembers where its own loss pulls.

    The message is w_i - x (FedDyn), or with ``send_dual`` the change of w_i + y_i / rho since the
    client's last round (FedADMM).

    Guarantees:
        - With rho = 0 and y_i = 0 local work is that of :func:`local_sgd`.
        - Multipliers are kept in float32 or wider.

    Args:
        loss_fn: loss, as for :func:`local_sgd`.
        optimizer: optax transformation of the local steps.
        rho: strength rho of the quadratic term, non-negative; positive with ``send_dual``.
        send_dual: True to send the change of w_i + y_i / rho.
        epochs: passes over the client's examples.
        steps: number of batches; give it or ``epochs``.
        batch_size: examples in a batch.

    Returns:
        A :class:`fjx.ClientUpdate` whose state is a :class:`DualState` of zeros at first.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``loss_fn`` is not callable; the model holds more than floating parameters (from
            ``init``).

    Examples:
        >>> import jax, jax.numpy as jnp, optax, fjx
        >>> client = fjx.clients.dual(
        ...     lambda w, x, key: jnp.mean((w - x) ** 2) / 2, optax.sgd(0.5), rho=1.0, steps=1,
        ...     batch_size=1)
        >>> examples = fjx.Examples(jnp.array([2.0]), jnp.int32(0), jnp.int32(1))
        >>> message, state, _ = client.update(
        ...     jax.random.key(0), jnp.array(0.0), client.init(jnp.array(0.0)), examples, fjx.Turn())
        >>> float(message), float(state.dual)
        (1.0, 1.0)

    References:
        Acar, Zhao, Matas, Mattina, Whatmough, Saligrama, *Federated Learning Based on Dynamic
        Regularization*, ICLR 2021 (arXiv:2111.04263), algorithm 1; Gong, Li, Freris, *FedADMM: A Robust
        Federated Deep Learning Framework with Adaptivity to System Heterogeneity*, ICDE 2022
        (arXiv:2204.03529), algorithm 1.
    """
    if send_dual:
        _validate.number("rho", rho, above=0)
    _validate.number("rho", rho, at_least=0)
    train = trainer(
        loss_fn,
        optax.chain(proximal(rho), optimizer),
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
    )

    def init(params: Tree) -> DualState:
        require_floats("a multiplier", params)
        anchor = _tree.widened(jax.tree.map(jnp.asarray, params)) if send_dual else None
        return DualState(_tree.wide_zeros_like(params), anchor)

    def inputs(
        key: Key, x: Tree, state: DualState, examples: Examples, turn: Turn
    ) -> tuple[Any, ...]:
        return key, x, examples, _tree.in_dtypes_of(state.dual, x)

    def message(
        key: Key,
        x: Tree,
        state: DualState,
        examples: Examples,
        turn: Turn,
        done: tuple[Tree, Metrics],
    ) -> tuple[Tree, DualState, Metrics]:
        w, metrics = done
        moved = _tree.subtract(w, x)
        y = _tree.add(state.dual, _tree.scale(jnp.asarray(rho), moved))
        if not send_dual:
            return moved, DualState(y, None), metrics
        anchor = _tree.add(_tree.widened(w), _tree.scale(jnp.asarray(1 / rho), y))
        change = _tree.in_dtypes_of(_tree.subtract(anchor, state.anchor), x)
        return change, DualState(y, anchor), metrics

    return ClientUpdate(init, train.around(inputs, message), _tree.like)


def require_floats(what: str, params: Tree) -> None:
    """Raises TypeError unless the model holds floating parameters and nothing else."""
    if isinstance(params, Stateful) or not all(map(_tree.is_float, jax.tree.leaves(params))):
        raise TypeError(
            f"every parameter needs {what}, so the model must hold floating parameters and nothing "
            "else (no fjx.Stateful, no integer leaves); freeze integers by fjx.rounds.frozen"
        )
