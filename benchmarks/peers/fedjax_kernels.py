"""What the compressors of fedjax take, for :mod:`benchmarks.kernels`: they quantise to floats."""

import sys

import jax
import jax.numpy as jnp

jax.tree_map = jax.tree_util.tree_map

from fedjax.aggregators import compression, walsh_hadamard  # noqa: E402  # after what it misses

from benchmarks.kernels import SIZE, Kernel, work  # noqa: E402


def kernels() -> list[Kernel]:
    key = jax.random.PRNGKey(0)
    x = jax.random.normal(key, (SIZE,))

    def timed(function):
        compiled = jax.jit(function)
        return lambda x: jax.block_until_ready(compiled(x))

    return [
        (
            "256 levels, to floats",
            timed(lambda x: compression.uniform_stochastic_quantize(x, 256, key)),
            x,
        ),
        (
            "2 levels, to floats",
            timed(lambda x: compression.uniform_stochastic_quantize(x, 2, key)),
            x,
        ),
        (
            "one Hadamard rotation",
            timed(lambda x: walsh_hadamard.structured_rotation(x, key)[0]),
            x,
        ),
    ]


if __name__ == "__main__":
    x = jnp.arange(SIZE, dtype=jnp.float32)
    copy = jax.jit(lambda x: x * 1.5 + 1)
    work(kernels(), ("copy", lambda x: jax.block_until_ready(copy(x)), x), int(sys.argv[1]))
