"""Kashin's representation says x exactly, with small coefficients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors, wire
from fjx._kernels.hadamard import unrotate
from fjx.compressors import _kashin

DRAWS = {
    "normal": lambda rng, d: rng.normal(size=d),
    "lognormal": lambda rng, d: rng.lognormal(size=d),
    "one-hot": lambda rng, d: np.eye(1, d, 7)[0],
}
back = functools.partial(jax.jit, static_argnames="rounds")(unrotate)
represented = functools.partial(jax.jit, static_argnums=(2, 3))(_kashin.coefficients)


@pytest.mark.ci
@pytest.mark.few(1)
@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize(
    "size",  # d / D is 1/2, and the most that is not doubled
    [pytest.param(2048, marks=pytest.mark.slow), 3481],
)
def test_what_is_left_shrinks_and_the_frame_gives_back_x(kind, size):
    x = DRAWS[kind](np.random.default_rng(0), size).astype(np.float32)
    x /= np.linalg.norm(x)
    frame, key = _kashin._frame(size), jax.random.key(1)
    assert frame == 4096
    norms = [1.0]
    for iterations in (1, 2, 3):
        a, rest = represented(jax.random.clone(key), x, frame, iterations)
        norms.append(np.linalg.norm(rest))
        assert norms[-1] <= 0.45 * norms[-2]
    np.testing.assert_allclose(back(key, a, rounds=_kashin._ROUNDS)[:size], x, atol=3e-7)
    spread = np.abs(a).max() * math.sqrt(frame)
    # Of a rotated vector it is about sqrt(2 ln 4096) = 4.08 in these units.
    assert spread < (2.8 if size == 2048 else 3.9)


@pytest.mark.slow
def test_errs_less_than_a_rotation_of_as_many_bits():
    """With one bit more for a frame of half the size, that is at 8192 and 4096 coordinates."""
    x = np.random.default_rng(2).lognormal(size=4096).astype(np.float32)

    def error(codec):
        send = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(key, x, codec.init(x))[0])))
        y = np.asarray(send(jax.random.split(jax.random.key(0), 8)))
        return np.square(y - x).sum(1).mean() / np.square(x).sum()

    kashin = error(compressors.kashin(bits=4))
    rotated = error(compressors.rotated(compressors.quantize(bits=4)))
    assert kashin < 0.6 * rotated
    # The dimension-free bound, with the constant of the representation: K^2 / (4 L^2).
    assert kashin < 2.8**2 / (4 * 7**2)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("size", "frame"), [(0, 0), (1, 2), (2, 4), (13, 16), (14, 32), (16, 32), (870, 1024)]
)
def test_bits(size, frame):
    key, like = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((size,), jnp.bfloat16)
    codec = compressors.kashin(bits=5)
    payload = jax.eval_shape(codec.encode, key, like, codec.init(like))[0]
    assert wire.bits(payload) == -(-frame * 5 // 8) * 8 + 32 + 64


@pytest.mark.parametrize(
    "make", [lambda: compressors.kashin(bits=1), lambda: compressors.kashin(bits=4, iterations=0)]
)
def test_refusals_name_the_argument(make):
    with pytest.raises(ValueError, match=r"bits|iterations"):
        make()
