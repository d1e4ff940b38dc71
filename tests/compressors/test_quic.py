"""QUIC-FL: unbiased by its table, with the errors that its docstring states."""

import jax
import numpy as np
import pytest

from fjx import compressors, wire
from fjx.compressors._quic import _table

STATED = {1: (1.465, 25.8), 2: (0.2135, 5.00), 3: (0.0426, 1.07), 4: (0.0095, 0.264)}


@pytest.mark.parametrize("bits", STATED)
def test_every_value_is_met_by_the_means_of_two_windows(bits):
    """Of each z: the mean over h and the choice is z, whatever z; errors are those stated."""
    table = _table(bits)
    windows = np.lib.stride_tricks.sliding_window_view(table.numbers, table.shared)
    np.testing.assert_allclose(windows.mean(1), table.means, atol=1e-9)
    # A window holds, for each h, exactly one of the numbers that h may have.
    numbers = np.arange(table.numbers.size)
    places = np.lib.stride_tricks.sliding_window_view(numbers % table.shared, table.shared)
    assert (np.sort(places, axis=1) == np.arange(table.shared)).all()
    assert (np.diff(table.means) > 0).all()
    error, worst = STATED[bits]
    assert table.error == pytest.approx(error, rel=2e-3)
    assert table.worst == pytest.approx(worst, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 3])
def test_the_error_of_a_lognormal_vector_is_that_of_a_gaussian(bits):
    """A rotation makes it so; of 40 messages of 2^12 coordinates the mean, within 6 standard errors."""
    x = np.random.default_rng(0).lognormal(size=2**12).astype(np.float32)
    codec = compressors.quic_fl(bits=bits)

    send = jax.jit(jax.vmap(lambda key: codec.decode(codec.encode(key, x, codec.init(x))[0])))
    y = np.asarray(send(jax.random.split(jax.random.key(1), 40)))
    errors = np.square(y - x).sum(1) / np.square(x).sum()
    slack = 6 * errors.std() / np.sqrt(40)
    assert slack < 0.1 * STATED[bits][0]
    assert abs(errors.mean() - STATED[bits][0]) < slack


@pytest.mark.ci
def test_outliers_are_exact_and_billed():
    """A vector that is one large coordinate in rotated space cannot be: so without the rotation."""
    from fjx.compressors._quic import _bounded

    x = np.ones(1000, np.float32)
    x[[17, 400]] = 100, -90
    codec = _bounded(4)
    payload, _ = jax.jit(codec.encode)(jax.random.key(2), x, ())
    assert int(payload.count) == 2
    y = np.asarray(jax.jit(codec.decode)(wire.from_bytes(wire.to_bytes(payload))))
    assert y[17] == 100
    assert y[400] == -90
    assert wire.bits(payload) == 4000 + 32 + 32 + 64 + 2 * 32 + 8 * -(-2 * 10 // 8)
