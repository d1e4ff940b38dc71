"""What a payload costs, counted on the payload."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import TreeLike
from fjx.wire._types import Payload


def bits(payload: TreeLike) -> int:
    """The exact size of a payload on the wire, in bits.

    Each array is a section of ``size * width`` bits, padded to a whole byte, where width is what its
    payload type declares (a 4-bit code counts 4) or else what its dtype has (a bool counts 1).
    Only shapes are read, so a codec is priced without running it.

    Guarantees: ``8 * len(to_bytes(payload)) == bits(payload) + header_bits(to_bytes(payload))``.

    Args:
        payload: of one client, as arrays or as ``jax.ShapeDtypeStruct``.  A payload with a client
            axis is priced as one array of all clients; use ``jax.eval_shape`` of one encode instead.

    Returns:
        A Python int, never rounded: bit counts pass 2^24, where float32 stops counting.

    Raises:
        TypeError: a leaf has no wire format (a typed key, an object).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> message = {"w": jax.ShapeDtypeStruct((1000,), jnp.float32)}
        >>> codec = compressors.quantize(bits=4)
        >>> key = jax.eval_shape(jax.random.key, 0)
        >>> wire.bits(jax.eval_shape(codec.encode, key, message, ())[0])
        4032
    """
    return sum(8 * section_bytes(leaf, width) for leaf, width in sections(payload))


def section_bytes(leaf: Any, width: int) -> int:
    """Bytes of one section: its bits, padded to a whole byte."""
    return -(-math.prod(leaf.shape) * width // 8)


def sections(payload: TreeLike) -> Iterator[tuple[Any, int]]:
    """The arrays of a payload in the order of the wire, which is that of its leaves, with widths."""
    for leaf in jax.tree.leaves(payload, is_leaf=lambda part: isinstance(part, Payload)):
        if not isinstance(leaf, Payload):
            yield leaf, leaf_width(leaf)
            continue
        widths = leaf.widths()
        for path, part in children(leaf):
            if path in widths:
                yield part, widths[path]
            else:
                yield from sections(part)


def children(node: Any) -> list[tuple[str, Any]]:
    """The direct children of a container or payload, by field name or key, in order."""
    parts = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)[0]
    return [(jax.tree_util.keystr(path, simple=True), part) for path, part in parts]


def leaf_width(leaf: Any) -> int:
    """Bits of one element of an array whose dtype has a wire format."""
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        name = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
        raise TypeError(f"a payload leaf of type {name} has no wire format; send arrays")
    dtype = leaf.dtype
    if dtype == np.bool_:
        return 1
    if jnp.issubdtype(dtype, jnp.floating):
        return int(jnp.finfo(dtype).bits)
    if jnp.issubdtype(dtype, jnp.integer):
        return int(jnp.iinfo(dtype).bits)
    raise TypeError(
        f"a payload leaf of dtype {dtype} has no wire format; send floats, integers or bools "
        "(of a key, send jax.random.key_data)"
    )
