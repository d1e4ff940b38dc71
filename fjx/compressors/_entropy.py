"""A lossless coder behind a codec."""

from fjx._base import Compressor, Key, Tree
from fjx.compressors._shapes import require_compressor
from fjx.wire import Coded
from fjx.wire._coders.integers import require_coder


def entropy(codec: Compressor, coder: str) -> Compressor:
    """Writes a codec's integers in a lossless code: what is decoded stays, what travels shrinks.

    Codes and indices travel as short as they are predictable: of ascending indices the gaps are coded,
    of signed codes the magnitudes, with their signs.  A code that turns out longer than the fixed width
    is not used.

    Guarantees: decodes to what ``codec`` does, with its contract; bits: of each array of integers with
        a declared width, 8 and what :func:`fjx.wire.encode_integers` says, never more than 8 above
        its fixed width; the rest as before.  So many bits :func:`fjx.wire.bits` counts of concrete
        payloads, and :func:`fjx.wire.measured_bits` in a program where the coder has a formula; shapes
        alone, and simulations with a coder that has none (``"range"``, ``"zstd"``), tell the most it
        may cost.

    Args:
        codec: any compressor.
        coder: ``"golomb"`` for gaps of indices and codes of geometric shape, ``"run_length"`` for codes
            that are mostly zero, ``"elias_gamma"``, ``"elias_delta"`` and ``"elias_omega"`` for codes of
            few levels, ``"range"`` for any distribution, ``"zstd"`` as a yardstick.

    Returns:
        A :class:`fjx.Compressor`, the last of a chain: what follows would change what is coded.

    Raises:
        TypeError: ``codec`` is not a Compressor.
        ValueError: ``coder`` is not one of these.

    Examples:
        One coordinate of 100, whose gaps cost about 8 bits instead of 17:

        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> x = jax.random.normal(jax.random.key(0), (100_000,))
        >>> plain = compressors.chain(compressors.top_k(0.01), compressors.scaled_sign())
        >>> codec = compressors.entropy(plain, "golomb")
        >>> wire.bits(jax.jit(plain.encode)(jax.random.key(1), x, plain.init(x))[0])
        18032
        >>> wire.bits(jax.jit(codec.encode)(jax.random.key(1), x, codec.init(x))[0])
        9144

    References:
        Sattler, Wiedemann, Muller, Samek, *Robust and Communication-Efficient Federated Learning from
        Non-IID Data*, TNNLS 2019 (arXiv:1903.02891), for Golomb-coded gaps; Alistarh, Grubic, Li,
        Tomioka, Vojnovic, *QSGD*, NeurIPS 2017 (arXiv:1610.02132), for Elias codes of quantised values.
    """
    require_compressor("entropy", codec)
    require_coder(coder)

    def encode(key: Key, message: Tree, state: Tree) -> tuple[Coded, Tree]:
        payload, state = codec.encode(key, message, state)
        return Coded(payload, coder), state

    def decode(payload: Coded) -> Tree:
        return codec.decode(payload.inner)

    return codec._replace(encode=encode, decode=decode)
