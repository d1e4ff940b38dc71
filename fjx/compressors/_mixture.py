"""One of several codecs, drawn at random for each message."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fjx import _tree, _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._kernels import random as _random
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.compressors._sums import SumState
from fjx.wire import OneOf


def mixture(*codecs: Compressor, probabilities: Sequence[float]) -> Compressor:
    """One of several codecs, drawn at random for each message.

    Only the payload of the drawn codec is sent, with a byte that says which one it is.

    Guarantees:
        - Unbiased if all codecs are.
        - omega = sum_i p_i omega_i and delta = sum_i p_i delta_i.

    Bits:
        Those of the drawn codec + 8.  Shapes alone give those of the most expensive codec.

    Args:
        *codecs: at least one codec, at most 256.
        probabilities: one for each codec, non-negative, with sum one.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: a codec is not a Compressor, or a probability is not a number.
        ValueError: there are no codecs or too many, their number is not that of the probabilities,
            or the probabilities are negative or do not sum to one.

    Examples:
        Two bits per coordinate, and the exact message now and then:

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

        # The key is passed as numbers: vmap cannot select from a key that one branch has used up.
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
