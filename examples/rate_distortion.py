"""How much each codec loses for its bits: error against bits a coordinate, on three kinds of vectors.

A codec may be good on Gaussian coordinates and useless on a few large ones.  Each row is measured: bits
on the payload, and the normalised error E||C(x) - x||^2 / ||x||^2, over fresh vectors and keys.  The
curve is the least error that any codec of Gaussian coordinates can reach, 4^-b.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from fjx import compressors as c
from fjx import wire

SIZE = 2**13
VECTORS = {
    "Gaussian": jax.random.normal,
    "lognormal": lambda key, shape: jnp.exp(jax.random.normal(key, shape)),
    "sparse": lambda key, shape: (
        jax.random.normal(key, shape)
        * jax.random.bernoulli(jax.random.fold_in(key, 1), 0.01, shape)
    ),
}
FAMILIES = {
    "cast": [c.cast(jnp.bfloat16), c.cast(jnp.float8_e4m3fn), c.cast(jnp.float8_e5m2)],
    "MX blocks of 32": [c.mx(jnp.float8_e4m3fn), c.mx(jnp.float4_e2m1fn)],
    "absmax, blocks of 64": [c.blockwise(c.absmax(bits=b), size=64) for b in (2, 3, 4, 6, 8)],
    "stochastic k levels": [c.k_level(levels=2**b) for b in (1, 2, 3, 4, 6)],
    "rotated k levels": [c.rotated(c.k_level(levels=2**b)) for b in (1, 2, 3, 4, 6)],
    "QSGD": [c.entropy(c.qsgd(levels=s), "elias_gamma") for s in (1, 4, 16, 64)],
    "natural": [c.natural(), c.natural_dithering(levels=7)],
    "EDEN": [c.eden(bits=b) for b in (0.1, 0.5, 1, 1.5, 2, 3, 4, 5, 6)],
    "QUIC-FL": [c.quic_fl(bits=b) for b in (1, 2, 3, 4)],
    "Kashin": [c.kashin(bits=b) for b in (2, 3, 4)],
    "rand-k": [c.rand_k(r) for r in (0.01, 0.1, 0.5)],
    "top-k": [c.top_k(r) for r in (0.01, 0.05, 0.1, 0.25)],
    "top-k in 8 bits": [c.chain(c.top_k(r), c.quantize(bits=8)) for r in (0.01, 0.05, 0.1, 0.25)],
    "STC": [c.entropy(c.stc(r), "golomb") for r in (0.0025, 0.01, 0.1)],
    "signs": [c.scaled_sign(), c.one_bit_sgd()],
}


def measure(codec, draw, rounds: int) -> tuple[float, float]:
    """Bits a coordinate, and the error, in the mean over so many vectors."""

    @jax.jit
    def one(key):
        x = draw(jax.random.fold_in(key, 0), (SIZE,))
        payload, _ = codec.encode(jax.random.fold_in(key, 1), x, codec.init(x))
        return payload, jnp.sum((codec.decode(payload) - x) ** 2) / jnp.sum(x**2)

    payloads, errors = zip(*map(one, jax.random.split(jax.random.key(0), rounds)), strict=True)
    return np.mean([wire.bits(payload) for payload in payloads]) / SIZE, float(np.mean(errors))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=50, help="vectors of each kind")
parser.add_argument("--out", default="rate_distortion.png")
args = parser.parse_args()
figure = Figure(figsize=(15, 5), layout="constrained")
print(f"{'':22}" + "".join(f"{kind:>20}" for kind in VECTORS) + "    (bits, error)")
for axes, kind in zip(figure.subplots(1, 3, sharey=True), VECTORS, strict=True):
    axes.set(title=kind, xlabel="bits a coordinate", xscale="log", yscale="log", ylim=(1e-5, 1e3))
    axes.plot(b := np.geomspace(0.05, 8, 50), 4.0**-b, "k:", label="$4^{-b}$")
for n, (family, codecs) in enumerate(FAMILIES.items()):
    points = [[measure(codec, draw, args.rounds) for draw in VECTORS.values()] for codec in codecs]
    for row in points:
        print(f"{family:22}" + "".join(f"{bits:10.3f}{error:10.2g}" for bits, error in row))
    for i, axes in enumerate(figure.axes):
        axes.plot(*zip(*sorted(row[i] for row in points), strict=True), "ov^sD*P"[n % 7] + "-",
                  color=f"C{n % 10}", label=family, markersize=4)  # fmt: skip
figure.axes[0].set_ylabel("error, $E||C(x)-x||^2/||x||^2$")
figure.axes[2].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
figure.savefig(args.out, dpi=150)
print(f"wrote {args.out}")
