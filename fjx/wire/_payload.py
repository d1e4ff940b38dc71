"""Payloads: what the wire carries, as pytrees.

A payload type is a frozen dataclass, registered with JAX, whose array fields are the content and whose
static fields are what a receiver knows in advance.  It says how many bits each of its integers needs;
:mod:`fjx.wire` derives costs and bytes from that, and codecs decode from the payload alone.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, Tree


def static() -> Any:
    """A dataclass field that is part of the type: the same for every client and round, and free."""
    return dataclasses.field(metadata={"static": True})


class Payload:
    """Base of all payload types; a subclass is a registered frozen dataclass.

    Examples:
        A type of one's own, readable by :func:`fjx.wire.from_bytes` once it is defined:

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

    Attributes:
        coordinates: names of the fields with an entry for each coordinate of the array that was
            encoded, in its order, along the first axis: where of that array only the first n
            coordinates travel, so do only the first n entries.
        ascending: names of the fields of integers that ascend along the last axis, of which a coder
            writes the gaps.
    """

    coordinates: ClassVar[tuple[str, ...]] = ()
    ascending: ClassVar[tuple[str, ...]] = ()

    def widths(self) -> Mapping[str, int]:
        """Bits per element of the integer fields that need fewer than their dtype has."""
        return {}

    def check(self) -> None:
        """Raises ValueError if concrete contents could not have been encoded.

        Inside :class:`Blocks` every array has one axis more in front.
        """


class Ragged(Payload):
    """Base of payloads of which only a beginning travels, as long as the data wants it.

    Shapes are fixed in a compiled program, so the fields named by ``coordinates`` have room for as
    many entries as there may ever be, with zeros behind those that count.

    Attributes:
        count: ``i32[]``, how many entries travel.  A subclass declares it as its first field, because
            it is read before what it measures.
    """

    count: Array


ARRAYS = (np.ndarray, Array)


def require_count(payload: Ragged, capacity: int) -> None:
    if isinstance(payload.count, ARRAYS) and not 0 <= int(payload.count) <= capacity:
        raise ValueError(f"a count must lie in [0, {capacity}], got {int(payload.count)}")


def size_of(shape: tuple[int, ...]) -> int:
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape must not be negative, got {shape}")
    return math.prod(shape)


def require_float(dtype: str) -> None:
    try:
        floating = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ValueError(f"a dtype must be the name of a floating one, got {dtype!r}")


def require_integers(name: str, codes: Any, *kinds: str) -> None:
    if isinstance(codes, ARRAYS) and np.dtype(codes.dtype).kind not in kinds:
        raise ValueError(f"{name} must be of kind {' or '.join(kinds)}, got {codes.dtype}")


def require_scale(scale: Tree, codes: Array) -> None:
    if isinstance(scale, ARRAYS) and scale.shape not in ((), np.shape(codes)[:1]):
        raise ValueError(f"a scale must be one number, got shape {scale.shape}")


def require_seed(seed: Array, impl: str) -> None:
    try:
        jax.random.wrap_key_data(jnp.asarray(seed), impl=impl)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a seed must be the key data of a PRNG: {error}") from error


def require_within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in [{least}, {most}], got {value}")


def require_below(name: str, codes: Array, count: int) -> None:
    most = int(np.max(np.asarray(codes), initial=0))
    if most >= count:
        raise ValueError(f"{name} must be less than {count}, got {most}")


def index_width(size: int) -> int:
    """Bits that address one of ``size`` coordinates: ``ceil(log2(size))``."""
    return max(size - 1, 0).bit_length()


def padded_size(size: int) -> int:
    """The next power of two, and nothing for an empty array."""
    return 2 ** index_width(size) if size else 0
