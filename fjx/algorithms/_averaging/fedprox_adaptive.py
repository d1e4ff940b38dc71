"""FedProx with a proximal term that follows the loss."""

from typing import Any, NamedTuple, Unpack

import jax.numpy as jnp
import optax

from fjx import _tree, _validate, clients
from fjx._base import (
    Algorithm,
    Array,
    ClientUpdate,
    Examples,
    Key,
    ServerUpdate,
    Steps,
    Tree,
    Turn,
)
from fjx.aggregators import counted, mean
from fjx.algorithms._refuse import fixes
from fjx.algorithms._told import told
from fjx.clients import LossFn, Trained, mean_loss, telling
from fjx.clients._made import made
from fjx.clients._minibatch import client_sgd
from fjx.rounds._compose import Codecs
from fjx.servers import OptaxState, from_optax
from fjx.servers._sgd import server_sgd


class AdaptiveMuState(NamedTuple):
    """Server state of :func:`fedprox_adaptive`.

    Attributes:
        model: current model and the state of its optax transformation.
        mu: strength of the proximal term.
        loss: mean loss of the round before; infinity at first.
        falls: ``i32[]``, rounds in a row in which the loss fell.
    """

    model: OptaxState
    mu: Array
    loss: Array
    falls: Array

    @property
    def params(self) -> Tree:
        """The current model."""
        return self.model.params


@fixes(
    aggregator="mu follows the mean loss of the cohort without noise, so it is always the mean by "
    "examples; for privacy use algorithms.fedprox with a fixed mu"
)
def fedprox_adaptive(
    loss_fn: LossFn,
    *,
    client_lr: float | Array | optax.Schedule,
    batch_size: int,
    epochs: int = 1,
    mu: float | Array = 0.0,
    change: float | Array = 0.1,
    patience: int = 5,
    **codecs: Unpack[Codecs],
) -> Algorithm:
    """FedProx whose mu grows when the loss rises, and shrinks when it falls.

    Clients send the mean loss of the model that they received.  If its mean over the cohort is larger
    than in the round before, mu grows by ``change``; after ``patience`` rounds in a row in which it
    fell, mu shrinks by ``change``, to zero at least.

    Guarantees:
        - With ``change`` 0 it is FedProx.
        - A round to which nobody comes changes nothing.

    Bits:
        Those of the update, and 32 for the loss; 32 down for mu.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``.
        client_lr: step size of the clients' SGD, or a schedule ``(round) -> step size``.
        batch_size: number of examples in a batch.
        epochs: number of local passes.
        mu: strength of the proximal term in the first round; the paper begins with 0 if clients are
            alike, and with 1 if they are not.
        change: the paper's 0.1.
        patience: the paper's 5.
        **codecs: ``uplink`` of the update, and ``downlink`` of ``{"params", "mu"}``.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``aggregator`` is given.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedprox_adaptive(
        ...     lambda w, x, key: (w - x).mean(), client_lr=0.1, batch_size=10, mu=1.0)

    References:
        Li et al., MLSys 2020 (arXiv:1812.06127), section 5.3.2 and appendix C.3.3.
    """
    _validate.number("mu", mu, at_least=0)
    _validate.number("change", change, at_least=0)
    _validate.integer("patience", patience, at_least=1)
    inner, score = from_optax(server_sgd(1.0)), mean_loss(loss_fn, batch_size=batch_size)

    def prox(strength: Any) -> ClientUpdate:
        return client_sgd(loss_fn, client_lr, epochs, batch_size, clients.proximal(strength))

    def work(key: Key, sent: Tree, state: Tree, examples: Examples, turn: Turn) -> Steps:
        def inputs(key: Key, sent: Tree, *others: Any) -> tuple[Any, ...]:
            return key, sent["params"], *others

        return Steps.of(prox(sent["mu"]).update).around(inputs, lambda *outputs: outputs[-1])

    def tell(done: Trained) -> tuple[Tree, dict[str, Array]]:
        return done.update, {"loss": score(done.key, done.broadcast["params"], done.examples)}

    def init(params: Tree) -> AdaptiveMuState:
        start = jnp.asarray(mu, jnp.float32)
        return AdaptiveMuState(inner.init(params), start, jnp.float32(jnp.inf), jnp.int32(0))

    def update(state: AdaptiveMuState, heard: dict[str, Any]) -> AdaptiveMuState:
        mean, came = heard["aggregate"], heard["participants"] > 0
        loss, falls = mean["loss"], jnp.where(mean["loss"] < state.loss, state.falls + 1, 0)
        patient = falls >= patience
        fall = jnp.where(patient, -jnp.asarray(change), 0.0)
        step = jnp.where(loss > state.loss, jnp.asarray(change), fall).astype(jnp.float32)
        after = AdaptiveMuState(
            inner.update(state.model, mean["update"]),
            jnp.maximum(state.mu + step, 0.0),
            loss,
            jnp.where(patient, 0, falls).astype(jnp.int32),
        )
        return _tree.where(came, after, state)

    return told(
        client=telling(prox(0.0)._replace(update=made(work)), tell, loss=jnp.float32),
        server=ServerUpdate(init, lambda state: {"params": state.params, "mu": state.mu}, update),
        aggregator=counted(mean()),
        **codecs,
    )
