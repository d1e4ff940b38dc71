"""Product quantisation: a codebook learned on the message that it encodes."""

import math

import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import EXACT, Array, Compressor, Contract, Key
from fjx._kernels import random as _random
from fjx._kernels.rounding import largest
from fjx.compressors._lift import lift
from fjx.wire import Codebook


def product_quantize(*, codebook: int, block: int, iterations: int = 8) -> Compressor:
    """Send K centres, and for each block of a leaf the number of its nearest centre.

    A leaf is cut into n = ceil(d / B) blocks of B coordinates, and the last is padded with zeros.
    k-means finds the centres inside the compiled program: k-means++ seeds them, and each iteration
    moves every centre to the mean of its nearest blocks.  Time grows as K d.

    The codes cost few bits, and the centres cost many unless the leaf has many blocks.
    ``flatten(product_quantize(...))`` shares one codebook among all leaves, and
    ``chain(product_quantize(...), cast(jnp.bfloat16))`` halves the centres.

    Guarantees:
        - Each centre that has blocks is their mean, so the errors of these blocks sum to zero.
        - ||x||^2 = ||C(x)||^2 + ||C(x) - x||^2 if nothing is padded.
        - Exact if there are at most K distinct blocks, except for differences below 2^-60 max|x|.
        - K = 1, B = 1 sends the mean.
        - A leaf of at most K blocks is sent unchanged.
        - A centre that has lost all its blocks stays where it is.
        - A leaf with a non-finite value, or with max|x| > 2^125, decodes to NaN everywhere.
        - A leaf with max|x| < 2^-126 decodes to zeros.

    Bits:
        n ceil(log2 K) + 32 K B per leaf.

    Args:
        codebook: number of centres K, 1 to 65536.
        block: coordinates per block B, at least 1.
        iterations: number of moves of the centres, at least 1.

    Returns:
        A :class:`fjx.Compressor`.  It is a projection and has no other bound, since K centres can
        be as wrong as their mean.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: one is out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.product_quantize(codebook=2, block=2)
        >>> x = jnp.array([1.0, 2.0, 3.0, -4.0, 1.0, 2.0, 1.0, 2.0])
        >>> payload, _ = codec.encode(jax.random.key(0), x, ())
        >>> codec.decode(payload).tolist() == x.tolist(), wire.bits(payload)
        (True, 136)

    References:
        Stock, Joulin, Gribonval, Graham, Jegou, *And the Bit Goes Down: Revisiting the Quantization
        of Neural Networks*, ICLR 2020 (arXiv:1907.05686); Prasad et al., *Reconciling Security and
        Communication Efficiency in Federated Learning* (arXiv:2207.12779); Arthur, Vassilvitskii,
        *k-means++: The Advantages of Careful Seeding*, SODA 2007.
    """
    codebook = _validate.static_integer("codebook", codebook, at_least=1, at_most=2**16)
    block = _validate.static_integer("block", block, at_least=1, at_most=2**20)
    iterations = _validate.static_integer("iterations", iterations, at_least=1)
    integer = jnp.uint8 if codebook <= 2**8 else jnp.uint16

    def as_it_is(size: int) -> bool:
        return -(-size // block) <= codebook

    def encode(key: Key, x: Array) -> Codebook | Array:
        if as_it_is(x.size):
            return x
        # In units of a power of two, no squared difference overflows, and not all of them vanish.
        flat = x.astype(jnp.float32).reshape(-1)
        top = largest(flat)
        usable = (top >= 2.0**-126) & (top <= 2.0**125)
        _, exponent = jnp.frexp(jnp.where(usable, top, 1.0))
        unit = jnp.where(usable, jnp.ldexp(flat, -exponent), 0.0)
        blocks = jnp.pad(unit, (0, -x.size % block)).reshape(-1, block).T
        centres = _seeded(key, blocks, codebook)

        def moved(_: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            codes = _nearest(blocks, found[0])
            return found[0] + _mean_residuals(blocks, found[0], codes), codes

        start = (centres, jnp.zeros(blocks.shape[1], jnp.int32))
        centres, codes = jax.lax.fori_loop(0, iterations, moved, start)
        centres = jnp.where(top <= 2.0**125, jnp.ldexp(centres, exponent), jnp.nan)
        return Codebook(codes.astype(integer), centres, codebook, x.shape, x.dtype.name)

    def decode(payload: Codebook) -> Array:
        blocks = payload.centres[payload.codes.astype(jnp.int32)]
        x = blocks.reshape(-1)[: math.prod(payload.shape)]
        return x.reshape(payload.shape).astype(payload.dtype)

    def contract(leaf: jax.ShapeDtypeStruct) -> Contract:
        if as_it_is(leaf.size):
            return EXACT
        whole = leaf.size % block == 0 and jnp.finfo(leaf.dtype).bits >= 32
        return Contract(projection=whole)

    return lift(encode, decode, contract, node=Codebook)


def _seeded(key: Key, blocks: Array, count: int) -> Array:
    """Seeds of k-means++, ``f32[count, B]``: each is a block.

    A block is drawn with probability proportional to its squared distance from the nearest seed so
    far.  A block equal to an earlier seed is drawn only if all blocks are.
    """
    key_first, key_rest = jax.random.split(key)
    n = blocks.shape[1]

    def add(distance: Array, number: Array) -> tuple[Array, Array]:
        # Among exponentials with rates d_i, number i is the least with probability d_i / sum d.
        waiting = -jnp.log1p(-_random.uniform(jax.random.fold_in(key_rest, number), (n,)))
        chosen = jnp.argmax(distance / jnp.maximum(waiting, 2.0**-24))
        centre = blocks[:, chosen]
        return jnp.minimum(distance, _distances(blocks, centre)), centre

    first = blocks[:, jax.random.randint(key_first, (), 0, n)]
    _, others = jax.lax.scan(add, _distances(blocks, first), jnp.arange(count - 1))
    return jnp.concatenate([first[None], others])


def _nearest(blocks: Array, centres: Array) -> Array:
    """The number of the nearest centre of each block; the first wins a tie."""

    def visit(
        found: tuple[Array, Array], numbered: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        distance, codes = found
        number, centre = numbered
        new = _distances(blocks, centre)
        return (jnp.minimum(distance, new), jnp.where(new < distance, number, codes)), None

    n = blocks.shape[1]
    start = (jnp.full(n, jnp.inf), jnp.zeros(n, jnp.int32))
    numbers = jnp.arange(len(centres), dtype=jnp.int32)
    return jax.lax.scan(visit, start, (numbers, centres))[0][1]


def _mean_residuals(blocks: Array, centres: Array, codes: Array) -> Array:
    """The move of each centre to the mean of its blocks; exactly zero if all of them equal it."""

    def residual(numbered: tuple[Array, Array]) -> Array:
        number, centre = numbered
        own = codes == number
        total = jnp.sum(jnp.where(own[None], blocks - centre[:, None], 0.0), axis=1)
        return total / jnp.maximum(jnp.sum(own), 1).astype(jnp.float32)

    return jax.lax.map(residual, (jnp.arange(len(centres), dtype=jnp.int32), centres))


def _distances(blocks: Array, centre: Array) -> Array:
    """The squared distances of columns from a centre."""
    return jnp.sum((blocks - centre[:, None]) ** 2, axis=0)
