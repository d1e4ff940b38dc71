"""The best rate at which XLA multiplies two 2048 x 2048 matrices here, in GFLOP/s.

It is the yardstick of "fraction of peak": no round can do more useful arithmetic in a second.
"""

import json
import time

import jax
import jax.numpy as jnp

SIDE = 2048


def peak(seconds: float = 2.0) -> float:
    """The fastest of as many products as fit in ``seconds``."""
    x = jax.random.normal(jax.random.key(0), (SIDE, SIDE), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best / 1e9


if __name__ == "__main__":
    print(json.dumps({"gflops": peak()}))
