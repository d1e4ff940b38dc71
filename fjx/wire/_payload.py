"""Payload types: the content of the wire, as pytrees.

A payload type is a frozen dataclass, registered with JAX.  Its array fields are the content.  Its
static fields are known to the receiver in advance.  It declares the bits of its integers;
:mod:`fjx.wire` derives costs and bytes from that, and codecs decode from the payload alone.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Mapping
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

        Inside :class:`Blocks` every array has one additional axis in front; :func:`axes_in_front` tells
        its length.
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
    """Raise ValueError unless a concrete count is one number in ``[0, capacity]``."""
    wanted = np.dtype(np.uint8 if payload.widths().get("count") == 1 else np.int32)
    if isinstance(payload.count, ARRAYS) and (payload.count.shape, payload.count.dtype) != (
        (),
        wanted,
    ):
        found = f"{payload.count.dtype} of shape {payload.count.shape}"
        raise ValueError(f"a count must be one {wanted}, got {found}")
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


_AROUND: contextvars.ContextVar[tuple[Payload, ...]] = contextvars.ContextVar("around", default=())


@contextlib.contextmanager
def inside(payload: Payload) -> Iterator[None]:
    """Context in which the contents of a payload are checked."""
    token = _AROUND.set((*_AROUND.get(), payload))
    try:
        yield
    finally:
        _AROUND.reset(token)


def around() -> tuple[Payload, ...]:
    """Payloads that hold the one that is being checked, from the outside in."""
    return _AROUND.get()


def axes_in_front() -> tuple[int, ...]:
    """Shape of the axes that blocks put in front of every array; ``()`` outside of blocks."""
    counts = [getattr(part, "count", 0) for part in around() if hasattr(part, "rows")]
    return tuple(counts[-1:])


def shape_of(part: Tree) -> tuple[int, ...] | None:
    """Shape of an array, or of the array that a payload encodes; None if the payload does not tell."""
    if isinstance(part, ARRAYS):
        return tuple(part.shape)
    if isinstance(shape := getattr(part, "shape", None), tuple):
        return (*axes_in_front(), *shape)
    if isinstance(part, Ragged):
        return shape_of(getattr(part, "codes", None))
    if isinstance(part, Payload):
        name = part.coordinates[0] if part.coordinates else "inner"
        return shape_of(getattr(part, name, None))
    return None


def require_shape(name: str, part: Tree, *shape: int) -> None:
    """Raise ValueError unless an array, or what a payload encodes, has this shape."""
    found, wanted = shape_of(part), (*axes_in_front(), *shape)
    if found is not None and found != wanted:
        raise ValueError(f"{name} must have shape {wanted}, got {found}")


def require_axes(name: str, part: Tree, axes: int) -> None:
    """Raise ValueError unless an array, or what a payload encodes, has so many axes."""
    found, front = shape_of(part), axes_in_front()
    if found is not None and len(found) != len(front) + axes:
        raise ValueError(f"{name} must have {len(front) + axes} axes, got shape {found}")


def require_scale(scale: Tree, front: tuple[int, ...] | None = None) -> None:
    """Raise ValueError unless a concrete scale is one float32, or one for each block."""
    wanted = axes_in_front() if front is None else front
    if isinstance(scale, ARRAYS) and (scale.shape, scale.dtype) != (wanted, np.float32):
        raise ValueError(
            f"a scale must be float32 of shape {wanted}, got {scale.dtype} of shape {scale.shape}"
        )


def require_words(name: str, indices: Any) -> None:
    """Raise ValueError unless concrete indices are ``u32`` with one axis, besides those in front."""
    require_axes(name, indices, 1)
    if isinstance(indices, ARRAYS) and indices.dtype != np.uint32:
        raise ValueError(f"{name} must be uint32, got {indices.dtype}")


def require_float32(name: str, values: Tree) -> None:
    """Raise ValueError unless concrete values are float32."""
    if isinstance(values, ARRAYS) and values.dtype != np.float32:
        raise ValueError(f"{name} must be float32, got {values.dtype}")


def require_narrowest(name: str, codes: Any, kind: str, bits: int) -> None:
    """Raise ValueError unless concrete codes have the narrowest dtype of 8 or 16 bits."""
    wanted = np.dtype(f"{kind}{1 if bits <= 8 else 2}")
    if isinstance(codes, ARRAYS) and codes.dtype != wanted:
        raise ValueError(f"{name} of {bits} bits must be {wanted}, got {codes.dtype}")


def require_seed(seed: Array, impl: str) -> None:
    """Raise ValueError unless ``seed`` is key data that this process reads as its sender did."""
    if isinstance(seed, ARRAYS) and seed.dtype != np.uint32:
        raise ValueError(f"a seed must be uint32, got {seed.dtype}")
    if isinstance(seed, ARRAYS) and (seed.ndim != len(axes_in_front()) + 1):
        raise ValueError(f"a seed must be one row of words, got shape {seed.shape}")
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
