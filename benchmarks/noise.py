"""Noise of private sums beside noise of float32, in one run.

    python -m benchmarks.noise

Each sampler takes turns with ``jax.random.normal`` in float32, whose 23 random bits a draw end at 5.4
deviations and leave a lattice.  The table shows the median over the turns.  Compiling is not in it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import records
from fjx import Public, aggregators, privacy
from fjx._kernels import random
from fjx.privacy._mechanisms import fine

SIZE, COHORT, SHORT = 10_000_000, 32, 300_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    records.add_out(parser)
    options = parser.parse_args()
    turns, write = options.turns, records.writer(options.out, echo=False)
    key = jax.random.key(0)
    samplers: dict[str, Callable[[Any], Any]] = {
        "normal, float32 (the yardstick)": lambda k: random.normal(k, (SIZE,)),
        "Laplace, float32": lambda k: jax.random.laplace(k, (SIZE,)),
        "Gaussian, whole steps": lambda k: fine.gaussian(k, (SIZE,)),
        "Laplace, whole steps": lambda k: fine.laplace(k, (SIZE,)),
        "random bits of a Gaussian draw alone": bits,
    }
    table(f"{SIZE:,} draws", {name: timed(f, key) for name, f in samplers.items()}, turns, write)

    x = jax.random.normal(key, (COHORT, SHORT))
    sums = {
        "sum of floats (the yardstick)": timed(total(None), x),
        "sum of whole steps": timed(total(1.0), x),
        "sum of whole steps, no noise": timed(total(0.0), x),
    }
    table(f"clip and add {COHORT} x {SHORT:,}", sums, turns, write)


def bits(key: Any) -> Any:
    """The 128 bits that a Gaussian draw of whole steps takes: no table is faster than they are."""
    high, low = random.words(key, (2, SIZE))
    return jnp.sum(high ^ low, 0, jnp.uint32)


def total(noise_multiplier: float | None) -> Callable[[jax.Array], Any]:
    """Sum of clipped messages, as floats for None."""
    mechanism = privacy.gaussian(clip_norm=1.0, noise_multiplier=noise_multiplier or 0.0)
    if noise_multiplier is None:
        mechanism = mechanism._replace(to_steps=None)
    contribute = aggregators.private(mechanism, 1.0).contribute
    public = Public((), None, None, None)

    def run(x: jax.Array) -> Any:
        shares = jax.vmap(lambda message: contribute(message, jnp.float32(1), public))(x)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0, leaf.dtype), shares)

    return run


def timed(function: Callable[[Any], Any], argument: Any) -> Callable[[], float]:
    """Seconds of one call of the compiled function."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(argument))

    def run() -> float:
        began = time.perf_counter()
        jax.block_until_ready(compiled(argument))
        return time.perf_counter() - began

    return run


def table(
    title: str, rows: dict[str, Callable[[], float]], turns: int, write: records.Write
) -> None:
    """Print milliseconds, and the ratio to the first row in the same turn, in the median."""
    seconds = [[row() for row in rows.values()] for _ in range(turns)]
    print(f"{title:<38}{'ms':>9}{'ratio':>9}")
    for i, name in enumerate(rows):
        own = statistics.median(turn[i] for turn in seconds)
        ratio = statistics.median(turn[i] / turn[0] for turn in seconds)
        write(kind="noise", of=title, name=name, seconds=own, ratio=ratio)
        print(f"{name:<38}{1e3 * own:>9.1f}{ratio:>9.2f}")
    print()


if __name__ == "__main__":
    main()
