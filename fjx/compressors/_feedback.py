"""Memories of what a codec failed to send."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx.compressors._shapes import require_compressor


class ErrorFeedbackState(NamedTuple):
    """The state of :func:`error_feedback`.

    Attributes:
        residual: the part of past messages that was not sent; shaped like the message, in float32 at
            least.
        inner: state of the inner codec.
        sent: ``i32[]``, number of messages sent, if the decay depends on it; else ``()``.
    """

    residual: Tree
    inner: Tree
    sent: Tree = ()


def error_feedback(
    codec: Compressor, *, decay: Array | float | Callable[[Array], Array | float] = 1.0
) -> Compressor:
    r"""Add to each message the part of past messages that the codec failed to send.

    With message x, residual e and decay beta:

    .. math:: c = C(x + \beta e), \quad e \leftarrow x + \beta e - c

    c is sent.  For beta = 1, the sum of all sent messages plus the residual is the sum of all
    messages, so a contractive codec loses nothing permanently.  A smaller beta forgets old
    residuals, which helps if clients return after many rounds.

    Guarantees:
        - decode(payload) + e_new = x + beta e_old, up to rounding.
        - The residual is computed from the decoded payload, so rounding in the codec is fed back,
          too.
        - The residual is kept in float32 at least, so a narrow message loses nothing permanently.
        - The contract promises nothing, because the payload depends on all messages so far.

    Args:
        codec: any compressor.  Theory needs a contractive one (delta > 0).  With an unbiased codec
            and omega >= 1 the residual may grow without bound: wrap such a codec in :func:`scaled`.
        decay: beta in [0, 1], may be traced; or a function of the number t of messages that the
            client has sent before, such as :func:`rescaling` makes from a schedule.

    Returns:
        A :class:`fjx.Compressor` whose state holds one message per client.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``decay`` is neither a number nor a function.
        ValueError: ``decay`` is out of range; or, from ``init``, the codec has a residual of its
            own, or is unbiased with decay^2 omega >= 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.error_feedback(compressors.top_k(0.5))
        >>> x = jnp.array([3.0, 2.0])
        >>> payload, state = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), state.residual.tolist()
        ([3.0, 0.0], [0.0, 2.0])

    References:
        Seide et al., *1-Bit Stochastic Gradient Descent*, Interspeech 2014; Karimireddy et al.,
        *Error Feedback Fixes SignSGD*, ICML 2019 (arXiv:1901.09847).
    """
    require_compressor("error_feedback", codec)
    if not callable(decay):
        _validate.number("decay", decay, at_least=0, at_most=1)

    def init(message_like: TreeLike) -> ErrorFeedbackState:
        _require_bounded("error_feedback", codec, message_like, decay)
        sent = jnp.int32(0) if callable(decay) else ()
        return ErrorFeedbackState(
            _tree.wide_zeros_like(message_like), codec.init(message_like), sent
        )

    def encode(key: Key, message: Tree, state: ErrorFeedbackState) -> tuple[Tree, Tree]:
        if callable(decay):
            beta, sent = decay(state.sent), state.sent + 1
        else:
            beta, sent = decay, state.sent
        wanted = _tree.add(_tree.widened(message), _times(beta, state.residual))
        payload, inner = codec.encode(key, _tree.in_dtypes_of(wanted, message), state.inner)
        return payload, ErrorFeedbackState(_missing(wanted, codec.decode(payload)), inner, sent)

    return Compressor(init, encode, codec.decode, lambda message_like: Contract())


def rescaling(schedule: Callable[[Array], Array | float]) -> Callable[[Array], Array]:
    """A decay that keeps the residual right when the learning rate of the server changes.

    A residual of gradients was computed under the rate gamma_(t-1), but is multiplied by gamma_t
    when it is sent.  The factor gamma_(t-1) / gamma_t makes it move the model as far as it should
    have.  Messages that are differences of models contain their learning rate already, and need no
    rescaling.

    Args:
        schedule: ``(t) -> gamma_t`` as in optax.  Where it is zero, nothing moves the model, and the
            residual keeps its scale.  t counts the client's own messages;
            these are the rounds of the server if all clients take part.

    Returns:
        The function ``(t) -> gamma_(t-1) / gamma_t`` for :func:`error_feedback`; it is 1 for t = 0.

    Examples:
        >>> import optax
        >>> from fjx import compressors
        >>> decay = compressors.rescaling(optax.exponential_decay(0.1, 1, 0.5))
        >>> [float(decay(t)) for t in (0, 1, 2)]
        [1.0, 2.0, 2.0]

    References:
        Karimireddy, Rebjock, Stich, Jaggi, *Error Feedback Fixes SignSGD and other Gradient
        Compression Schemes*, ICML 2019 (arXiv:1901.09847), whose algorithm feeds back gamma_t g_t.
    """

    def decay(t: Array) -> Array:
        t = jnp.asarray(t)
        before, now = (jnp.asarray(schedule(s), jnp.float32) for s in (jnp.maximum(t - 1, 0), t))
        usual = (t > 0) & (now > 0)
        return jnp.where(usual, before / jnp.where(usual, now, 1.0), 1.0)

    return decay


class MomentumState(NamedTuple):
    """The state of :func:`momentum_correction`.

    Attributes:
        momentum: u, shaped like the message, in float32 at least.
        residual: v, the part of past messages that was not sent; shaped like the message.
        inner: state of the inner codec.
    """

    momentum: Tree
    residual: Tree
    inner: Tree


def momentum_correction(codec: Compressor, *, momentum: Array | float = 0.9) -> Compressor:
    r"""Deep gradient compression: error feedback with momentum on each client.

    With message x, velocity u, residual v and momentum m:

    .. math:: u \leftarrow m u + x, \quad c = C(v + u), \quad v \leftarrow v + u - c

    c is sent.  Then u becomes zero wherever c is not zero, so that no coordinate moves by a
    momentum that is older than its last message.  With m = 0 this is :func:`error_feedback`.  It
    replaces momentum on the server.

    The paper's warm-up is a sequence of runs with ratios 0.25, 0.0625, 0.015625, 0.004 and 0.001.
    Each run begins with the client table of the one before, since no shape in the state depends on
    the ratio.

    Guarantees:
        - decode(payload) + v_new = v_old + m u_old + x, up to rounding.
        - The contract promises nothing, as that of error feedback.

    Args:
        codec: a sparsifier, such as ``top_k(0.001)``, or a chain that begins with one.
        momentum: m in [0, 1), may be traced.

    Returns:
        A :class:`fjx.Compressor` whose state holds two messages per client.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``momentum`` is not a number.
        ValueError: ``momentum`` is out of range; or, from ``init``, the codec has a residual of
            its own, or is unbiased with omega >= 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.momentum_correction(compressors.top_k(0.5), momentum=0.5)
        >>> x = jnp.array([3.0, 2.0])
        >>> payload, state = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), state.momentum.tolist(), state.residual.tolist()
        ([3.0, 0.0], [0.0, 2.0], [0.0, 2.0])

    References:
        Lin, Han, Mao, Wang, Dally, *Deep Gradient Compression: Reducing the Communication Bandwidth
        for Distributed Training*, ICLR 2018 (arXiv:1712.01887), which also clips the gradient of
        each client to 1 / sqrt(n) of the clipping norm for a mean of n.
    """
    require_compressor("momentum_correction", codec)
    _validate.number("momentum", momentum, at_least=0, below=1)

    def init(message_like: TreeLike) -> MomentumState:
        _require_bounded("momentum_correction", codec, message_like, 1.0)
        nothing = _tree.wide_zeros_like(message_like)
        return MomentumState(nothing, nothing, codec.init(message_like))

    def encode(key: Key, message: Tree, state: MomentumState) -> tuple[Tree, Tree]:
        velocity = _tree.add(_tree.widened(message), _times(momentum, state.momentum))
        wanted = _tree.add(state.residual, velocity)
        payload, inner = codec.encode(key, _tree.in_dtypes_of(wanted, message), state.inner)
        sent = codec.decode(payload)
        kept = jax.tree.map(lambda u, c: jnp.where(c == 0, u, jnp.zeros_like(u)), velocity, sent)
        return payload, MomentumState(kept, _missing(wanted, sent), inner)

    return Compressor(init, encode, codec.decode, lambda message_like: Contract())


def _times(factor: Array | float, residual: Tree) -> Tree:
    """``factor * residual``; with a factor of 1 the residual itself, bit for bit."""
    if isinstance(factor, float | int) and factor == 1:
        return residual

    def scale(x: Array) -> Array:
        return _tree.scale(jnp.asarray(factor), x).astype(x.dtype) if _tree.is_float(x) else x

    return jax.tree.map(scale, residual)


def _missing(wanted: Tree, sent: Tree) -> Tree:
    """``wanted - sent``; zero for other than float leaves, because codecs pass them through."""
    return jax.tree.map(
        lambda w, s: w - s.astype(w.dtype) if _tree.is_float(w) else jnp.zeros_like(w), wanted, sent
    )


def _require_bounded(where: str, codec: Compressor, message_like: TreeLike, decay: object) -> None:
    """Raise ValueError if a residual may grow without bound, or is kept twice.

    E||e_new||^2 <= omega ||x + beta e||^2 is attained by unbiased codecs, so that beta^2 omega >= 1 lets
    the residual grow from round to round.
    """
    inner = jax.eval_shape(codec.init, _tree.like(message_like))

    def is_memory(part: object) -> bool:
        return isinstance(part, ErrorFeedbackState | MomentumState)

    if any(map(is_memory, jax.tree.leaves(inner, is_leaf=is_memory))):
        raise ValueError(
            f"{where} around a codec with error feedback adds each residual twice; use one of the two"
        )
    # A narrow leaf is promised nothing, but what it lacks in digits does not make it contract.
    wide = jax.eval_shape(_tree.wide_zeros_like, _tree.like(message_like))
    promised = codec.contract(wide)
    if not promised.unbiased or promised.omega is None or not isinstance(decay, float | int):
        return
    if promised.delta is None and decay**2 * promised.omega >= 1:
        raise ValueError(
            f"{where} needs a codec that contracts, got an unbiased one with omega = "
            f"{promised.omega:.4g} for this message, with which the residual grows without bound; "
            "wrap it, as in error_feedback(scaled(codec)), or send it without error feedback"
        )
