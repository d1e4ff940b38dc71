"""What is refused at once, what passes, and that each message names argument, value and bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fjx import _validate


@pytest.mark.parametrize(
    "value",
    [1, 1.5, np.float32(1.5), np.int64(1), jnp.float32(1.5), jnp.bfloat16(1.5), np.array(1.5)],
)
def test_numbers(value):
    _validate.number("x", value, above=0, at_most=2)


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        jnp.array(True),
        "1",
        np.str_("1"),
        None,
        1 + 0j,
        np.complex64(1),
        jnp.ones(2),
        np.ones(1),
        [1.0],
        jax.random.key(0),
    ],
    ids=repr,
)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"x must be a real number, got "):
        _validate.number("x", value)


@pytest.mark.parametrize(
    ("value", "bounds", "match"),
    [
        (0, {"above": 0}, "x must be greater than 0, got 0"),
        (-0.5, {"at_least": 0}, "x must be at least 0, got -0.5"),
        (1.5, {"at_least": 0, "at_most": 1}, "x must be at least 0 and at most 1, got 1.5"),
        (1.0, {"above": 0, "below": 1}, "x must be greater than 0 and less than 1, got 1.0"),
        (float("nan"), {}, "x must be finite, got nan"),
        (float("inf"), {"above": 0}, "x must be finite, got inf"),
        (float("nan"), {"at_most": 1}, "x must be finite, got nan"),
    ],
)
def test_numbers_out_of_bounds(value, bounds, match):
    with pytest.raises(ValueError, match=match):
        _validate.number("x", value, **bounds)


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint8(3), jnp.int32(3), np.array(3)])
def test_integers(value):
    _validate.integer("k", value, at_least=1, at_most=3)


@pytest.mark.parametrize("value", [3.0, True, np.True_, jnp.float32(3), "3", None, np.ones(2, int)])
def test_what_is_no_integer(value):
    with pytest.raises(TypeError, match="k must be an integer"):
        _validate.integer("k", value)


@pytest.mark.parametrize(("value", "bounds"), [(0, {"at_least": 1}), (4, {"at_most": 3})])
def test_integers_out_of_bounds(value, bounds):
    with pytest.raises(ValueError, match=f"k must be at .* got {value}"):
        _validate.integer("k", value, **bounds)


def test_tracers_pass_unless_they_decide_shapes():
    def check(x, k):
        _validate.number("x", x, above=5)
        _validate.integer("k", k, at_least=5)
        with pytest.raises(TypeError, match="k decides the shape of arrays"):
            _validate.static_integer("k", k)
        with pytest.raises(TypeError, match="x decides the shape of arrays"):
            _validate.static_number("x", x)
        return x

    jax.jit(check)(1.0, 1)


def test_a_traced_float_is_no_integer():
    with pytest.raises(TypeError, match="k must be an integer"):
        jax.jit(lambda k: _validate.integer("k", k))(1.0)


def test_static_checks_are_the_others_too():
    _validate.static_integer("k", 3, at_least=1)
    _validate.static_number("x", 0.5, at_most=1)
    with pytest.raises(ValueError, match="k must be at least 4"):
        _validate.static_integer("k", 3, at_least=4)
    with pytest.raises(ValueError, match=r"x must be less than 0\.5"):
        _validate.static_number("x", 0.5, below=0.5)


def test_a_key_is_one_typed_key():
    _validate.key("key", jax.random.key(0))
    jax.vmap(lambda key: _validate.key("key", key))(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(TypeError, match=r"dtype uint32; make one with jax\.random\.key\(seed\)"):
        _validate.key("key", jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match="key must be a typed key, got int;"):
        _validate.key("key", 0)
    with pytest.raises(ValueError, match=r"one key, got shape \(2,\); use jax\.vmap"):
        _validate.key("key", jax.random.split(jax.random.key(0), 2))


LIKE = {"a": jnp.zeros(2), "b": jnp.zeros((), jnp.int32)}


def test_same_structure_takes_arrays_shapes_and_numbers():
    _validate.same_structure("x", LIKE, "y", LIKE)
    _validate.same_structure("x", jax.eval_shape(lambda: LIKE), "y", LIKE)
    _validate.same_structure("x", 1.0, "y", jnp.zeros(()))


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({"a": jnp.zeros(2)}, "x must have the structure of y"),
        (
            {**LIKE, "a": jnp.zeros(3)},
            r"x must match y: at \['a'\] got \[3\], wanted \[2\]",
        ),
        ({**LIKE, "b": jnp.zeros(())}, r"at \['b'\] got float32, wanted int32"),
    ],
)
def test_the_first_leaf_that_differs_is_named(tree, match):
    with pytest.raises(ValueError, match=match):
        _validate.same_structure("x", tree, "y", LIKE)
