"""The kernels of fjx for :mod:`benchmarks.kernels`."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels import COHORT, SHORT, SIZE, Kernel, work
from fjx import Compressor, wire
from fjx import compressors as c


def timed(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A compiled function that returns when its result is there."""
    compiled = jax.jit(function)
    return lambda x: jax.block_until_ready(compiled(x))


def encoder(codec: Compressor) -> Callable[[Any], Any]:
    """The payload of an array, without what a codec remembers."""
    key = jax.random.key(0)
    return lambda x: codec.encode(key, x, codec.init(x))[0]


def packed(codec: Compressor, bits: int) -> Callable[[Any], Any]:
    """The words and the scales of a quantiser's payload."""

    def run(x: jax.Array) -> Any:
        leaves = jax.tree.leaves(encoder(codec)(x))
        codes = [leaf for leaf in leaves if leaf.size == x.size]
        return [wire.pack_words(code, bits) for code in codes], [
            y for y in leaves if y.size < x.size
        ]

    return run


def unpacked(bits: int) -> Callable[[Any], Any]:
    """Words to floats."""

    def run(words: jax.Array) -> jax.Array:
        codes = wire.unpack_words(words, bits, SIZE)
        if bits == 1:
            return jnp.where(codes > 0, -0.5, 0.5)
        signed = (codes << (32 - bits)).astype(jnp.int32) >> (32 - bits)
        return signed.astype(jnp.float32) * 0.5

    return run


def codecs() -> dict[str, Compressor]:
    """Those that are timed on one long vector and on many short ones."""
    return {
        "EDEN 1 bit": c.eden(bits=1),
        "EDEN 1 bit in blocks": c.eden(bits=1, block=4096),
        "top-k 1 %": c.top_k(0.01),
        "rand-k 1 %": c.rand_k(0.01),
        "count-sketch": c.count_sketch(rows=3, columns=2**16),
    }


def kernels() -> Iterator[Kernel]:
    x = jax.random.normal(jax.random.key(1), (SIZE,))
    quantisers = {1: c.k_level(levels=2), **{b: c.quantize(bits=b) for b in (2, 4, 8)}}
    for bits, codec in quantisers.items():
        yield f"quantise to {bits} bit{'s' * (bits > 1)}, packed", timed(packed(codec, bits)), x
        words = jnp.zeros(-(-SIZE * bits // 32), jnp.uint32) + 0x12345678
        yield f"unpack {bits} bit{'s' * (bits > 1)}", timed(unpacked(bits)), words
    yield "sign, packed", timed(lambda x: wire.pack_words(x < 0, 1)), x
    for name, codec in codecs().items():
        encode = timed(encoder(codec))
        yield name + (", encode" if "EDEN" in name else ""), encode, x
        if "EDEN" in name:
            yield f"{name}, decode", timed(codec.decode), encode(x)
    matrix = x[: SIZE // 1024 * 1024].reshape(-1, 1024)
    yield "PowerSGD rank 2", timed(encoder(c.power_sgd(2))), matrix
    for name, codec in {"quantise to 8 bits": c.quantize(bits=8), **codecs()}.items():
        # Of as many floats in all; a copy of them costs what a copy of the long vector costs.
        many = jnp.resize(x, (COHORT * SHORT,)).reshape(COHORT, SHORT)
        yield f"{name}, of {COHORT} clients", timed(jax.vmap(encoder(codec))), many


if __name__ == "__main__":
    long = jnp.arange(SIZE, dtype=jnp.float32)
    work(kernels(), ("copy", timed(lambda x: x * 1.5 + 1), long), int(sys.argv[1]))
