"""Copies of a few clients' examples, side by side: the way of data from the host to a device."""

import jax
import numpy as np

from fjx._base import Tree

_LINE = 64  # bytes; XLA uses a host array without a copy only if it begins on such a boundary


def buffers(arrays: Tree, rows: int) -> Tree:
    """Zeros for ``rows`` examples, at least one; each leaf begins on a cache line."""

    def aligned(x: np.ndarray) -> np.ndarray:
        shape = (max(rows, 1), *x.shape[1:])
        size = int(np.prod(shape)) * x.dtype.itemsize
        raw = np.zeros(size + _LINE, np.uint8)
        start = -raw.ctypes.data % _LINE
        return raw[start : start + size].view(x.dtype).reshape(shape)

    return jax.tree.map(aligned, arrays)


def collect(arrays: Tree, start: np.ndarray, size: np.ndarray, out: Tree) -> np.ndarray:
    """Copy rows ``start[i]`` to ``start[i] + size[i]`` of every leaf into ``out``, without gaps.

    Rows are copied in the order in which they are stored, independent of the order of slots.
    Neighbours are thus copied together, and a memory map is read forwards.

    Args:
        arrays: pytree of ``[total, ...]``, NumPy arrays or memory maps.
        start: ``i64[m]``.
        size: ``i64[m]``; the windows do not overlap.
        out: pytree of ``[rows, ...]`` with ``rows >= size.sum()``.

    Returns:
        ``i32[m]``, position in ``out`` of the first row of each slot; zero for a slot without rows.
    """
    held = np.flatnonzero(size)
    order = held[np.argsort(start[held])]
    first, length = start[order], size[order]
    local = np.cumsum(length) - length
    offsets = np.zeros(len(size), np.int32)
    offsets[order] = local
    if order.size:
        last = first + length
        begins = np.flatnonzero(np.append(True, first[1:] != last[:-1]))
        ends = np.append(begins[1:], len(order)) - 1
        runs = list(zip(local[begins], first[begins], last[ends], strict=True))
        for source, target in zip(jax.tree.leaves(arrays), jax.tree.leaves(out), strict=True):
            for at, begin, end in runs:
                target[at : at + end - begin] = source[begin:end]
    return offsets
