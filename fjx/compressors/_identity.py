"""The codec that changes nothing."""

from fjx._base import EXACT, Compressor


def identity() -> Compressor:
    """Send the message unchanged.

    Guarantees:
        - Exact: C(x) = x.

    Bits:
        Those of the arrays.

    Returns:
        A :class:`fjx.Compressor` with contract omega = 0, delta = 1, linear.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors
        >>> codec = compressors.identity()
        >>> payload, _ = codec.encode(jax.random.key(0), {"w": jnp.arange(3.0)}, ())
        >>> codec.decode(payload)["w"].tolist()
        [0.0, 1.0, 2.0]
    """
    return Compressor(
        init=lambda message_like: (),
        encode=lambda key, message, state: (message, state),
        decode=lambda payload: payload,
        contract=lambda message_like: EXACT,
    )
