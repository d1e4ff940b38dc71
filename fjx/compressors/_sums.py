"""Sums of codecs: each one encodes the part that those before it missed."""

import functools
from typing import NamedTuple

import jax

from fjx import _tree, _validate
from fjx._base import Compressor, Contract, Key, Tree, TreeLike
from fjx.compressors._shapes import has_narrow, require_compressor
from fjx.wire import Summed


class SumState(NamedTuple):
    """The state of :func:`induced`, :func:`repeat` and :func:`mixture`.

    Attributes:
        parts: one state for each codec or round, in order.
    """

    parts: tuple[Tree, ...]


def induced(biased: Compressor, unbiased: Compressor) -> Compressor:
    """Make any codec unbiased: send the part that it missed with an unbiased codec.

    .. math:: C(x) = C_1(x) + C_2(x - C_1(x))

    Guarantees:
        - Unbiased if ``unbiased`` is, for leaves that are not narrower than float32.
        - The sum is in float32 at least, and is rounded to a narrower leaf once.
        - omega = omega_2 (1 - delta_1) with delta_1 of the first codec and omega_2 of the second:
          less than that of the second alone.

    Bits:
        Those of both.

    Args:
        biased: codec C_1 of the message.
        unbiased: codec C_2 of the rest.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: an argument is not a Compressor.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.induced(compressors.top_k(0.5), compressors.rand_k(0.5))
        >>> x = jnp.array([8.0, 0.0, -9.0, 0.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), codec.contract(x).omega
        ([8.0, 0.0, -9.0, 0.0], 0.5)

    References:
        Horvath, Richtarik, *A Better Alternative to Error Feedback for Communication-Efficient
        Distributed Learning*, ICLR 2021 (arXiv:2006.11077), theorem 3.
    """
    require_compressor("induced", biased)
    require_compressor("induced", unbiased)

    def contract(message_like: TreeLike) -> Contract:
        first, second = biased.contract(message_like), unbiased.contract(message_like)
        if not second.unbiased or has_narrow(message_like):
            return Contract()
        if first.delta is None or second.omega is None:
            return Contract(unbiased=True)
        omega = second.omega * (1 - first.delta)
        return Contract(unbiased=True, omega=omega, delta=1 - omega if omega < 1 else None)

    return _in_turn([biased, unbiased])._replace(contract=contract)


def repeat(codec: Compressor, *, times: int) -> Compressor:
    """Send a message in several rounds, each of the part that the rounds before missed.

    Guarantees:
        - delta = 1 - (1 - delta_1)^times, with delta_1 of the codec, for leaves that are not narrower
          than float32.  The sum is in float32 at least, and is rounded to a narrower leaf once.

    Bits:
        ``times`` those of the codec.

    Args:
        codec: contractive codec.
        times: number of rounds, at least 1.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``times`` is not an integer.
        ValueError: ``times`` is less than 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.repeat(compressors.scaled_sign(), times=3)
        >>> x = jnp.array([4.0, 2.0, -1.0, -1.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, codec.init(x))
        >>> codec.decode(payload).tolist(), codec.contract(x).delta
        ([3.5, 2.5, -0.5, -0.5], 0.578125)

    References:
        Li, Li, Chi, *PowerEF*, arXiv:2310.19059, where the rounds are called fast compressed
        communication.
    """
    require_compressor("repeat", codec)
    times = _validate.static_integer("times", times, at_least=1)

    def contract(message_like: TreeLike) -> Contract:
        promised = codec.contract(message_like)
        if promised.delta is None or has_narrow(message_like):
            return Contract()
        # Each round's bound holds given the rounds before, whose draws are independent of its own.
        return Contract(delta=1 - (1 - promised.delta) ** times)

    return _in_turn([codec] * times)._replace(contract=contract)


def _in_turn(codecs: list[Compressor]) -> Compressor:
    """A codec whose parts each encode the rest of those before; it decodes to their sum."""

    def init(message_like: TreeLike) -> SumState:
        floats, _ = _tree.split_floats(message_like)
        return SumState(tuple(codec.init(floats) for codec in codecs))

    def encode(key: Key, message: Tree, state: SumState) -> tuple[Summed, SumState]:
        rest, others = _tree.split_floats(message)
        payloads, states = [], []
        like, rest = rest, _tree.widened(rest)
        for i, (codec, inner) in enumerate(zip(codecs, state.parts, strict=True)):
            part = _tree.in_dtypes_of(rest, like)
            payload, inner = codec.encode(jax.random.fold_in(key, i), part, inner)
            rest = _tree.subtract(rest, codec.decode(payload))
            payloads.append(payload)
            states.append(inner)
        return Summed(tuple(payloads), others), SumState(tuple(states))

    def decode(payload: Summed) -> Tree:
        decoded = [codec.decode(p) for codec, p in zip(codecs, payload.parts, strict=True)]
        total = functools.reduce(_tree.add, decoded[1:], _tree.widened(decoded[0]))
        return _tree.merge(_tree.in_dtypes_of(total, decoded[0]), payload.others)

    return Compressor(init, encode, decode, lambda message_like: Contract())
