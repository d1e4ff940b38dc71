"""Payloads as bytes: a frame that describes its own content and is checked when it is read.

A frame is, with all integers little-endian::

    4  b"FJX" and the version of the format, 1
    4  length n of the schema
    4  CRC-32 of schema and body
    n  schema: canonical JSON of the containers, payload types, static fields, dtypes and shapes
    *  body: the sections in the order of the payload's leaves; of a ragged section only the entries
       that count

The first four rows are the header.  It is the same for every client and every round of a run, so a
deployment sends it once.  :func:`fjx.wire.bits` counts only the body.
"""

import math
import struct
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Tree, TreeLike
from fjx.wire._bits import Section, children, sections, write
from fjx.wire._choices import OneOf
from fjx.wire._coders.integers import read_integers
from fjx.wire._coders.sections import from_numbers
from fjx.wire._pack import unpack
from fjx.wire._payload import ARRAYS, Payload, inside
from fjx.wire._schema import form_of, schema_of
from fjx.wire._side_information import is_side_information, without_side_information

_MAGIC = b"FJX\x01"
_PREFIX = struct.Struct("<4sII")
_ROOM = 1 << 28  # most bytes that are allocated for ragged sections when no `like` is given


def to_bytes(payload: Tree) -> bytes:
    r"""Bytes of a payload, readable by :func:`from_bytes` on any machine.

    Guarantees:
        - ``8 * len(to_bytes(payload)) == bits(payload) + header_bits(to_bytes(payload))``.
        - Equal payloads give equal bytes.

    Args:
        payload: concrete arrays in dicts, lists, tuples, None, :class:`fjx.Stateful` and payload
            types.  Other containers can be written as well, but reading them needs ``like``.

    Returns:
        The frame.

    Raises:
        TypeError: a leaf has no wire format, or the key of a dict is neither a str nor an int.
        ValueError: a ragged payload has a client axis, or no axis of entries.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import wire
        >>> data = wire.to_bytes({"w": jnp.arange(3, dtype=jnp.uint8)})
        >>> data[:3], data[-3:]
        (b'FJX', b'\x00\x01\x02')
        >>> wire.from_bytes(data)
        {'w': Array([0, 1, 2], dtype=uint8)}
    """
    schema = schema_of(without_side_information(payload))
    body = b"".join(map(write, sections(payload)))
    return _PREFIX.pack(_MAGIC, len(schema), zlib.crc32(schema + body)) + schema + body


def header_bits(data: bytes) -> int:
    """Size of a frame's header in bits, ``96 + 8 * len(schema)``.

    Args:
        data: frame made by :func:`to_bytes`.

    Returns:
        A Python int.

    Raises:
        ValueError: ``data`` is not a frame of this version.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import wire
        >>> payload = jnp.zeros(10)
        >>> data = wire.to_bytes(payload)
        >>> 8 * len(data) - wire.header_bits(data) == wire.bits(payload) == 320
        True
    """
    return 8 * (_PREFIX.size + _prefix(data)[0])


def from_bytes(data: bytes, like: TreeLike | None = None) -> Tree:
    """Payload that :func:`to_bytes` wrote.

    Anything but the exact bytes of a payload raises an error.  A server should always give ``like``:
    the check sum detects accidents but not forgeries, and without ``like`` the shapes are those that
    the sender claims.

    Guarantees:
        - The result, written again, gives the same bytes.  No two frames stand for one payload.
        - Bad bytes raise ValueError and nothing else.
        - The length of the body is checked before memory is allocated for what the frame claims.

    Args:
        data: a whole frame.
        like: payload of the expected form, such as ``jax.eval_shape(codec.encode, ...)[0]``.  A payload
            of any other form is then refused, and containers that bytes cannot describe (a NamedTuple of
            yours, an equinox module) are restored.  If the receiver already knows which of several parts
            travels (:class:`OneOf` of a :class:`SideInformation`), ``like`` must contain that number.

    Returns:
        The payload, on the default device.

    Raises:
        ValueError: the bytes are truncated, too long, altered or of another version; the form differs
            from ``like``; or the contents are impossible for a codec (an index that is out of range or
            repeated).
        TypeError: ``like`` has no wire format.

    Examples:
        >>> import jax.numpy as jnp
        >>> from fjx import wire
        >>> data = wire.to_bytes(jnp.arange(4.0))
        >>> wire.from_bytes(data[:-1])
        Traceback (most recent call last):
            ...
        ValueError: payload refused: the check sum is wrong; the bytes were altered or cut short
    """
    expected = None if like is None else schema_of(without_side_information(like))
    length, checksum = _prefix(data)
    rest = memoryview(data)[_PREFIX.size :]
    if len(rest) < length or zlib.crc32(rest) != checksum:
        raise _refused("the check sum is wrong; the bytes were altered or cut short")
    schema, body = bytes(rest[:length]), rest[length:]
    if expected is not None and schema != expected:
        raise _refused("its form is not the expected one; both sides must run the same codec")
    try:
        payload = _fill(_form(schema) if like is None else like, body)
        return jax.tree.map(jnp.asarray, payload)
    except Exception as error:  # Bytes from a stranger may raise any exception while they are read.
        raise _refused(str(error)) from error


