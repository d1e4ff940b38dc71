"""Payload types: the content of the wire, as pytrees.

A payload type is a frozen dataclass, registered with JAX.  Its array fields are the content.  Its
static fields are known to the receiver in advance.  It declares the bits of its integers;
:mod:`fjx.wire` derives costs and bytes from that, and codecs decode from the payload alone.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Tree
from fjx._kernels import random as _random


def static() -> Any:
    """Static field of a payload type: part of the type, equal for all clients and rounds, and free."""
    return dataclasses.field(metadata={"static": True})


class Payload:
    """Base of all payload types; a subclass is a registered frozen dataclass.

    :func:`fjx.wire.from_bytes` can read a type of your own as soon as the class is defined.

    Attributes:
        coordinates: names of the fields that have one entry for each coordinate of the encoded array,
            in order, along the first axis.  If only the first n coordinates of that array travel, only
            the first n entries of these fields do.
        ascending: names of the integer fields that ascend along the last axis.  A coder writes their
            gaps.

    Examples:
        >>> import dataclasses, jax
        >>> from fjx import wire
        >>> @jax.tree_util.register_dataclass
        ... @dataclasses.dataclass(frozen=True)
        ... class Nibbles(wire.Payload):
        ...     codes: jax.Array
        ...     def widths(self):
        ...         return {"codes": 4}
        >>> wire.bits(Nibbles(jax.numpy.zeros(6, "uint8")))
        24
    """

    coordinates: ClassVar[tuple[str, ...]] = ()
    ascending: ClassVar[tuple[str, ...]] = ()

    def widths(self) -> Mapping[str, int]:
        """Bits per element of the integer fields that need fewer bits than their dtype has."""
        return {}

    def check(self) -> None:
        """Raise ValueError if no codec could have produced the concrete contents.

        Inside :class:`Blocks` every array has one additional axis in front.
        """


class Ragged(Payload):
    """Base of payload types of which only the first entries travel, as many as the data need.

    Shapes are fixed in a compiled program.  The fields named by ``coordinates`` therefore have room for
    the largest possible number of entries, with zeros after the entries that count.

    Attributes:
        count: ``i32[]``, number of entries that travel.  A subclass declares it as its first field,
            because it is read before the fields whose length it gives.
    """

    count: Array


ARRAYS = (np.ndarray, Array)


def require_count(payload: Ragged, capacity: int) -> None:
    """Raise ValueError unless a concrete count lies in ``[0, capacity]``."""
    if isinstance(payload.count, ARRAYS) and not 0 <= int(payload.count) <= capacity:
        raise ValueError(f"a count must lie in [0, {capacity}], got {int(payload.count)}")


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape; a negative shape raises ValueError."""
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape must not be negative, got {shape}")
    return math.prod(shape)


def require_float(dtype: str) -> None:
    """Raise ValueError unless ``dtype`` is the name of a floating dtype."""
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ValueError(f"a dtype must be the name of a floating dtype, got {dtype!r}")


def require_integers(name: str, codes: Any, *kinds: str) -> None:
    """Raise ValueError unless concrete codes have one of the given NumPy kinds."""
    if isinstance(codes, ARRAYS) and np.dtype(codes.dtype).kind not in kinds:
        raise ValueError(f"{name} must be of kind {' or '.join(kinds)}, got {codes.dtype}")


def require_scale(scale: Tree, codes: Array) -> None:
    """Raise ValueError unless a concrete scale is one number, or one number for each block."""
    if isinstance(scale, ARRAYS) and scale.shape not in ((), np.shape(codes)[:1]):
        raise ValueError(f"a scale must be one number, got shape {scale.shape}")


def require_seed(seed: Array, impl: str) -> None:
    """Raise ValueError unless ``seed`` is key data that this process reads as its sender did."""
    try:
        _random.key_of(seed, impl)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a seed must be the key data of a PRNG: {error}") from error


def require_within(name: str, value: int, least: int, most: int) -> None:
    """Raise ValueError unless a static field lies in ``[least, most]``."""
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in [{least}, {most}], got {value}")


def require_below(name: str, codes: Array, count: int) -> None:
    """Raise ValueError unless all codes are less than ``count``."""
    most = int(np.max(np.asarray(codes), initial=0))
    if most >= count:
        raise ValueError(f"{name} must be less than {count}, got {most}")


def index_width(size: int) -> int:
    """Bits of an index into ``size`` coordinates: ``ceil(log2(size))``."""
    return max(size - 1, 0).bit_length()


def padded_size(size: int) -> int:
    """The smallest power of two that is at least ``size``; 0 for an empty array."""
    return 2 ** index_width(size) if size else 0
