"""One of several codecs, drawn at random for each message."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fjx import _validate
from fjx._base import Array, Compressor, Contract, Key, Tree, TreeLike
from fjx._kernels import random as _random
from fjx.compressors._switch import switch


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
    if not 1 <= len(codecs) <= 256:
        raise ValueError(f"mixture needs 1 to 256 codecs, got {len(codecs)}")
    shares = [_validate.static_number("probabilities", p, at_least=0) for p in probabilities]
    if len(shares) != len(codecs) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"mixture needs a probability for each of {len(codecs)} codecs, with sum 1, got {shares}"
        )
    bounds = np.cumsum(shares)[:-1].astype(np.float32)

    def draw(key: Key, message: Tree) -> Array:
        return jnp.sum(_random.uniform(key, ()) >= bounds)

    chosen = switch(draw, *codecs)

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

    return chosen._replace(contract=contract)