def _refused(why: str) -> ValueError:
    return ValueError(f"payload refused: {why}")


def _prefix(data: bytes) -> tuple[int, int]:
    if len(data) < _PREFIX.size:
        raise _refused(f"{len(data)} bytes are too few for a header")
    magic, length, checksum = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise _refused(f"it begins with {bytes(magic)!r}, not with {_MAGIC!r} (fjx, version 1)")
    return length, checksum


def _form(schema: bytes) -> TreeLike:
    """Form of a payload from its schema, after a check that :func:`to_bytes` could have written it."""
    form = form_of(schema)
    room = 0
    for part in sections(form):
        leaf, width = part.leaf, part.width
        if type(width) is not int or not 0 <= width <= 8 * leaf.dtype.itemsize:
            raise ValueError(f"its schema gives {width!r} bits to an element of {leaf.dtype}")
        if width == 0 and math.prod(leaf.shape) > 1:
            raise ValueError(f"its schema claims {math.prod(leaf.shape)} elements of no bits")
        if part.varies:
            # A coder holds 8 bytes for each integer while it decodes.
            room += math.prod(leaf.shape) * (leaf.dtype.itemsize if part.coder is None else 8)
    if room > _ROOM:
        raise ValueError(
            f"its schema claims room for {room} bytes; give from_bytes a payload like the expected one"
        )
    return form


def _fill(form: TreeLike, body: memoryview) -> Tree:
    """Payload of the given form with the contents of ``body``; its length is checked first."""
    # Fresh structs make each leaf a distinct object, so that `read` can be keyed by identity.
    # Side information of the receiver stays as it is.
    form = jax.tree.map(
        lambda leaf: leaf if is_side_information(leaf) else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        form, is_leaf=is_side_information,
    )  # fmt: skip
    parts = list(sections(form))
    least = sum(section.room for section in parts if not section.varies)
    fixed = not any(section.varies for section in parts)
    if len(body) < least or (fixed and len(body) > least):
        raise ValueError(f"its body has {len(body)} bytes, its schema says {least}")
    start, leaves = 0, []
    read: dict[int, np.ndarray] = {}
    for section in parts:
        leaf = section.leaf
        dtype = np.dtype(leaf.dtype)
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise ValueError(f"it holds {dtype}, which JAX would narrow; set jax_enable_x64")
        if any(_number(which, read) != number for which, number in section.only_if):
            end, value = start, np.zeros(leaf.shape, dtype)
        elif section.count is None:
            value, end = _read(section, body, start, leaf.shape, dtype)
        else:
            count = int(read[id(section.count)])
            if not 0 <= count <= leaf.shape[0]:
                raise ValueError(f"it claims {count} entries, but has room for {leaf.shape[0]}")
            value = np.zeros(leaf.shape, dtype)
            value[:count], end = _read(section, body, start, (count, *leaf.shape[1:]), dtype)
        read[id(leaf)] = value
        leaves.append(value)
        start = end
    if start != len(body):
        raise ValueError(f"its body has {len(body)} bytes, its contents say {start}")
    parts_of, structure = jax.tree.flatten(form, is_leaf=is_side_information)
    contents = iter(leaves)
    payload = structure.unflatten(
        [p if is_side_information(p) else next(contents) for p in parts_of]
    )
    _check(payload)
    return without_side_information(payload)


def _number(which: Any, read: dict[int, np.ndarray]) -> int:
    """Number of the part that travels, from the bytes read so far or from the receiver."""
    number = read.get(id(which), which)
    if not isinstance(number, ARRAYS):
        raise ValueError(
            "which part travels is for the receiver to know; give from_bytes a payload like the "
            "expected one, whose OneOf.which is a SideInformation of its number"
        )
    return int(number)


def _read(
    section: Section, body: memoryview, start: int, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[np.ndarray, int]:
    """Array of a section that begins at ``start``, and the position where it ends."""
    size, width = math.prod(shape), section.width
    if section.coder is not None:
        numbers, used = read_integers(body[start:], size, section.coder, width)
        return from_numbers(numbers, width, section.ascending, shape, dtype), start + used
    end = start - (-size * width // 8)
    if end > len(body):
        raise ValueError(f"its body has {len(body)} bytes, a section of it ends at {end}")
    return unpack(bytes(body[start:end]), width, shape, dtype), end


def _check(tree: Tree) -> None:
    """Call ``check`` on every payload type of a tree."""
    for part in jax.tree.leaves(tree, is_leaf=lambda part: isinstance(part, Payload)):
        if isinstance(part, Payload):
            part.check()
            # Alternatives that were not sent are zeros, which may be impossible contents.
            with inside(part):
                if isinstance(part, OneOf):
                    _check(part.parts[int(part.number)])
                else:
                    _check([child for _, child in children(part)])
