"""A lossless coder behind a codec."""

from fjx._base import Compressor, Key, Tree
from fjx.compressors._shapes import require_compressor
from fjx.wire import Coded
from fjx.wire._coders.integers import require_coder


def entropy(codec: Compressor, coder: str) -> Compressor:
    """Write the integers of a codec in a lossless code: the same message with fewer bits.

    Predictable codes and indices become short.  The coder writes the gaps between ascending
    indices, and signed codes as magnitudes and signs.  If a code is longer than the fixed width,
    the fixed width is used.

    Guarantees:
        - Decodes to the same message as ``codec``, with its contract.
        - Never costs more than 8 bits above the fixed width, for each array of integers.

    Bits:
        For each array of integers or bools with a declared width, 8 and the length that
        :func:`fjx.wire.encode_integers` gives.  Everything else costs the same as before.
        :func:`fjx.wire.bits` counts this on concrete payloads, and :func:`fjx.wire.measured_bits`
        inside a program if the coder has a formula.  Shapes alone give the most that it can cost,
        and so do simulations with a coder without a formula (``"range"``, ``"zstd"``).

    Args:
        codec: any compressor.
        coder: ``"golomb"`` for gaps of indices and codes of geometric shape, ``"run_length"`` for
            codes that are mostly zero, ``"elias_gamma"``, ``"elias_delta"`` and ``"elias_omega"``
            for codes of few levels, ``"range"`` for any distribution, ``"zstd"`` as a yardstick.

    Returns:
        A :class:`fjx.Compressor`.  Put it last in a chain, since a codec after it would change the
        integers.

    Raises:
        TypeError: ``codec`` is not a Compressor.
        ValueError: ``coder`` is not one of these.

    Examples:
        The gaps between kept coordinates, one in 100, cost about 8 bits instead of 17:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> x = jax.random.normal(jax.random.key(0), (100_000,))
        >>> plain = compressors.chain(compressors.top_k(0.01), compressors.scaled_sign())
        >>> codec = compressors.entropy(plain, "golomb")
        >>> wire.bits(jax.jit(plain.encode)(jax.random.key(1), x, plain.init(x))[0])
        18032
        >>> wire.bits(jax.jit(codec.encode)(jax.random.key(1), x, codec.init(x))[0])
        9152

    References:
        Sattler, Wiedemann, Muller, Samek, *Robust and Communication-Efficient Federated Learning
        from Non-IID Data*, TNNLS 2019 (arXiv:1903.02891), for Golomb-coded gaps; Alistarh, Grubic,
        Li, Tomioka, Vojnovic, *QSGD*, NeurIPS 2017 (arXiv:1610.02132), for Elias codes of quantised
        values.
    """
    require_compressor("entropy", codec)
    require_coder(coder)

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Coded, Tree]:
        payload, state = codec.encode(key, message, state)
        return Coded(payload, coder), state

    def decode(payload: Coded) -> Tree:
        return codec.decode(payload.inner)

    return codec._replace(encode=encode, decode=decode)
