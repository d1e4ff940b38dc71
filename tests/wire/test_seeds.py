"""Seeds on the wire say how they are read, and are refused if this process would read them otherwise."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import aggregators, clients, wire
from fjx import compressors as c
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


PARAMS = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
CHOICES = {
    "federated_dropout": lambda key: clients.federated_dropout(0.5).choose(key, None),
    "random_mask": lambda key: clients.random_mask(0.5).choose(key),
    "random_low_rank": lambda key: clients.random_low_rank(1).choose(key),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_is_a_seed_names_the_order(name):
    """Sub-models and subspaces: a receiver that reads seeds otherwise refuses the client's choice."""
    choice = CHOICES[name](jax.random.key(0))
    assert choice.impl == "threefry2x32"
    data = wire.to_bytes({"choice": choice})
    read = wire.from_bytes(data)["choice"]
    assert (jax.random.key_data(read.key) == choice.words).all()
    with original():
        assert CHOICES[name](jax.random.key(0)).impl == "threefry2x32-original"
        with pytest.raises(ValueError, match="'jax_threefry_partitionable', True"):
            wire.from_bytes(data)
        with pytest.raises(ValueError, match="'jax_threefry_partitionable', True"):
            _ = choice.key


def test_a_choice_is_read_by_the_order_of_its_sender():
    units, choice = clients.federated_dropout(0.5), CHOICES["federated_dropout"](jax.random.key(0))
    mask, clone = clients.random_mask(0.5), CHOICES["random_mask"](jax.random.key(0))
    with original():
        with pytest.raises(ValueError, match="'jax_threefry_partitionable', True"):
            units.masks(choice, {"h": 6})
        with pytest.raises(ValueError, match="'jax_threefry_partitionable', True"):
            mask.expand(clone, mask.coordinates(PARAMS), PARAMS)


def test_the_hashes_of_a_sketching_server_are_read_as_they_were_drawn():
    aggregator = aggregators.fetch_sgd(0.5, rows=1, columns=8)
    state = aggregator.init(PARAMS)
    assert [part.impl for part in parts(state)] == ["threefry2x32"]


def test_no_module_reads_a_seed_by_itself():
    """The rule lives in one place: ``seed_of`` and ``key_of``.

    Keys are placed on devices elsewhere; the premise of a loss is checked with a generator of its own.
    """
    folder = pathlib.Path(random.__file__).parents[1]
    readers = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if "jax.random.wrap_key_data(" in path.read_text()
    }
    others = {"simulation/_compile.py", "clients/_premises.py"}
    assert readers == {"_kernels/random.py"} | others
