"""1-bit Adam: a variance from a warm-up, then a momentum that travels as signs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Algorithm, Array, Compressor, Examples, Key, Metrics, Tree, Turn
from fjx.algorithms._refuse import MEMORY, METHOD, fixes
from fjx.clients import LossFn
from fjx.clients._minibatch import batch_gradient
from fjx.compressors import error_feedback, scaled_sign
from fjx.rounds._two_phases import Phase, two_phases


class OneBitAdamState(NamedTuple):
    """Server state of :func:`onebit_adam`.

    Attributes:
        params: the model.
        momentum: m, the average of descent directions.
        variance: v, which no longer moves after the warm-up.
    """

    params: Tree
    momentum: Tree
    variance: Tree


@fixes(aggregator=MEMORY, uplink=METHOD)
def onebit_adam(
    loss_fn: LossFn,
    *,
    warmup: int | Array,
    learning_rate: float | Array,
    batch_size: int,
    beta1: float | Array = 0.9,
    beta2: float | Array = 0.999,
    eps: float | Array = 1e-8,
    codec: Compressor | None = None,
) -> Algorithm:
    """1-bit Adam: Adam in a warm-up, then compressed momentum over a frozen variance.

    In the warm-up clients send their gradients g_i whole, and with g their mean

        m = beta_1 m + (1 - beta_1) g,   v = beta_2 v + (1 - beta_2) g^2,
        x = x - eta m / (sqrt(v) + eps).

    After it v rests.  Each client sends C(beta_1 m + (1 - beta_1) g_i), and the server sends C of the
    mean of these, which is the new m.  Both ends remember the error of C and add it to their next
    message.

    Guarantees:
        - The mean of m_i + residuals is conserved, as in :func:`double_squeeze`.
        - As in the paper, neither moment is corrected for its start at zero.
        - A round without participants changes nothing.

    Bits:
        In the warm-up, those of the gradient up and of its mean down.  After it, those of the codec in
        both directions.

    Args:
        loss_fn: loss function ``(params, batch, key) -> loss`` or ``(loss, metrics)``, a batch mean.
        warmup: number of rounds of the warm-up, at least 1; the paper has 15 to 25 of 100.  May be
            traced.
        learning_rate: step size eta.
        batch_size: number of examples in a batch.
        beta1: decay of the momentum, in [0, 1).
        beta2: decay of the variance, in [0, 1).
        eps: floor of the denominator, positive.  If v is near zero, signs of any scale move the model
            far, so models with coordinates of vanishing gradient want a larger one.
        codec: codec C of the momentum, without a state, because its error is remembered here;
            ``scaled_sign()`` by default, which sends one bit a coordinate and one scale a leaf.

    Returns:
        An :class:`fjx.Algorithm`.

    Raises:
        ValueError: a number is out of range; from ``init``, the codec has a state.

    Examples:
        >>> from fjx import algorithms
        >>> algorithm = algorithms.onebit_adam(
        ...     lambda w, x, key: (w - x).mean(), warmup=20, learning_rate=0.001, batch_size=10)

    References:
        Tang, Gan, Awan, Rajbhandari, Li, Lian, Liu, Zhang, He, *1-bit Adam: Communication Efficient
        Large-Scale Training with Adam's Convergence Speed*, ICML 2021 (arXiv:2102.02888), algorithm 1.
    """
    _validate.integer("warmup", warmup, at_least=1)
    _validate.number("learning_rate", learning_rate, above=0)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        _validate.number(name, beta, at_least=0, below=1)
    _validate.number("eps", eps, above=0)
    plain = scaled_sign() if codec is None else codec
    codec = error_feedback(plain)
    batch = batch_gradient(loss_fn, batch_size)

    def mix(beta: float | Array, old: Tree, new: Tree) -> Tree:
        old, new = _tree.scale(jnp.asarray(beta), old), _tree.scale(jnp.asarray(1 - beta), new)
        return _tree.add(old, new)

    def ask(
        key: Key, server: OneBitAdamState, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        return batch.update(key, server.params, state, examples, turn)

    def push(
        key: Key, server: OneBitAdamState, state: Tree, examples: Examples, turn: Turn
    ) -> tuple[Tree, Tree, Metrics]:
        descent, state, metrics = batch.update(key, server.params, state, examples, turn)
        return mix(beta1, server.momentum, descent), state, metrics

    def move(state: OneBitAdamState, momentum: Tree) -> Tree:
        def step(x: Array, m: Array, v: Array) -> Array:
            eta, floor = (jnp.asarray(number).astype(m.dtype) for number in (learning_rate, eps))
            return x + _tree.to_dtype(eta * m / (jnp.sqrt(v) + floor), x.dtype)

        return jax.tree.map(step, state.params, momentum, state.variance)

    def adam(state: OneBitAdamState, descent: Tree) -> OneBitAdamState:
        square = jax.tree.map(jnp.square, descent)
        state = state._replace(variance=mix(beta2, state.variance, square))
        momentum = mix(beta1, state.momentum, descent)
        return state._replace(params=move(state, momentum), momentum=momentum)

    def frozen(state: OneBitAdamState, momentum: Tree) -> OneBitAdamState:
        return state._replace(params=move(state, momentum), momentum=momentum)

    def nothing(params: Tree) -> Tree:
        return _tree.scale(jnp.float32(0), params)

    def init(params: Tree) -> OneBitAdamState:
        if jax.tree.leaves(plain.init(_tree.like(nothing(params)))):
            raise ValueError(
                "onebit_adam: codec must be one without a state, such as scaled_sign; its error "
                "is remembered here, and error_feedback would count it twice"
            )
        return OneBitAdamState(params, nothing(params), nothing(params))

    return two_phases(
        Phase(ask, _tree.like, adam),
        Phase(
            push,
            lambda params: jax.eval_shape(nothing, params),
            frozen,
            uplink=codec,
            downlink=codec,
        ),
        client=lambda params: (),
        server=init,
        broadcast=lambda state: state,
        schedule=lambda rounds: (rounds >= warmup).astype(jnp.int32),
    )
