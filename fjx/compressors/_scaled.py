"""Multiples of a codec."""

import jax
import jax.numpy as jnp

from fjx import _tree, _validate
from fjx._base import Array, Compressor, Contract, Tree, TreeLike
from fjx.compressors._shapes import has_narrow, require_compressor


def scaled(codec: Compressor, factor: Array | float | None = None) -> Compressor:
    """Multiply the decoded message of an unbiased codec by 1 / (1 + omega), so that it contracts.

    The receiver computes the factor from shapes alone, so the payload and its bits are those of the
    codec.  Use it inside ``error_feedback``, which needs a contraction.

    Guarantees:
        - delta = 1 / (1 + omega) with the default factor 1 / (1 + omega), for every omega.  In
          expectation, ||C(x)/(1+omega) - x||^2 <= omega / (1 + omega) ||x||^2.
        - Nothing is promised of leaves narrower than float32, which are rounded once more.
        - With another factor a, delta = 2 a - a^2 (1 + omega).  Nothing is promised if this is not
          positive, or if a is traced.

    Bits:
        Those of the codec.

    Args:
        codec: unbiased codec with a known omega; any codec if ``factor`` is given.
        factor: factor of the decoded message; may be traced.

    Returns:
        A :class:`fjx.Compressor`.

    Raises:
        TypeError: ``codec`` is not a Compressor.
        ValueError: from ``init`` or ``decode``, if no factor is given and the codec's contract is
            not unbiased or has no omega.

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
        JMLR 2023 (arXiv:2002.12410), for the two classes of codecs; Safaryan, Shulgin, Richtarik,
        *Uncertainty Principle for Communication Compression*, Information and Inference 2022
        (arXiv:2002.08958).
    """
    require_compressor("scaled", codec)
    if factor is not None:
        _validate.number("factor", factor)

    def omega_of(like: TreeLike) -> float:
        promised = codec.contract(like)
        if not promised.unbiased or promised.omega is None:
            raise ValueError(
                "scaled needs a codec whose contract is unbiased with a known omega for float32 "
                f"leaves, got {promised}; give the factor, as in scaled(codec, 0.1)"
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
        if has_narrow(message_like):
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
