"""What a codec failed to send, remembered."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Compressor, Contract, Key, Tree, TreeLike
from fjx.compressors._chain import require_compressor


class ErrorFeedbackState(NamedTuple):
    """The state of :func:`error_feedback`.

    Attributes:
        residual: what past rounds failed to send; shaped like the message.
        inner: the state of the inner codec.
    """

    residual: Tree
    inner: Tree


def error_feedback(codec: Compressor) -> Compressor:
    """Remembers what a codec failed to send, and adds it to the next message.

    With residual e: c = C(x + e) is sent, and e becomes x + e - c.  The sum of all that was sent and
    the residual is the sum of all messages, so a contractive codec loses nothing for good.

    Guarantees: decode(payload) + e_new = x + e_old, to rounding; the residual is that of the decoded
        wire value, so rounding in the codec is fed back too.

    Args:
        codec: any compressor; theory asks for a contractive one (delta > 0).

    Returns:
        A :class:`fjx.Compressor` whose state holds one message per client.

    Raises:
        TypeError: ``codec`` is not a Compressor.

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

    def init(message_like: TreeLike) -> ErrorFeedbackState:
        return ErrorFeedbackState(_tree.zeros_like(message_like), codec.init(message_like))

    def encode(key: Key, message: Tree, state: ErrorFeedbackState) -> tuple[Tree, Tree]:
        wanted = _tree.add(message, state.residual)
        payload, inner = codec.encode(key, wanted, state.inner)
        return payload, ErrorFeedbackState(_missing(wanted, codec.decode(payload)), inner)

    return Compressor(init, encode, codec.decode, lambda message_like: Contract())


def _missing(wanted: Tree, sent: Tree) -> Tree:
    """``wanted - sent``; nothing is missing of what is not floating, for codecs pass it through."""
    return jax.tree.map(
        lambda w, s: w - s if _tree.is_float(w) else jnp.zeros_like(w), wanted, sent
    )
