"""Seeds on the wire say how they are read, and are refused if this process would read them otherwise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import compressors as c
from fjx import wire
from fjx._kernels import random
from tests.support import tables

SEEDED = [
    "rand_k", "rand_p", "rotated_quantize", "kashin", "quic_fl", "count_sketch", "random_projection",
    "subtractive_dither", "eden",
]  # fmt: skip
X = np.arange(1.0, 65.0, dtype=np.float32)


def original():
    """Threefry with the order of numbers that JAX had by default until 0.5."""
    return jax.threefry_partitionable(False)


def parts(payload):
    """All payload types with a seed, in a tree."""
    if isinstance(payload, wire.Payload):
        inner = [getattr(payload, f.name) for f in dataclasses.fields(payload)]
        return [payload] * hasattr(payload, "impl") + [p for i in inner for p in parts(i)]
    return [p for i in payload for p in parts(i)] if isinstance(payload, list | tuple) else []


def test_both_orders_are_real():
    """The premise: one seed gives other numbers in each order."""
    with original():
        before = jax.random.bits(jax.random.key(0), (64,))
    assert (before != jax.random.bits(jax.random.key(0), (64,))).any()


@pytest.mark.parametrize("name", SEEDED)
def test_every_codec_with_a_seed_names_the_order(name):
    codec, key = tables.COMPRESSORS[name], jax.eval_shape(jax.random.key, 0)

    def readings():
        encode = lambda key, x: codec.encode(key, x, codec.init(x))[0]  # noqa: E731
        return {part.impl for part in parts(jax.eval_shape(encode, key, X))}

    assert readings() == {"threefry2x32"}
    with original():
        assert readings() == {"threefry2x32-original"}


@pytest.mark.ci
def test_a_receiver_that_reads_seeds_otherwise_refuses_them():
    codec = c.rotated(c.identity())
    payload = codec.encode(jax.random.key(0), X, codec.init(X))[0]
    data = wire.to_bytes(payload)
    with original():
        with pytest.raises(ValueError, match="'jax_threefry_partitionable', True"):
            wire.from_bytes(data)
        with pytest.raises(ValueError, match="'jax_threefry_partitionable', True"):
            codec.decode(payload)
        data = wire.to_bytes(codec.encode(jax.random.key(0), X, codec.init(X))[0])
        np.testing.assert_allclose(codec.decode(wire.from_bytes(data)), X, rtol=1e-4)
    with pytest.raises(ValueError, match="'jax_threefry_partitionable', False"):
        wire.from_bytes(data)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32-other"])
def test_a_seed_of_another_generator_is_refused(impl):
    size = 4 if "rbg" in impl else 2
    forged = wire.Masked(jnp.ones(2), jnp.zeros(size, jnp.uint32), (4,), impl)
    with pytest.raises(ValueError, match="payload refused: a seed"):
        wire.from_bytes(wire.to_bytes(forged))


def test_no_module_reads_a_seed_by_itself():
    """The rule lives in one place: ``seed_of`` and ``key_of``."""
    import pathlib

    folder = pathlib.Path(random.__file__).parents[1] / "compressors"
    for path in folder.glob("*.py"):
        assert "wrap_key_data" not in path.read_text(), path.name
