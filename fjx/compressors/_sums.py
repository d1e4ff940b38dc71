"""Codecs that are sums, choices or multiples of codecs."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._kernels import random as _random
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.wire import OneOf, Summed


def scaled(codec: Compressor, factor: Array | float | None = None) -> Compressor:
    """Shrinks what an unbiased codec decodes, so that it contracts: C(x) / (1 + omega).

    The shrinkage is the receiver's, from shapes alone: the payload and its bits are the codec's.

    Guarantees: with the default factor 1 / (1 + omega), ||C(x)/(1+omega) - x||^2 <=
        omega / (1 + omega) ||x||^2 in expectation, so delta = 1 / (1 + omega), whatever omega; with
        another factor a, delta = 2 a - a^2 (1 + omega), and nothing is promised where that is not
        positive or a is traced.

    Args:
        codec: unbiased, with a known omega, unless ``factor`` is given.
        factor: by which the decoded message is multiplied; may be traced.

    Returns:
        A :class:`fjx.Compressor`, of use in ``error_feedback``.

    Raises:
        TypeError: ``codec`` is not a Compressor.
        ValueError: from ``init`` or ``decode``, if no factor is given and the codec's contract has no
            omega or is not unbiased.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.scaled(compressors.rand_k(0.25))
        >>> payload, _ = codec.encode(jax.random.key(0), jnp.ones(8), codec.init(jnp.ones(8)))
        >>> sorted(codec.decode(payload).tolist())  # rand-k without its factor of d/k
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
        >>> codec.contract(jnp.ones(8)).delta
        0.25

    References:
        Beznosikov, Horvath, Richtarik, Safaryan, *On Biased Compression for Distributed Learning*,
        JMLR 2023 (arXiv:2002.12410), for the two classes; Safaryan, Shulgin, Richtarik, *Uncertainty
        Principle for Communication Compression*, Information and Inference 2022 (arXiv:2002.08958).
    """
    require_compressor("scaled", codec)
    if factor is not None:
        _validate.number("factor", factor)

    def omega_of(like: TreeLike) -> float:
        promised = codec.contract(like)
        if not promised.unbiased or promised.omega is None:
            raise ValueError(
                "scaled needs a codec whose contract is unbiased with a known omega for float32 "
                f"leaves, got {promised}; give the factor"
            )
        return promised.omega

    def decode(payload: Tree) -> Tree:
        message = codec.decode(payload)
        by = 1 / (1 + omega_of(_tree.like(message))) if factor is None else factor

        def shrink(x: Array) -> Array:
            return (x.astype(jnp.float32) * by).astype(x.dtype) if _tree.is_float(x) else x

        return jax.tree.map(shrink, message)

    def contract(message_like: TreeLike) -> Contract:
        promised = codec.contract(message_like)
        linear = promised.linear
        if not promised.unbiased or promised.omega is None or not _validate.concrete(factor):
            return Contract(linear=linear)
        # E||a C - x||^2 = a^2 E||C||^2 - 2 a ||x||^2 + ||x||^2, where E||C||^2 <= (1 + omega) ||x||^2.
        a = 1 / (1 + promised.omega) if factor is None else float(factor)
        delta = 2 * a - a**2 * (1 + promised.omega)
        return Contract(delta=delta if delta > 0 else None, linear=linear)

    def init(message_like: TreeLike) -> Tree:
        if factor is None:
            omega_of(message_like)
        return codec.init(message_like)

    return codec._replace(init=init, decode=decode, contract=contract)


class SumState(NamedTuple):
    """The states of the codecs of :func:`induced`, and of the rounds of :func:`repeat`.

    Attributes:
        parts: one each, in order.
    """

    parts: tuple[Tree, ...]


def induced(biased: Compressor, unbiased: Compressor) -> Compressor:
    """Makes any codec unbiased by sending what it missed with an unbiased one: C1(x) + C2(x - C1(x)).

    Guarantees: unbiased if ``unbiased`` is; with delta of the first and omega of the second,
        omega_12 = omega (1 - delta): less than that of the second alone; bits: those of both.

    Args:
        biased: sent first.
        unbiased: of what is left.

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
        if not second.unbiased:
            return Contract()
        if first.delta is None or second.omega is None:
            return Contract(unbiased=True)
        omega = second.omega * (1 - first.delta)
        return Contract(unbiased=True, omega=omega, delta=1 - omega if omega < 1 else None)

    return _in_turn([biased, unbiased])._replace(contract=contract)


