"""The cost of a payload, derived from its arrays."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fjx._base import Array, TreeLike
from fjx._validate import concrete
from fjx.wire._choices import OneOf
from fjx.wire._coders.bits import WIDEST
from fjx.wire._coders.integers import coded_bits, encode_integers, has_formula
from fjx.wire._coders.sections import as_numbers
from fjx.wire._pack import pack
from fjx.wire._payload import Payload, Ragged
from fjx.wire._side_information import SideInformation
from fjx.wire._trees import Coded


def bits(payload: TreeLike) -> int:
    """Exact size of a payload on the wire, in bits.

    Each array is one section of ``size * width`` bits, padded to a whole byte.  The payload type
    declares the width of its integers (a 4-bit code counts 4).  Every other array has the width of its
    dtype (a bool counts 1).

    Only shapes are read, so ``bits(jax.eval_shape(...))`` prices a codec without running it.  The
    exception is a payload whose length depends on the data (:class:`Ragged`): its shapes give only the
    largest possible size.  :func:`measured_bits` counts the actual size of such a payload inside a
    compiled program.

    Guarantees:
        - ``8 * len(to_bytes(payload)) == bits(payload) + header_bits(to_bytes(payload))``.
        - The result is a Python int and never rounded.  (float32 cannot count past 2^24.)

    Args:
        payload: payload of one client, as arrays or as ``jax.ShapeDtypeStruct``.  A payload with a
            client axis is priced as one array of all clients; use ``jax.eval_shape`` of one encode
            instead.

    Returns:
        The number of bits, a Python int.

    Raises:
        TypeError: a leaf has no wire format (a typed key, an object).
        ValueError: a ragged payload has a client axis.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> message = {"w": jax.ShapeDtypeStruct((1000,), jnp.float32)}
        >>> codec = compressors.quantize(bits=4)
        >>> key = jax.eval_shape(jax.random.key, 0)
        >>> wire.bits(jax.eval_shape(codec.encode, key, message, ())[0])
        4032
    """
    return 8 * _dearest([(part.only_if, part.bytes) for part in sections(payload)])


def _dearest(parts: list[tuple[tuple[tuple[Any, int], ...], int]]) -> int:
    """Total size of the sections; of each set of alternatives only the largest counts.

    Alternatives that are known not to travel have size zero here.
    """
    total = 0
    choices: dict[int, dict[int, list[Any]]] = {}
    for conditions, size in parts:
        if not conditions:
            total += size
            continue
        (which, number), *rest = conditions
        choices.setdefault(id(which), {}).setdefault(number, []).append((tuple(rest), size))
    return total + sum(max(map(_dearest, choice.values())) for choice in choices.values())


def measured_bits(payload: TreeLike) -> Array:
    """Size of a payload in bits, measured inside a compiled program.

    The result equals :func:`bits` of the concrete arrays.

    Args:
        payload: payload of one client, with fewer than 2^32 bits.

    Returns:
        ``u32[]``.

    Raises:
        TypeError: a leaf has no wire format.
        ValueError: the payload has room for 2^32 bits or more, or its coder has no formula for the
            length of its code.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from fjx import compressors, wire
        >>> codec = compressors.top_k(0.5)
        >>> x = jnp.array([1.0, -5.0, 2.0, 0.0])
        >>> jax.jit(lambda x: wire.measured_bits(codec.encode(jax.random.key(0), x, ())[0]))(x)
        Array(72, dtype=uint32)
    """
    if (room := sum(section.room for section in sections(payload))) >= 2**29:
        raise ValueError(
            f"measured_bits counts fewer than 2^32 bits, the payload has room for {8 * room}; "
            "use wire.bits outside of compiled programs"
        )
    total = jnp.uint32(0)
    for section in sections(payload):
        size = jnp.uint32(8 * section.room)
        if section.coder is not None:
            numbers = as_numbers(jnp.asarray(section.leaf), section.width, section.ascending)
            size = coded_bits(numbers, section.coder, width=section.width, count=section.count)
        elif section.count is not None:
            used = jnp.asarray(section.count).astype(jnp.uint32) * jnp.uint32(section.entry)
            size = (used + 7) // 8 * 8
        for which, number in section.only_if:
            size = jnp.where(which == number, size, 0)
        total = total + size
    return total


def is_ragged(payload: TreeLike) -> bool:
    """True if the length of a payload depends on the data and :func:`measured_bits` can count it."""
    parts = list(sections(payload))
    countable = all(part.coder is None or has_formula(part.coder) for part in parts)
    return countable and any(part.varies for part in parts)


class Section(NamedTuple):
    """One array of a payload, as it travels on the wire.

    Attributes:
        leaf: the array.
        width: bits of an element.
        count: array with the number of entries of the first axis that travel; None if all do.
        only_if: pairs of an array and a number.  The section travels only if each array holds its
            number.
        coder: name of the coder of its integers; None if each travels in ``width`` bits.
        ascending: True if the coder writes the gaps between integers.
    """

    leaf: Any
    width: int
    count: Any = None
    only_if: tuple[tuple[Any, int], ...] = ()
    coder: str | None = None
    ascending: bool = False

    @property
    def varies(self) -> bool:
        """True if the number of bits depends on the data."""
        return self.count is not None or bool(self.only_if) or self.coder is not None

    @property
    def entry(self) -> int:
        """Bits of one entry of the first axis."""
        return math.prod(self.leaf.shape[1:]) * self.width

    @property
    def room(self) -> int:
        """Largest number of bytes that may travel.

        Coded integers have one byte more than integers of fixed width: it names the code that was used.
        """
        return -(-math.prod(self.leaf.shape) * self.width // 8) + (self.coder is not None)

    @property
    def bytes(self) -> int:
        """Number of bytes that travel; the largest possible number if only shapes are given."""
        if any(_known(which) and _one(which) != number for which, number in self.only_if):
            return 0
        if self.coder is not None:
            return len(write(self)) if _known(self.leaf) else self.room
        if not _known(self.count):
            return self.room
        return -(-_one(self.count) * self.entry // 8)


def _one(number: Any) -> int:
    """A count, or the number of a part, of the payload of one client."""
    if np.ndim(number):
        raise ValueError(
            "bits and to_bytes need the payload of one client, got a ragged payload with a client "
            "axis; take the clients one by one"
        )
    return int(number)


def write(section: Section) -> bytes:
    """Bytes of a section that travel."""
    if any(_one(which) != number for which, number in section.only_if):
        return b""
    raw = np.asarray(section.leaf)
    if section.count is not None:
        if not raw.ndim:
            raise ValueError("a ragged payload needs an axis of entries, got a single number")
        raw = raw[: _one(section.count)]
    if section.coder is None:
        return pack(raw, section.width)
    numbers = as_numbers(raw, section.width, section.ascending)
    return encode_integers(numbers, section.coder, width=section.width)


def _known(number: Any) -> bool:
    """True for a concrete array."""
    return isinstance(number, jax.Array | np.ndarray | np.generic) and concrete(number)


def sections(
    payload: TreeLike,
    count: Any = None,
    only_if: tuple[tuple[Any, int], ...] = (),
    coder: str | None = None,
) -> Iterator[Section]:
    """Sections of a payload in the order of the wire, which is the order of its leaves."""
    for leaf in jax.tree.leaves(payload, is_leaf=lambda part: isinstance(part, Payload)):
        if not isinstance(leaf, Payload):
            yield Section(leaf, leaf_width(leaf), count, only_if)
            continue
        if isinstance(leaf, OneOf):
            if not isinstance(leaf.which, SideInformation):
                yield Section(leaf.which, leaf_width(leaf.which), None, only_if)
            for number, part in enumerate(leaf.parts):
                yield from sections(part, None, (*only_if, (leaf.number, number)), coder)
            continue
        if isinstance(leaf, SideInformation):
            continue
        if isinstance(leaf, Coded):
            yield from sections(leaf.inner, count, only_if, leaf.coder)
            continue
        widths = leaf.widths()
        cut = leaf.count if isinstance(leaf, Ragged) else count
        for name, part in children(leaf):
            inner = cut if name in leaf.coordinates else None
            if name in widths:
                by = coder if _codable(part, widths[name]) else None
                rises = by is not None and name in leaf.ascending
                yield Section(part, widths[name], inner, only_if, by, rises)
            else:
                yield from sections(part, inner, only_if, coder)


def _codable(leaf: Any, width: Any) -> bool:
    """True if a coder accepts the integers or bools of an array; an empty array has none."""
    return (
        (jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == np.bool_)
        and type(width) is int
        and 1 <= width <= WIDEST
        and 0 not in leaf.shape
    )


def children(node: Any) -> list[tuple[str, Any]]:
    """Direct children of a container or payload with their field names or keys, in order."""
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
        "(for a key, send jax.random.key_data(key))"
    )
