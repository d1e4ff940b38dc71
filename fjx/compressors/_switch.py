"""One of several codecs for each message, by a rule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fjx import _tree
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._kernels import random as _random
from fjx.compressors._shapes import payload_like, require_compressor
from fjx.compressors._sums import SumState
from fjx.wire import OneOf


def switch(which: Callable[[Key, Tree], Array], *codecs: Compressor) -> Compressor:
    """One of several codecs, chosen for each message by a rule.

    Only the payload of the chosen codec is sent, with a byte that says which one it is.  The states of
    the other codecs stay.  :func:`mixture` is the rule that ignores the message and draws.

    Guarantees:
        - Unbiased if all codecs are: a rule may read the message, but not the draws of the codecs.
        - omega is the largest and delta the smallest of the codecs, where all promise one.

    Bits:
        Those of the chosen codec + 8.  Shapes alone give those of the most expensive codec.

    Args:
        which: ``(key, message) -> i32[]``, the number of the codec.
        *codecs: at least one codec, at most 256.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: a codec is not a Compressor.
        ValueError: there are no codecs, or more than 256.

    Examples:
        A message with a large coordinate is sent in half precision, others in 4 bits:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.switch(
        ...     lambda key, x: jnp.max(jnp.abs(x)) > 1.0,
        ...     compressors.quantize(bits=4), compressors.cast(jnp.bfloat16))
        >>> encode = jax.jit(codec.encode)
        >>> for scale in (0.5, 2.0):
        ...     x = scale * jnp.ones(100)
        ...     wire.bits(encode(jax.random.key(0), x, codec.init(x))[0])
        440
        1608
    """
    for codec in codecs:
        require_compressor("switch", codec)
    if not 1 <= len(codecs) <= 256:
        raise ValueError(f"switch needs 1 to 256 codecs, got {len(codecs)}")

    def init(message_like: TreeLike) -> SumState:
        return SumState(tuple(codec.init(message_like) for codec in codecs))

    def encode(key: Key, message: Tree, state: SumState) -> tuple[OneOf, SumState]:
        key_choice, key_encode = (jax.random.fold_in(key, i) for i in range(2))
        number = jnp.asarray(which(key_choice, message)).astype(jnp.uint8)
        nothing = tuple(_tree.zeros_like(payload_like(codec, message)) for codec in codecs)

        # The key is passed as numbers: vmap cannot select from a key that one branch has used up.
        seed, impl = _random.seed_of(key_encode)

        def branch(i: int) -> Callable[[Array], tuple[Tree, Tree]]:
            def run(seed: Array) -> tuple[Tree, Tree]:
                key = _random.key_of(seed, impl)
                payload, after = codecs[i].encode(key, message, state.parts[i])
                parts, states = list(nothing), list(state.parts)
                parts[i], states[i] = payload, after
                return tuple(parts), tuple(states)

            return run

        branches = [branch(i) for i in range(len(codecs))]
        parts, states = jax.lax.switch(number.astype(jnp.int32), branches, seed)
        return OneOf(number, parts), SumState(states)

    def decode(payload: OneOf) -> Tree:
        branches = [
            lambda parts, i=i, codec=codec: codec.decode(parts[i]) for i, codec in enumerate(codecs)
        ]
        return jax.lax.switch(payload.which.astype(jnp.int32), branches, payload.parts)

    def contract(message_like: TreeLike) -> Contract:
        contracts = [codec.contract(message_like) for codec in codecs]
        omegas = [c.omega for c in contracts if c.omega is not None]
        deltas = [c.delta for c in contracts if c.delta is not None]
        return Contract(
            unbiased=all(c.unbiased for c in contracts),
            omega=max(omegas) if len(omegas) == len(codecs) else None,
            delta=min(deltas) if len(deltas) == len(codecs) else None,
        )

    return Compressor(init, encode, decode, contract)