def repeat(codec: Compressor, *, times: int) -> Compressor:
    """Sends a message in several rounds, each of what those before it missed.

    Guarantees: with delta of the codec, 1 - (1 - delta)^times; bits: ``times`` those of the codec.

    Args:
        codec: contractive.
        times: at least 1.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor, or ``times`` not an integer.
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
        if promised.delta is None:
            return Contract()
        # Each round's bound holds given the rounds before, whose draws are independent of its own.
        return Contract(delta=1 - (1 - promised.delta) ** times)

    return _in_turn([codec] * times)._replace(contract=contract)


def _in_turn(codecs: list[Compressor]) -> Compressor:
    """Each codec encodes what those before it left; decoded is the sum."""

    def init(message_like: TreeLike) -> SumState:
        floats, _ = _tree.split_floats(message_like)
        return SumState(tuple(codec.init(floats) for codec in codecs))

    def encode(key: Key, message: Tree, state: SumState) -> tuple[Summed, SumState]:
        rest, others = _tree.split_floats(message)
        payloads, states = [], []
        for i, (codec, inner) in enumerate(zip(codecs, state.parts, strict=True)):
            payload, inner = codec.encode(jax.random.fold_in(key, i), rest, inner)
            rest = _tree.subtract(rest, codec.decode(payload))
            payloads.append(payload)
            states.append(inner)
        return Summed(tuple(payloads), others), SumState(tuple(states))

    def decode(payload: Summed) -> Tree:
        decoded = (codec.decode(p) for codec, p in zip(codecs, payload.parts, strict=True))
        return _tree.merge(functools.reduce(_tree.add, decoded), payload.others)

    return Compressor(init, encode, decode, lambda message_like: Contract())


def mixture(*codecs: Compressor, probabilities: Sequence[float]) -> Compressor:
    """One of several codecs, chosen at random for each message.

    Only the payload of the one that was chosen is sent, and a byte that says which it is.

    Guarantees: unbiased if all are; omega = sum_i p_i omega_i and delta = sum_i p_i delta_i; bits:
        those of the codec that was chosen + 8.  Shapes alone tell those of the dearest.

    Args:
        *codecs: at least one, at most 256.
        probabilities: one for each, non-negative, with sum one.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: a codec is not a Compressor, or a probability not a number.
        ValueError: there are none or too many, not as many probabilities as codecs, or these are not
            probabilities.

    Examples:
        Two bits a coordinate, and now and then all of them:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.mixture(
        ...     compressors.quantize(bits=2), compressors.identity(), probabilities=[0.9, 0.1])
        >>> x = jnp.ones(100)
        >>> encode = jax.jit(codec.encode)
        >>> payloads = [encode(jax.random.key(i), x, codec.init(x))[0] for i in range(20)]
        >>> sorted({wire.bits(payload) for payload in payloads})
        [240, 3208]

    References:
        Beznosikov, Horvath, Richtarik, Safaryan, *On Biased Compression for Distributed Learning*,
        JMLR 2023 (arXiv:2002.12410).
    """
    for codec in codecs:
        require_compressor("mixture", codec)
    if not 1 <= len(codecs) <= 256:
        raise ValueError(f"mixture needs 1 to 256 codecs, got {len(codecs)}")
    shares = [_validate.static_number("probabilities", p, at_least=0) for p in probabilities]
    if len(shares) != len(codecs) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"mixture needs a probability for each of {len(codecs)} codecs, with sum 1, got {shares}"
        )
    bounds = np.cumsum(shares)[:-1].astype(np.float32)

    def init(message_like: TreeLike) -> SumState:
        return SumState(tuple(codec.init(message_like) for codec in codecs))

    def encode(key: Key, message: Tree, state: SumState) -> tuple[OneOf, SumState]:
        key_choice, key_encode = (jax.random.fold_in(key, i) for i in range(2))
        which = jnp.sum(_random.uniform(key_choice, ()) >= bounds).astype(jnp.uint8)
        nothing = tuple(_tree.zeros_like(payload_like(codec, message)) for codec in codecs)

        # As numbers: a key that one branch uses up may not be chosen from by vmap.
        seed, impl = jax.random.key_data(key_encode), str(jax.random.key_impl(key_encode))

        def branch(i: int) -> Callable[[Array], tuple[Tree, Tree]]:
            def run(seed: Array) -> tuple[Tree, Tree]:
                key = jax.random.wrap_key_data(seed, impl=impl)
                payload, after = codecs[i].encode(key, message, state.parts[i])
                parts, states = list(nothing), list(state.parts)
                parts[i], states[i] = payload, after
                return tuple(parts), tuple(states)

            return run

        branches = [branch(i) for i in range(len(codecs))]
        parts, states = jax.lax.switch(which.astype(jnp.int32), branches, seed)
        return OneOf(which, parts), SumState(states)

    def decode(payload: OneOf) -> Tree:
        branches = [
            lambda parts, i=i, codec=codec: codec.decode(parts[i]) for i, codec in enumerate(codecs)
        ]
        return jax.lax.switch(payload.which.astype(jnp.int32), branches, payload.parts)

    def contract(message_like: TreeLike) -> Contract:
        contracts = [codec.contract(message_like) for codec in codecs]

        def mean(values: list[float | None]) -> float | None:
            known = [
                p * value for p, value in zip(shares, values, strict=True) if value is not None
            ]
            return sum(known) if len(known) == len(values) else None

        return Contract(
            unbiased=all(c.unbiased for c in contracts),
            omega=mean([c.omega for c in contracts]),
            delta=mean([c.delta for c in contracts]),
        )

    return Compressor(init, encode, decode, contract)
