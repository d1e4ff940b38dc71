"""The form that a receiver expects of a payload: any other is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import wire
from tests.support.frames import Pair, refusal


@pytest.mark.parametrize(
    "other",
    [
        {"w": jnp.zeros(4)},
        {"w": jnp.zeros(3, jnp.int32)},
        {"w": jnp.zeros((3, 1))},
        {"v": jnp.zeros(3)},
        {"w": jnp.zeros(3), "v": None},
        [jnp.zeros(3)],
        Pair(jnp.zeros(3), None),
        wire.Quantized(jnp.zeros(3, jnp.int8), jnp.float32(1), 4, "float32"),
    ],
)
def test_a_payload_of_another_form_is_refused(other):
    like = {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}
    assert "both sides must run the same codec" in refusal(wire.to_bytes(other), like)


@pytest.mark.parametrize("change", [{"bits": 5}, {"dtype": "bfloat16"}])
def test_static_fields_are_part_of_the_form(change):
    fields = {"bits": 4, "dtype": "float32"}
    sent, wanted = (
        wire.Quantized(jnp.zeros(2, jnp.int8), jnp.float32(1), **f)
        for f in (fields, {**fields, **change})
    )
    refusal(wire.to_bytes(sent), like=wanted)


def test_what_the_receiver_knows_to_travel_costs_nothing_else():
    """Of parts chosen by a coin that both ends tossed: no byte says which, and the form must know it."""

    def chosen(number):
        contents = [jnp.arange(3.0), jnp.arange(9, dtype=jnp.uint8)]
        parts = [x if number == i else jnp.zeros_like(x) for i, x in enumerate(contents, start=1)]
        return wire.OneOf(wire.SideInformation(jnp.uint8(number)), ((), *parts))

    sizes = [0, 12, 9]
    for number, size in enumerate(sizes):
        payload = chosen(number)
        data = wire.to_bytes(payload)
        assert wire.bits(payload) == 8 * size == 8 * len(data) - wire.header_bits(data)
        assert int(jax.jit(wire.measured_bits)(payload)) == 8 * size
        received = wire.from_bytes(data, like=payload)
        assert received.which == wire.SideInformation(None)
        for one, other in zip(received.parts[1:], payload.parts[1:], strict=True):
            np.testing.assert_array_equal(one, other)
    assert wire.bits(jax.eval_shape(lambda: chosen(0))) == 8 * max(sizes)
    assert "for the receiver to know" in refusal(wire.to_bytes(chosen(1)))
    assert "bytes" in refusal(wire.to_bytes(chosen(1)), like=chosen(2))
    with pytest.raises(ValueError, match="OneOf has 3 parts"):
        wire.OneOf(wire.SideInformation(jnp.uint8(7)), ((), (), ())).check()


def test_a_bad_template_is_the_caller_s_mistake():
    with pytest.raises(TypeError, match="has no wire format"):
        wire.from_bytes(wire.to_bytes(jnp.zeros(2)), like=1.0)
