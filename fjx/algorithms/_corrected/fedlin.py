"""FedLin: local steps that begin with the gradient of all clients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate, clients
from fjx._base import Algorithm, Array, Compressor, Examples, Key, Metrics, Tree, Turn
from fjx.algorithms._refuse import MEMORY, fixes
from fjx.clients import LossFn
from fjx.compressors import identity
from fjx.rounds._two_phases import Phase, two_phases


class FedLinState(NamedTuple):
    """Server state of :func:`fedlin`.

    Attributes:
        params: the model x.
        descent: -g, the mean of the descent directions that clients sent.
    """

    params: Tree
    descent: Tree


@fixes(aggregator=MEMORY)
def fedlin(
    loss_fn: LossFn,
    *,
    learning_rate: float | Array,
    steps: int | Array,
    batch_size: int,
    uplink: Compressor | None = None,
) -> Algorithm:
    r"""FedLin: local gradient steps whose drift is corrected by the gradient of all clients.

    Two rounds are one step of the method.  The first round gathers g = mean grad f_i(x).  In the second
    each client makes H steps from x_i = x, and x becomes the mean of the x_i:

    .. math:: x_i \leftarrow x_i - \eta (\nabla f_i(x_i) - \nabla f_i(x) + g)

    Guarantees:
        - With full gradients of all clients it converges to the optimum at a constant step for every H,
          linearly under strong convexity.
        - For H = 1 it is gradient descent.
        - A codec with ``error_feedback`` keeps the rate linear, up to a constant, but where clients
          differ it comes to rest beside the optimum.

    Bits:
        In the first round those of the gradient's codec, in the second those of the model.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        learning_rate: step size eta, of order 1 / (L H); :func:`fjx.theory.fedlin` gives one that is
            proved.
        steps: number H of local steps, at least 1; may be traced.
        batch_size: examples at a time, which bounds memory only (see :func:`fjx.rounds.minibatch`).
        uplink: codec of the gradients, such as ``error_feedback(top_k(0.1))``; identity by default.

    Returns:
        An :class:`fjx.Algorithm`.  Clients take the gradient at x again in the second round.  So they
        remember nothing but the codec's state, and a client that missed the first round may come to the
        second.

    Raises:
        ValueError: a number is out of range.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.fedlin(
        ...     lambda w, x, key: (w - x).mean(), learning_rate=0.1, steps=5, batch_size=10)

    References:
        Mitra, Jaafar, Pappas, Hassani, *Linear Convergence in Federated Learning: Tackling Client
        Heterogeneity and Sparse Gradients*, NeurIPS 2021 (arXiv:2102.07053), algorithm 1.
    """
    _validate.number("learning_rate", learning_rate, above=0)
    _validate.integer("steps", steps, at_least=1)
    full = clients.gradient(loss_fn, batch_size=batch_size)

    def ask(
        key: Key, server: FedLinState, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        return full.update(key, server.params, state, examples, turn)

    def walk(
        key: Key, server: FedLinState, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        x, descent = server
        at_x, _, metrics = full.update(key, x, state, examples, turn)
        correction = _tree.subtract(descent, at_x)

        def move(y: Tree, direction: Tree) -> Tree:
            return _tree.add(y, _tree.scale(jnp.asarray(learning_rate), direction))

        def step(t: Array, y: Tree) -> Tree:
            at_y, _, _ = full.update(jax.random.clone(key), y, state, examples, turn)
            return move(y, _tree.add(at_y, correction))

        y = jax.lax.fori_loop(1, steps, step, move(x, descent))  # at x gradients cancel
        metrics = {**metrics, "steps": jnp.asarray(steps, jnp.float32)}
        return _tree.subtract(y, x), state, metrics

    def arrive(state: FedLinState, moved: Tree) -> FedLinState:
        """Drop g, which was taken at x: if nobody comes to the next first round, nobody walks."""
        return FedLinState(_tree.add(state.params, moved), _tree.zeros_like(state.descent))

    return two_phases(
        Phase(
            ask,
            _tree.like,
            lambda state, g: state._replace(descent=g),
            identity() if uplink is None else uplink,
        ),
        Phase(walk, _tree.like, arrive),
        client=lambda params: (),
        server=lambda params: FedLinState(params, _tree.scale(jnp.float32(0), params)),
        broadcast=lambda state: state,
    )
