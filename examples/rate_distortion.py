"""How much each codec loses for its bits: error against bits a coordinate, on three kinds of vectors.

A codec may be good on Gaussian coordinates and useless on a few large ones.  So every codec encodes
vectors of 8,192 coordinates of three kinds: Gaussian, lognormal, and sparse (one coordinate in a
hundred is not zero).

The script prints two numbers for each codec and each kind.  Both are measured: the bits of the
payload a coordinate, and the normalised error E||C(x) - x||^2 / ||x||^2 over fresh vectors and
keys.  It draws them into rate_distortion.png, beside the curve 4^-b: the least error that any codec
of Gaussian coordinates can reach with b bits.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from fjx import compressors as c
from fjx import wire

SIZE = 2**13


def lognormal(key, shape):
    return jnp.exp(jax.random.normal(key, shape))


def sparse(key, shape):
    values = jax.random.normal(key, shape)
    return values * jax.random.bernoulli(jax.random.fold_in(key, 1), 0.01, shape)


VECTORS = {"Gaussian": jax.random.normal, "lognormal": lognormal, "sparse": sparse}

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


def measure(codec, draw, vectors: int) -> tuple[float, float]:
    """Bits a coordinate, and the normalised error: means over so many vectors."""

    @jax.jit
    def encode_one(key):
        x = draw(jax.random.fold_in(key, 0), (SIZE,))
        payload, _ = codec.encode(jax.random.fold_in(key, 1), x, codec.init(x))
        return payload, jnp.sum((codec.decode(payload) - x) ** 2) / jnp.sum(x**2)

    bits, errors = [], []
    for key in jax.random.split(jax.random.key(0), vectors):
        payload, error = encode_one(key)
        bits.append(wire.bits(payload))
        errors.append(error)
    return np.mean(bits) / SIZE, float(np.mean(errors))


def draw_figure(points, path):
    """One panel for each kind of vectors.  ``points[family][kind]`` is a list of (bits, error)."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    bits = np.geomspace(0.05, 8, 50)
    for axes, kind in zip(figure.subplots(1, 3, sharey=True), VECTORS, strict=True):
        axes.set(
            title=kind, xlabel="bits a coordinate", xscale="log", yscale="log", ylim=(1e-5, 1e3)
        )
        axes.plot(bits, 4.0**-bits, "k:", label="$4^{-b}$")
        for n, (family, measured) in enumerate(points.items()):
            marker, color = "ov^sD*P"[n % 7], f"C{n % 10}"
            x, y = zip(*sorted(measured[kind]), strict=True)
            axes.plot(x, y, marker + "-", color=color, label=family, markersize=4)
    first, *_, last = figure.axes
    first.set_ylabel("error, $E||C(x)-x||^2/||x||^2$")
    last.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50, help="vectors of each kind")
    parser.add_argument(
        "--families", nargs="+", metavar="FAMILY", choices=FAMILIES, default=list(FAMILIES)
    )
    parser.add_argument("--out", default="rate_distortion.png")
    args = parser.parse_args()

    print(f"{'':22}" + "".join(f"{kind:>20}" for kind in VECTORS) + "    (bits, error)")
    points = {family: {kind: [] for kind in VECTORS} for family in args.families}
    for family in args.families:
        for codec in FAMILIES[family]:
            line = f"{family:22}"
            for kind, draw in VECTORS.items():
                bits, error = measure(codec, draw, args.rounds)
                points[family][kind].append((bits, error))
                line += f"{bits:10.3f}{error:10.2g}"
            print(line)

    draw_figure(points, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
