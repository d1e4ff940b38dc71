"""Integers of a payload as the non-negative integers that coders take."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def as_numbers(values: Any, width: int, ascending: bool) -> Any:
    """Integers of a section as ``u32``, small if the integers or their gaps are small.

    Signed integers 0, -1, 1, -2, 2, ... become 0, 1, 2, 3, 4, ... (zig-zag).  Ascending integers are
    replaced by their gaps along the last axis, modulo 2^width.

    Args:
        values: NumPy or JAX array of integers with ``width`` bits each.
        width: bits of an integer, at most 31.
        ascending: True if the integers usually ascend.
    """
    xp: Any = np if isinstance(values, np.ndarray) else jnp
    signed = values.dtype.kind == "i" or jnp.issubdtype(values.dtype, jnp.signedinteger)
    numbers = values.astype(xp.int32)
    if signed:
        numbers = (numbers << 1) ^ (numbers >> 31)
    if ascending and numbers.ndim:
        before = xp.concatenate([xp.full_like(numbers[..., :1], -1), numbers[..., :-1]], axis=-1)
        numbers = (numbers - before - 1) & ((1 << width) - 1)
    return numbers.astype(xp.uint32)


def from_numbers(
    numbers: np.ndarray, width: int, ascending: bool, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Inverse of :func:`as_numbers`, on the host."""
    values = numbers.reshape(shape).astype(np.int64)
    if ascending and values.ndim:
        values = (np.cumsum(values + 1, axis=-1) - 1) & ((1 << width) - 1)
    if jnp.issubdtype(dtype, jnp.signedinteger):
        values = (values >> 1) ^ -(values & 1)
    return values.astype(dtype)
